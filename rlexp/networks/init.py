"""Orthogonal initialisation of torsos and heads."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal(layer: Layer, gain: float = 2**0.5) -> Layer:
    """Orthogonal weights, zero bias. Gain √2 for hidden layers, 0.01 for the policy head, 1 for the value head."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
