"""Convolutional torsos for pixels."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlexp.errors import ConfigError
from rlexp.networks.init import Init, initialise


class Pixels(nn.Module):
    """Base of torsos that read images: convolutions, and a linear layer with ReLU.

    Images are channels first (C, H, W), or channels last if the last axis is the shortest and at most 4. Pixels are
    already divided by 255 (see `actor_critic.Encoder`). Raises ConfigError for images of fewer than `least` pixels in
    height or width.
    """

    prefers_loop = True  # on a CPU vmap makes grouped convolutions, which are slower than a loop over agents

    def __init__(
        self, space: spaces.Box, least: int, layers: Callable[[int], nn.Module], features: int, init: Init
    ) -> None:
        super().__init__()
        shape = space.shape
        self.channels_last = len(shape) == 3 and shape[-1] <= 4 and shape[-1] < min(shape[:2])
        if self.channels_last:
            shape = (shape[2], *shape[:2])
        if len(shape) != 3 or min(shape[1:]) < least:
            raise ConfigError(
                f"network {type(self).__name__} cannot read observations of shape {space.shape}: it needs images of at "
                f"least {least}x{least} pixels, (C, H, W) or (H, W, C); use network=mlp"
            )
        self.layers = layers(shape[0])  # from a number of channels to flat features
        with torch.no_grad():
            flat = self.layers(torch.zeros(1, *shape)).shape[1]
        self.head = nn.Sequential(initialise(nn.Linear(flat, features), init), nn.ReLU())
        self.out_features = features

    def forward(self, x: Tensor) -> Tensor:
        """(..., C, H, W) -> (..., features)."""
        if self.channels_last:
            x = x.movedim(-1, -3)
        lead = x.shape[:-3]
        # channels-last memory format, in operations that vmap supports
        images = x.reshape(-1, *x.shape[-3:]).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return self.head(self.layers(images)).reshape(*lead, self.out_features)


class NatureCNN(Pixels):
    """The network of Mnih et al. 2015: three convolutions and a linear layer, each followed by ReLU."""

    def __init__(self, space: spaces.Box, *, features: int = 512, init: Init = "orthogonal") -> None:
        def layers(channels: int) -> nn.Module:
            return nn.Sequential(
                initialise(nn.Conv2d(channels, 32, 8, 4), init),
                nn.ReLU(),
                initialise(nn.Conv2d(32, 64, 4, 2), init),
                nn.ReLU(),
                initialise(nn.Conv2d(64, 64, 3, 1), init),
                nn.ReLU(),
                nn.Flatten(),
            )

        super().__init__(space, 36, layers, features, init)


class ImpalaCNN(Pixels):
    """The residual network of Espeholt et al. 2018 (arXiv 1802.01561), without its LSTM.

    A block of each width: convolution, 3 × 3 maximum of stride 2, two residual layers; then ReLU and a linear layer.
    """

    def __init__(
        self,
        space: spaces.Box,
        *,
        channels: Sequence[int] = (16, 32, 32),
        features: int = 256,
        init: Init = "orthogonal",
    ) -> None:
        def layers(first: int) -> nn.Module:
            blocks = [_Block(before, after, init) for before, after in pairwise([first, *channels])]
            return nn.Sequential(*blocks, nn.ReLU(), nn.Flatten())

        super().__init__(space, 8, layers, features, init)


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
