"""Random numbers of a loss: functions of a key and of where they stand, so that any run draws the same again.

A generator's next number depends on what was drawn before, and by whom; these depend on the agent's key of the
minibatch, on the number of the call in the loss and on the element alone. The hash is a 32-bit one of C. Wellons'
hash-prospector, with multipliers below 2^31, so that products fit in int64, twice, with half of the key before each.
"""

import math

import torch
from torch import Tensor
from torch._C import _functorch

from rlexp.errors import ObjectiveError

_MASK = 0xFFFFFFFF
_DIGITS = {torch.float64: 24, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}  # binary ones that a type holds


def _mix(x: Tensor) -> Tensor:
    """A permutation of 32-bit numbers, held in int64, after which neighbours have nothing in common."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def _constants(draw: int) -> tuple[int, int]:
    """What a call adds to either half of the key: SplitMix64 (Steele, Lea and Flood 2014) of its number."""
    z = (draw * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    z ^= z >> 31
    return z & _MASK, z >> 32


def _bits(x: Tensor, key: Tensor, draw: int) -> Tensor:
    """Random integers in [0, 2^24), of the shape of x.

    Few numbers are used twice here: a compiler that writes out each use anew doubles its work at every one.
    """
    first, second = _constants(draw)
    index = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    return _mix(_mix(index ^ ((key & 0x7FFFFFFF) + first & _MASK)) ^ ((key >> 31) + second & _MASK)) >> 8


def uniform(x: Tensor, key: Tensor, draw: int) -> Tensor:
    """Uniform in [0, 1), of the shape, type and device of x. key: in [0, 2^62), (); draw: number of the call."""
    digits = _DIGITS[x.dtype]
    return (_bits(x, key, 2 * draw) >> (24 - digits)).to(x.dtype) * 2.0**-digits


def normal(x: Tensor, key: Tensor, draw: int) -> Tensor:
    """Standard normal numbers (Box and Muller 1958), likewise."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    radius = (-2.0 * ((_bits(x, key, 2 * draw).to(wide) + 1.0) * 2.0**-24).log()).sqrt()
    return (radius * (2.0 * math.pi * _bits(x, key, 2 * draw + 1).to(wide) * 2.0**-24).cos()).to(x.dtype)


def depth() -> int:
    """How many `torch.vmap` stand around what is running."""
    stack = _functorch.get_interpreter_stack() or []
    return sum(level.key() == _functorch.TransformType.Vmap for level in stack)


def require_drawable(x: Tensor, depth_of_loss: int) -> None:
    """Refuse draws that would not be random numbers.

    Args:
        x: what numbers are to be like.
        depth_of_loss: `depth` where the loss began.

    Raises:
        ObjectiveError: numbers of another type than floats, or a draw that a transform would repeat, or make anew.
    """
    if x.dtype not in _DIGITS:
        raise ObjectiveError(f"policy.rand_like and randn_like give floats, not {x.dtype}: draw like x.float()")
    if depth() > depth_of_loss:
        raise ObjectiveError(
            "policy.rand_like and randn_like would draw the same numbers in each row of torch.vmap: draw before it, "
            "and hand the numbers in"
        )
    if torch._C._current_graph_task_id() != -1:
        raise ObjectiveError(
            "policy.rand_like and randn_like would draw other numbers when torch.utils.checkpoint runs this again: "
            "draw outside of it, and hand the numbers in"
        )
