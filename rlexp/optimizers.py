"""Optimizers of agents trained as one computation: how they behave, which is tried out, and what they keep.

Agents side by side are stacked in one tensor a parameter (a, ...); one agent alone is not (a = 1).
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from rlexp.errors import ConfigError

Make = Callable[..., torch.optim.Optimizer]

SHAPES: tuple[tuple[int, ...], ...] = ((3, 4), (4,), ())  # of one agent's parameters: a matrix, a bias, a scalar
SIGNS = (1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0)  # of the gradients, step by step
RATES = (1e-6, 0.1)  # small and large, as some optimizers have bounds on their steps


@dataclass(frozen=True)
class Traits:
    """How an optimizer behaves."""

    elementwise: bool  # agents stacked in one tensor go where each would go alone
    proportional: bool  # steps are proportional to the learning rate
    recordable: bool  # all its memory is tensors, so that a compiled graph can hold its step


def traits(settings: Mapping[str, Any]) -> Traits:
    """Traits of the optimizer of a config group `optimizer`, whose `lr` is left out.

    Raises:
        ConfigError: it cannot be made, cannot step by gradients alone, or keeps state that no checkpoint holds.
    """
    return _traits(json.dumps({key: value for key, value in settings.items() if key != "lr"}, default=str))


@functools.cache
def _traits(settings: str) -> Traits:
    plain = json.loads(settings)
    try:
        make: Make = instantiate(OmegaConf.create(plain), _convert_="all")
        alone = [_parameters_after(make, [agent], lr) for agent in (0, 1) for lr in RATES]
        recordable = _is_recordable(make)
    except Exception as error:  # whatever somebody else's optimizer raises
        line = " ".join(str(error).split())
        raise ConfigError(f"optimizer._target_={plain.get('_target_')}: cannot be used here: {line}") from error
    try:
        together = [_parameters_after(make, [0, 1], lr) for lr in RATES]
    except Exception:  # it takes no stacked parameters, but one agent's it does
        return Traits(False, _is_proportional(make), recordable)
    of_each = [[x[agent : agent + 1] for x in params] for agent in (0, 1) for params in together]
    same = all(
        torch.allclose(one, other, rtol=1e-6, atol=1e-12)
        for own, stacked in zip(alone, of_each, strict=True)
        for one, other in zip(own, stacked, strict=True)
    )
    return Traits(same, _is_proportional(make), recordable)


def _parameters_after(make: Make, agents: list[int], lr: float) -> list[Tensor]:
    """Parameters (agents, ...) after some steps: of one agent as it trains alone, of several stacked."""

    def draw(seed: int, scale: float) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]

    def join(own: list[list[Tensor]]) -> list[Tensor]:
        return own[0] if len(own) == 1 else [torch.stack(each) for each in zip(*own, strict=True)]

    # the second agent's numbers are far larger, so that whatever mixes agents shows
    params = [x.requires_grad_() for x in join([draw(agent, 10.0**agent) for agent in agents])]
    optimizer = make(params, lr=lr)
    for step, sign in enumerate(SIGNS):
        grads = join([draw(10 + 10 * step + agent, sign * 1000.0**agent) for agent in agents])
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.where(grad.abs() < 0.2, 0.0, grad)
        optimizer.step()
    for state in optimizer.state.values():
        for key, value in state.items():
            if not isinstance(value, Tensor | int | float | None):
                raise TypeError(f"its state {key!r} is a {type(value).__name__}, which no checkpoint holds")
            if len(agents) > 1 and isinstance(value, Tensor) and value.dim() and value.shape[0] != len(agents):
                raise TypeError(f"its state {key!r} is not kept agent by agent")
    return [param.detach() if len(agents) > 1 else param.detach()[None] for param in params]


def _is_recordable(make: Make) -> bool:
    """Whether nothing but tensors of its state changes when it steps.

    Raises:
        TypeError: it counts in an attribute of its own, which no checkpoint holds.
    """

    def numbers(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        own = {key: x for key, x in vars(optimizer).items() if type(x) in (int, float) and not key.startswith("_")}
        return own, {key: repr(x) for key, x in optimizer.param_groups[0].items() if key != "params"}

    param = torch.ones(2, requires_grad=True)
    optimizer = make([param], lr=0.1)
    own, shared = numbers(optimizer)
    for _ in range(2):
        param.grad = torch.ones(2)
        optimizer.step()
    changed = [key for key, x in numbers(optimizer)[0].items() if own.get(key) != x]
    if changed:
        raise TypeError(f"it counts in its attribute {changed[0]}, which no checkpoint holds")
    return numbers(optimizer)[1] == shared and all(
        isinstance(x, Tensor | None) for state in optimizer.state.values() for x in state.values()
    )


def _is_proportional(make: Make) -> bool:
    """Whether the tenth part of each step at ten times the learning rate goes the same way.

    Steps of Adam and SGD are proportional to it; those of Rprop are not, by its bounds on them.
    """

    def last_step(lr: float, pace: float) -> Tensor:
        param = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
        optimizer, old = make([param], lr=lr), param.detach()
        for sign in SIGNS:
            old = param.detach().clone()
            param.grad = sign * torch.tensor([0.1, 2.0, -30.0], dtype=torch.float64)
            optimizer.step()
            with torch.no_grad():
                param.copy_(old + pace * (param - old))
        return param.detach() - old

    return all(torch.allclose(last_step(10 * lr, 0.1), last_step(lr, 1.0), rtol=1e-6, atol=1e-15) for lr in RATES)


# State, agent by agent ------------------------------------------------------------------------------------------------

SHARED = ""  # in place of a parameter's name: numbers that the optimizer keeps of all


def kept_by_agent(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], agents: int
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """What an optimizer keeps, (a, ...): tensors and numbers of each parameter, and numbers that all share.

    What agents share, as step counts, is there once for each.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    numbers = {SHARED: _numbers(optimizer.param_groups[0], agents)}
    for name, param in params.items():
        state = optimizer.state[param]
        numbers[name] = _numbers(state, agents)
        tensors[name] = {
            key: x[None] if agents == 1 else x if x.shape == param.shape else x.expand(agents).clone()
            for key, x in state.items()
            if isinstance(x, Tensor)
        }
    return {"tensors": tensors, "numbers": numbers}


def _numbers(values: Mapping[str, Any], agents: int) -> dict[str, Tensor]:
    """Plain numbers among values, (a,) each."""
    kinds = {int: torch.int64, float: torch.float64}
    plain = {key: x for key, x in values.items() if type(x) in kinds and key != "lr"}
    return {key: torch.tensor([x] * agents, dtype=kinds[type(x)]) for key, x in plain.items()}


def restore(
    optimizer: torch.optim.Optimizer,
    params: Mapping[str, Tensor],
    agents: int,
    saved: dict[str, dict[str, dict[str, Tensor]]],
) -> None:
    """Put an optimizer where `kept_by_agent` found another of the same make."""
    tensors, numbers = saved["tensors"], saved["numbers"]
    # of a stacked parameter without axes, (a,), only other parameters' shapes tell what is its own and what is shared
    matrices = [name for name, param in params.items() if param.dim() > 1]
    own = {key for name in matrices for key, x in tensors[name].items() if x.dim() > 1}
    states: dict[int, dict[str, Any]] = {}
    for index, (name, param) in enumerate(params.items()):
        state: dict[str, Any] = {
            key: x if agents > 1 and key in own and x.shape == param.shape else x[0] for key, x in tensors[name].items()
        }
        state |= {key: x[0].item() for key, x in numbers[name].items()}
        if state:
            states[index] = state
    groups = optimizer.state_dict()["param_groups"]
    groups[0] |= {key: x[0].item() for key, x in numbers[SHARED].items()}
    optimizer.load_state_dict({"state": states, "param_groups": groups})
