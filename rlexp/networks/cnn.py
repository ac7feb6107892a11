"""Convolutional torso for pixels."""

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
        shape = space.shape
        self.channels_last = len(shape) == 3 and shape[-1] <= 4 and shape[-1] < min(shape[:2])
        if self.channels_last:
            shape = (shape[2], *shape[:2])
        if len(shape) != 3 or min(shape[1:]) < 36:
            raise ConfigError(
                f"network NatureCNN cannot read observations of shape {space.shape}: it needs images of at least "
                "36x36 pixels, (C, H, W) or (H, W, C); use network=mlp"
            )
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
        if self.channels_last:
            x = x.movedim(-1, -3)
        lead = x.shape[:-3]
        # channels-last memory format, in operations that vmap supports
        images = x.reshape(-1, *x.shape[-3:]).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return self.head(self.layers(images)).reshape(*lead, self.out_features)
