"""Fully connected torso."""

import itertools
import math
from collections.abc import Sequence

from gymnasium import spaces
from torch import Tensor, nn

from rlexp.errors import ConfigError
from rlexp.networks.init import Init, initialise

ACTIVATIONS = {kind.__name__.lower(): kind for kind in (nn.Tanh, nn.ReLU, nn.ELU, nn.SiLU, nn.GELU)}


class MLP(nn.Module):
    """Linear layers, each followed by an activation; observations are flattened first.

    Raises ConfigError for an unknown activation or a width below 1.
    """

    def __init__(
        self,
        space: spaces.Box,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        init: Init = "orthogonal",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"network activation {activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
        if not all(isinstance(width, int) and width >= 1 for width in hidden):
            raise ConfigError(f"network hidden={list(hidden)}: widths must be integers of at least 1, e.g. [64,64]")
        self.event_dims = len(space.shape)
        widths = [math.prod(space.shape), *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [initialise(nn.Linear(fan_in, fan_out), init), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.out_features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(..., *space.shape) -> (..., hidden[-1])."""
        return self.layers(x if self.event_dims == 1 else x.flatten(-self.event_dims))
