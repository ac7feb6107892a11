"""Initialisation of torsos and heads."""

from typing import Literal, TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
Init = Literal["orthogonal", "torch"]


def initialise(layer: Layer, init: Init, gain: float = 2**0.5) -> Layer:
    """Orthogonal weights and zero bias, with gain √2 for hidden layers, 0.01 for the policy head, 1 for the value head.

    init: torch leaves torch's own initialisation.
    """
    if init == "orthogonal":
        nn.init.orthogonal_(layer.weight, gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer
