"""A small network of an objective's own, from raw observations to numbers."""

from typing import Any

from gymnasium import spaces
from torch import Tensor, nn

from rlexp.networks.actor_critic import Encoder
from rlexp.networks.cnn import NatureCNN
from rlexp.networks.mlp import MLP, PICTURE
from rlexp.networks.normalizer import ObservationNormalizer


class Reader(nn.Module):
    """Raw observations to numbers (..., outputs): NatureCNN for pictures, else an MLP of ReLUs, and a linear layer.

    Observations are normalised by running statistics and clipped to ±5; discrete ones are one-hot.
    """

    def __init__(self, space: spaces.Space, hidden: list[int], outputs: int) -> None:
        super().__init__()
        self.encode: nn.Module
        self.scalar = isinstance(space, spaces.Box) and not space.shape
        if isinstance(space, spaces.Box):
            self.encode = ObservationNormalizer(space.shape, clip=5.0)
            read = spaces.Box(-5.0, 5.0, space.shape or (1,))
        else:
            encoder = Encoder(space, normalize=False, clip=0.0)
            self.encode, read = encoder, encoder.space
        picture = len(read.shape) == 3 and sorted(read.shape)[1] >= PICTURE
        self.torso: nn.Module = NatureCNN(read) if picture else MLP(read, hidden=hidden, activation="relu")
        width: Any = self.torso.out_features
        self.head = nn.Linear(width, outputs)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., *space.shape) -> (..., outputs)."""
        x = self.encode(obs)
        return self.head(self.torso(x.unsqueeze(-1) if self.scalar else x))
