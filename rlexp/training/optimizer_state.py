"""What an optimizer keeps, agent by agent, and back.

Agents side by side are stacked in one tensor a parameter (a, ...); one agent alone is not (a = 1).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Kept = dict[str, dict[str, dict[str, Tensor]]]

NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}
# of a group: its parameters, what is set before each update, and how steps are computed, which is the device's affair
NOT_KEPT = ("params", "lr", "capturable", "foreach", "fused", "differentiable")


def _places(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> Iterator[tuple[str, Any, Tensor | None]]:
    """What an optimizer keeps things in, by a name that stays: each parameter's state, and its groups' settings."""
    for number, group in enumerate(optimizer.param_groups):
        yield f"#{number}", group, None  # no parameter is named so
    for name, param in params.items():
        yield name, optimizer.state[param], param


def kept_by_agent(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], agents: int) -> Kept:
    """What an optimizer keeps, (a, ...): tensors and numbers, of each parameter and of each group.

    What agents share, as step counts, is there once for each; None is an empty row.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    numbers: dict[str, dict[str, Tensor]] = {}
    for name, held, param in _places(optimizer, params):
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
    """Put an optimizer where `kept_by_agent` found another of the same make."""
    tensors, numbers = saved["tensors"], saved["numbers"]
    # of a stacked parameter without axes, (a,), only other parameters' shapes tell what is its own and what is shared
    matrices = [name for name, param in params.items() if param.dim() > 1]
    own = {
        key for name in matrices for key, x in tensors[name].items() if x.dim() > 1 and x.shape == params[name].shape
    }
    flags = [group.get("capturable") or group.get("fused") for group in optimizer.param_groups]
    for name, held, param in _places(optimizer, params):
        stacked = agents > 1 and param is not None
        for key, x in tensors[name].items():
            is_own = stacked and param is not None and key in own and x.shape == param.shape
            mine = x if is_own else x[0]
            on_device = param is not None and (mine.dim() > 0 or any(flags))  # counts stay on the host otherwise
            mine = mine.to(param.device) if on_device and param is not None else mine
            held[key] = mine.clone(memory_format=torch.contiguous_format)
        for key, x in numbers[name].items():
            held[key] = x[0].item() if x.dim() == 1 else None
