"""Initialisation shared by torsos and heads."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal(layer: Layer, gain: float = 2**0.5) -> Layer:
    """Orthogonal weights of that gain, zero bias: √2 for hidden layers, 0.01 for the policy, 1 for the value."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
