"""Optimizer state, split by agent for checkpoints, and restored; a step as a function of it.

Agents side by side are stacked, one tensor per parameter (a, ...); a single agent is not (a = 1).
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

AVERAGE = "average"  # key of a parameter's average, beside the optimizer's own
Kept = dict[str, dict[str, dict[str, Tensor]]]

NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}
# keys of a parameter group: parameters, values set before each update, and device-dependent implementation flags
NOT_KEPT = ("params", "lr", "capturable", "foreach", "fused", "differentiable")


def _holders(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]
) -> Iterator[tuple[str, Any, Tensor | None]]:
    """The dictionaries that hold an optimizer's state, under stable names: parameter groups and per-parameter state."""
    for number, group in enumerate(optimizer.param_groups):
        yield f"#{number}", group, None  # not a valid parameter name
    for name, param in params.items():
        yield name, optimizer.state[param], param


def state_by_agent(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], agents: int) -> Kept:
    """An optimizer's state (a, ...): tensors and numbers of each parameter and each group.

    Shared values, such as step counts, are repeated per agent; None is an empty row.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    numbers: dict[str, dict[str, Tensor]] = {}
    for name, held, param in _holders(optimizer, params):
        plain = {key: x for key, x in held.items() if not (param is None and key in NOT_KEPT)}
        tensors[name] = {key: _by_agent(x, param, agents) for key, x in plain.items() if isinstance(x, Tensor)}
        numbers[name] = {
            key: torch.tensor([x] * agents, dtype=NUMBERS[type(x)]) for key, x in plain.items() if type(x) in NUMBERS
        }
        numbers[name] |= {key: torch.zeros(agents, 0) for key, x in plain.items() if x is None}
    return {"tensors": tensors, "numbers": numbers}


def _by_agent(x: Tensor, param: Tensor | None, agents: int) -> Tensor:
    if agents == 1:
        return x[None]
    return x if param is not None and x.shape == param.shape else x.expand(agents, *x.shape).clone()


def restore(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], agents: int, saved: Kept) -> None:
    """Restore the result of `state_by_agent` into an optimizer of the same kind."""
    tensors, numbers = saved["tensors"], saved["numbers"]
    # for a stacked scalar parameter (a,), only other parameters' shapes show which state is per agent and which shared
    matrices = [name for name, param in params.items() if param.dim() > 1]
    per_agent = {
        key for name in matrices for key, x in tensors[name].items() if x.dim() > 1 and x.shape == params[name].shape
    }
    flags = [group.get("capturable") or group.get("fused") for group in optimizer.param_groups]
    for name, held, param in _holders(optimizer, params):
        stacked = agents > 1 and param is not None
        for key, x in tensors[name].items():
            is_per_agent = stacked and param is not None and key in per_agent and x.shape == param.shape
            value = x if is_per_agent else x[0]
            on_device = param is not None and (value.dim() > 0 or any(flags))  # else counts stay on the host
            value = value.to(param.device) if on_device and param is not None else value
            held[key] = value.clone(memory_format=torch.contiguous_format)
        for key, x in numbers[name].items():
            held[key] = x[0].item() if x.dim() == 1 else None


def recorded_step(
    make: Callable[..., torch.optim.Optimizer],
    params: list[Tensor],
    states: list[dict[str, Any]],
    lr: Tensor,
    options: Mapping[str, Any],
) -> Callable[[], Any]:
    """An optimizer step as a function of tensors alone, by a temporary optimizer over these parameters and states.

    The step is unwrapped from the profiler and autograd hooks. Returns a callable that makes it.
    """
    optimizer = make(params, lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = lr
        group.update({name: value for name, value in options.items() if name in group})
    optimizer.state.update(zip(params, states, strict=True))
    step = inspect.unwrap(type(optimizer).step)
    return functools.partial(step, optimizer)
