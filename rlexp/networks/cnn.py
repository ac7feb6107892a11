"""Convolutional torsos for pixels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlexp.errors import ConfigError
from rlexp.networks.init import Init, initialise


class NatureCNN(nn.Module):
    """The network of Mnih et al. 2015: three convolutions and a linear layer, each followed by ReLU.

    Images are channels first (C, H, W), or channels last if the last axis is the shortest and at most 4. Pixels are
    already divided by 255 (see `actor_critic.Encoder`). Raises ConfigError for images below 36 × 36 pixels.
    """

    prefers_loop = True  # on a CPU vmap makes grouped convolutions, which are slower than a loop over agents

    def __init__(self, space: spaces.Box, *, features: int = 512, init: Init = "orthogonal") -> None:
        super().__init__()
        self.channels_last, shape = _image(space, "NatureCNN", 36)
        self.layers = nn.Sequential(
            initialise(nn.Conv2d(shape[0], 32, 8, 4), init),
            nn.ReLU(),
            initialise(nn.Conv2d(32, 64, 4, 2), init),
            nn.ReLU(),
            initialise(nn.Conv2d(64, 64, 3, 1), init),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.layers(torch.zeros(1, *shape)).shape[1]
        self.head = nn.Sequential(initialise(nn.Linear(flat, features), init), nn.ReLU())
        self.out_features = features

    def forward(self, x: Tensor) -> Tensor:
        """(..., C, H, W) -> (..., features)."""
        images, lead = _rows_of_images(x, self.channels_last)
        return self.head(self.layers(images)).reshape(*lead, self.out_features)


class ImpalaCNN(nn.Module):
    """The residual network of Espeholt et al. 2018 (arXiv 1802.01561), without its LSTM.

    A block of each width: convolution, 3 × 3 maximum of stride 2, two residual layers; then ReLU and a linear layer
    with ReLU. Images as `NatureCNN`'s, but from 8 × 8 pixels on.
    """

    prefers_loop = True

    def __init__(
        self,
        space: spaces.Box,
        *,
        channels: Sequence[int] = (16, 32, 32),
        features: int = 256,
        init: Init = "orthogonal",
    ) -> None:
        super().__init__()
        self.channels_last, shape = _image(space, "ImpalaCNN", 8)
        blocks = [_Block(before, after, init) for before, after in pairwise([shape[0], *channels])]
        self.layers = nn.Sequential(*blocks, nn.ReLU(), nn.Flatten())
        with torch.no_grad():
            flat = self.layers(torch.zeros(1, *shape)).shape[1]
        self.head = nn.Sequential(initialise(nn.Linear(flat, features), init), nn.ReLU())
        self.out_features = features

    def forward(self, x: Tensor) -> Tensor:
        """(..., C, H, W) -> (..., features)."""
        images, lead = _rows_of_images(x, self.channels_last)
        return self.head(self.layers(images)).reshape(*lead, self.out_features)


class _Block(nn.Module):
    """A convolution, a maximum that halves the image, and two residual layers."""

    def __init__(self, before: int, after: int, init: Init) -> None:
        super().__init__()
        self.first = initialise(nn.Conv2d(before, after, 3, padding=1), init)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.residuals = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                initialise(nn.Conv2d(after, after, 3, padding=1), init),
                nn.ReLU(),
                initialise(nn.Conv2d(after, after, 3, padding=1), init),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, after, ⌈H/2⌉, ⌈W/2⌉)."""
        x = self.pool(self.first(x))
        for residual in self.residuals:
            x = x + residual(x)
        return x


def _image(space: spaces.Box, name: str, least: int) -> tuple[bool, tuple[int, ...]]:
    """Whether channels are the last axis of a space's images, and their shape (C, H, W)."""
    shape = space.shape
    channels_last = len(shape) == 3 and shape[-1] <= 4 and shape[-1] < min(shape[:2])
    if channels_last:
        shape = (shape[2], *shape[:2])
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ConfigError(
            f"network {name} cannot read observations of shape {space.shape}: it needs images of at least "
            f"{least}x{least} pixels, (C, H, W) or (H, W, C); use network=mlp"
        )
    return channels_last, shape


def _rows_of_images(x: Tensor, channels_last: bool) -> tuple[Tensor, tuple[int, ...]]:
    """Images (..., C, H, W) or (..., H, W, C) as (N, C, H, W), and their leading dimensions."""
    if channels_last:
        x = x.movedim(-1, -3)
    # channels-last memory format, in operations that vmap supports
    images = x.reshape(-1, *x.shape[-3:]).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return images, x.shape[:-3]
