"""Torsos: modules that read one observation space and return features (..., out_features).

A torso is named in conf/network/*.yaml by `_target_` with `_partial_: true` and called with the Box space it reads;
leading dimensions of its input are free.
"""

from rlexp.networks.cnn import NatureCNN
from rlexp.networks.mlp import MLP

__all__ = ["MLP", "NatureCNN"]
