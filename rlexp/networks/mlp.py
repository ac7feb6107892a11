"""Fully connected torso."""

import itertools
import math
from collections.abc import Sequence

from gymnasium import spaces
from torch import Tensor, nn

from rlexp.errors import ConfigError
from rlexp.networks.init import Init, initialise

PICTURE = 36  # pixels of the shorter side from which on an observation is a picture: what NatureCNN can read
ACTIVATIONS = {kind.__name__.lower(): kind for kind in (nn.Tanh, nn.ReLU, nn.ELU, nn.SiLU, nn.GELU)}


class MLP(nn.Module):
    """Linear layers, each followed by an activation; observations are flattened first.

    Raises ConfigError for an unknown activation, a width below 1, or images that a convolutional network is meant for.
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
        if len(space.shape) == 3 and sorted(space.shape)[1] >= PICTURE:
            what = f"images of shape {space.shape} as {math.prod(space.shape):,} numbers"
            raise ConfigError(f"network MLP would read {what}; use network=nature_cnn, or flatten them by env.wrappers")
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
