"""Torsos: modules that map observations to features (..., out_features).

conf/network/*.yaml names a torso by `_target_` with `_partial_: true`; it is called with the Box space of its input,
which may have any leading dimensions.
"""

from rlexp.networks.cnn import ImpalaCNN, NatureCNN
from rlexp.networks.mlp import MLP

__all__ = ["MLP", "ImpalaCNN", "NatureCNN"]
