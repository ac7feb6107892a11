"""Counter-based random numbers for losses: pure functions of a key, reproducible in any run.

A generator's next number depends on everything drawn before; these depend only on the agent's key of the minibatch,
the index of the call in the loss and the index of the element. The hash is a 32-bit one of C. Wellons'
hash-prospector, with multipliers below 2^31, so that products fit in int64; it is applied twice, each time after
mixing in half of the key.
"""

import math

import torch
from torch import Tensor
from torch._C import _functorch

from rlexp.errors import ObjectiveError

_MASK = 0xFFFFFFFF
_DIGITS = {torch.float64: 24, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}  # random bits per dtype


def _mix(x: Tensor) -> Tensor:
    """A permutation of 32-bit numbers, held in int64, that decorrelates neighbours."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def _constants(draw: int) -> tuple[int, int]:
    """Offsets of both halves of the key for a draw: SplitMix64 (Steele, Lea and Flood 2014) of its index."""
    z = (draw * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    z ^= z >> 31
    return z & _MASK, z >> 32


def _bits(x: Tensor, key: Tensor, draw: int, start: int) -> Tensor:
    """Random integers in [0, 2^24), of the shape of x.

    Few intermediates are used twice here: a compiler that inlines each use doubles its work every time.
    """
    first, second = _constants(draw)
    index = torch.arange(start, start + x.numel(), device=x.device).reshape(x.shape)
    return _mix(_mix(index ^ ((key & 0x7FFFFFFF) + first & _MASK)) ^ ((key >> 31) + second & _MASK)) >> 8


def uniform(x: Tensor, key: Tensor, draw: int, start: int = 0) -> Tensor:
    """Uniform in [0, 1), of the shape, dtype and device of x.

    key: in [0, 2^62), (); draw: index of the call; start: index of the first element, in a part of a larger tensor.
    """
    digits = _DIGITS[x.dtype]
    return (_bits(x, key, 2 * draw, start) >> (24 - digits)).to(x.dtype) * 2.0**-digits


def normal(x: Tensor, key: Tensor, draw: int, start: int = 0) -> Tensor:
    """Standard normal numbers (Box and Muller 1958); arguments as for `uniform`."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    radius = (-2.0 * ((_bits(x, key, 2 * draw, start).to(wide) + 1.0) * 2.0**-24).log()).sqrt()
    return (radius * (2.0 * math.pi * _bits(x, key, 2 * draw + 1, start).to(wide) * 2.0**-24).cos()).to(x.dtype)


def depth() -> int:
    """Number of enclosing `torch.vmap` calls."""
    stack = _functorch.get_interpreter_stack() or []
    return sum(level.key() == _functorch.TransformType.Vmap for level in stack)


def require_drawable(x: Tensor, depth_of_loss: int) -> None:
    """Raise ObjectiveError if x is not a float tensor, or if a transform would repeat or redo the draw.

    depth_of_loss: `depth` at the start of the loss.
    """
    if x.dtype not in _DIGITS:
        raise ObjectiveError(f"policy.rand_like and randn_like need a float tensor, not {x.dtype}: use x.float()")
    if depth() > depth_of_loss:
        raise ObjectiveError(
            "policy.rand_like and randn_like would draw the same numbers in each row of torch.vmap: draw before it, "
            "and pass the numbers in"
        )
    if torch._C._current_graph_task_id() != -1:
        raise ObjectiveError(
            "policy.rand_like and randn_like would draw other numbers when torch.utils.checkpoint recomputes this: "
            "draw outside of it, and pass the numbers in"
        )
