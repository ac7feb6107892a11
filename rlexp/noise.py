"""Random numbers of a loss: functions of a key and of where they stand, so that any run draws the same again.

A generator's next number depends on what was drawn before, and by whom; these depend on the agent's key of the
minibatch, on the number of the call in the loss and on the element alone. The hash is a 32-bit one of C. Wellons'
hash-prospector, with multipliers below 2^31, so that products fit in int64.
"""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """A permutation of 32-bit numbers, held in int64, after which neighbours have nothing in common."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def _bits(x: Tensor, key: Tensor, draw: int) -> Tensor:
    """Random integers in [0, 2^24), of the shape of x."""
    stream = _mix(_mix(_mix(key & _MASK) ^ (key >> 32)) ^ draw)
    index = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    return _mix(_mix(index ^ stream) ^ (stream >> 3) ^ 0x5BD1E995) >> 8


def uniform(x: Tensor, key: Tensor, draw: int) -> Tensor:
    """Uniform in [0, 1), of the shape, type and device of x. key: in [0, 2^62), (); draw: number of the call."""
    return _bits(x, key, 2 * draw).to(x.dtype) * 2.0**-24


def normal(x: Tensor, key: Tensor, draw: int) -> Tensor:
    """Standard normal numbers (Box and Muller 1958), likewise."""
    radius = (-2.0 * ((_bits(x, key, 2 * draw).to(x.dtype) + 1.0) * 2.0**-24).log()).sqrt()
    return radius * (2.0 * math.pi * _bits(x, key, 2 * draw + 1).to(x.dtype) * 2.0**-24).cos()
