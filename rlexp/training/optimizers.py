"""Tests how an optimizer, possibly third-party, behaves with stacked agents, compiled graphs and checkpoints.

Agents side by side are stacked, one tensor per parameter (a, ...); a single agent is not (a = 1).
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from rlexp.compiling.compile import recording
from rlexp.errors import ConfigError
from rlexp.seeding import NoRandomness
from rlexp.training.optimizer_state import kept_by_agent, restore

Make = Callable[..., torch.optim.Optimizer]
Shapes = Sequence[tuple[int, ...]]

SHAPES: Shapes = ((3, 4), (4,), ())  # of one agent's parameters: a matrix, a bias, a scalar
AGENTS = 5
SIGNS = (1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0)  # of the gradients, step by step
RATES = (1e-6, 0.1)  # small and large, as some optimizers bound their steps
GRAPH = {"capturable": True, "foreach": False, "fused": False}  # options of an optimizer in a CPU graph


@dataclass(frozen=True)
class Traits:
    """How an optimizer behaves."""

    elementwise: bool  # stacked agents move exactly as each would alone
    proportional: bool  # steps are proportional to the learning rate, even when it changes
    follows_lr: bool  # uses the current learning rate, so that schedules have an effect
    recordable: bool  # a step reads and writes only parameters and state, so that it can be part of a compiled graph


def traits(settings: Mapping[str, Any]) -> Traits:
    """Traits of the optimizer of a config group `optimizer`; `lr` is ignored.

    Raises:
        ConfigError: it cannot be made, needs more than gradients, or has state that no checkpoint contains.
    """
    return _traits(json.dumps({key: value for key, value in settings.items() if key != "lr"}, default=str))


@functools.cache
def _traits(settings: str) -> Traits:
    plain = json.loads(settings)
    name = f"optimizer._target_={plain.get('_target_')}"
    try:
        make: Make = instantiate(OmegaConf.create(plain), _convert_="all")
        with NoRandomness(f"{name}: the optimizer"):
            alone = _simulate(make, [0], RATES[1])
        follows_lr = _follows_lr(make)
        again = _simulate(make, [0], RATES[1], reloaded=True)
    except ConfigError:
        raise
    except Exception as error:  # third-party optimizers may raise anything
        line = " ".join(str(error).split())
        if isinstance(error, TypeError) and "'closure'" in line:
            line = "its step needs a closure that recomputes the loss, and such optimizers are not supported"
        raise ConfigError(f"{name}: cannot be used here: {line}") from error
    if not all(torch.equal(one, other) for one, other in zip(alone, again, strict=True)):
        raise ConfigError(
            f"{name}: cannot be used here: it has state that no checkpoint contains; keep it in self.state[param]"
        )
    return Traits(
        elementwise=stacks_exactly(make, SHAPES, AGENTS),
        proportional=_is_proportional(make),
        recordable=_is_recordable(make, alone),
        follows_lr=follows_lr,
    )


def stacks_exactly(make: Make, shapes: Shapes, agents: int, steps: int = len(SIGNS)) -> bool:
    """Whether stacked agents with parameters of these shapes move as each would alone, for that many steps."""
    for rate in RATES:
        how: dict[str, Any] = {"shapes": shapes, "steps": steps}
        try:
            stacked = _simulate(make, list(range(agents)), rate, **how)
        except Exception:  # it supports one agent's parameters, but not stacked ones
            return False
        for agent in {0, 1, agents - 1}:
            alone = _simulate(make, [agent], rate, **how)
            if not _close(alone, [x[agent : agent + 1] for x in stacked]):
                return False
    return True


def _close(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-6, atol: float = 1e-12) -> bool:
    return all(torch.allclose(x, y, rtol=rtol, atol=atol) for x, y in zip(ours, theirs, strict=True))


def _is_recordable(make: Make, expected: list[Tensor]) -> bool:
    try:  # in a graph step counts are float32; a difference may be a thousandth of a value, or of a step
        return _close(_simulate(make, [0], RATES[1], as_graph=True), expected, rtol=1e-3, atol=1e-3 * RATES[1])
    except Exception:  # it would fail the same way when recorded
        return False


def recorded_step(make: Make, params: list[Tensor], states: list[dict[str, Any]], lr: Tensor, options: Any) -> Any:
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


def _simulate(
    make: Make,
    agents: list[int],
    rates: float | Sequence[float],
    *,
    shapes: Shapes = SHAPES,
    steps: int = len(SIGNS),
    reloaded: bool = False,
    as_graph: bool = False,
    lr_scales: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Parameters after some steps (agents, ...): unstacked for one agent, stacked for several.

    Args:
        make: makes the optimizer.
        agents: seeds of synthetic parameters and gradients, of very different scales, so that mixing agents shows.
        rates: learning rate, or one per step.
        shapes: of one agent's parameters.
        steps: number of steps.
        reloaded: halfway, move the state to a new optimizer.
        as_graph: after the first step, use `recorded_step`, as a compiled graph does.
        lr_scales: for each step, each agent's learning rate relative to `rates` (agents,).
    """

    def draw(seed: int, scale: float) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        numbers = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        return [torch.where(x.abs() < 0.2, 0.0, scale * x) for x in numbers]  # some gradients are 0

    def join(tensors: list[list[Tensor]]) -> list[Tensor]:
        return tensors[0] if len(tensors) == 1 else [torch.stack(each) for each in zip(*tensors, strict=True)]

    scales = [(1.0, 1000.0, 0.001)[agent % 3] for agent in agents]
    params = [x.requires_grad_() for x in join([draw(agent, 10.0 ** (agent % 2)) for agent in agents])]
    each = [rates] * len(SIGNS) if isinstance(rates, float) else list(rates)
    optimizer, held = make(params, lr=max(each)), [param.detach() for param in params]
    states: list[dict[str, Any]] = []
    for number, (sign, rate) in enumerate(zip(SIGNS[:steps], each, strict=False)):
        grads = join([draw(10 + 10 * number + agent, sign * s) for agent, s in zip(agents, scales, strict=True)])
        before = [x.clone() for x in held]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        for group in optimizer.param_groups:
            group["lr"] = rate
        if as_graph and number:
            with torch.no_grad(), recording():
                recorded_step(
                    make, params, [dict(state) for state in states], torch.tensor(rate, dtype=torch.float64), GRAPH
                )()
        else:
            optimizer.step()
            if not as_graph:
                held = [param.detach() for param in params]
        if as_graph and not number:
            held, states = [param.detach() for param in params], [optimizer.state[param] for param in params]
            if not all(isinstance(x, Tensor) for state in states for x in state.values()):
                raise TypeError("its state has plain numbers, which would be constants in a graph")
            states = [dict(state) for state in states]
        if lr_scales is not None:
            with torch.no_grad():
                for param, old in zip(params, before, strict=True):
                    param.copy_(old + lr_scales[number].reshape(-1, *[1] * (param.dim() - 1)) * (param - old))
        if reloaded and number == len(SIGNS) // 2:
            names = {str(index): param for index, param in enumerate(params)}
            kept, optimizer = kept_by_agent(optimizer, names, len(agents)), make(params, lr=max(each))
            restore(optimizer, names, len(agents), kept)
    _require_by_agent(optimizer, params, len(agents))
    return [x.clone() if len(agents) > 1 else x[None].clone() for x in held]


def _require_by_agent(optimizer: torch.optim.Optimizer, params: list[Tensor], agents: int) -> None:
    for param in params:
        for key, value in optimizer.state[param].items():
            if not isinstance(value, Tensor | bool | int | float | None):
                raise TypeError(f"its state {key!r} is a {type(value).__name__}, which no checkpoint can hold")
            if agents > 1 and isinstance(value, Tensor) and value.dim() and value.shape[0] != agents:
                raise TypeError(f"its state {key!r} is not per agent")


def _follows_lr(make: Make) -> bool:
    """Whether it uses the learning rate set before each step; Rprop, for one, uses only the first.

    Raises:
        TypeError: it has several learning rates.
    """
    param = torch.ones(2, requires_grad=True)
    rates = {group["lr"] for group in make([param], lr=0.1).param_groups}
    if rates != {0.1}:
        raise TypeError("its parameter groups have different learning rates, but optimizer.lr is set for all")
    falling = [0.1 if number < 2 else 0.01 for number in range(len(SIGNS))]
    return not _close(_simulate(make, [0], falling), _simulate(make, [0], 0.1))


def _is_proportional(make: Make) -> bool:
    """Whether scaling each agent's step by its relative learning rate is exact; see `lr_scale`.

    Adam's steps are proportional to the rate. Rprop's are not, as it bounds them; nor are those of an optimizer with
    the rate in its momentum buffer, when the rate changes.
    """
    steps = len(SIGNS)
    for rate in RATES:
        agent_rates = torch.tensor(
            [
                [rate] * steps,
                [rate * (1 - t / steps) ** 3 for t in range(steps)],
                [rate * (t + 1) / steps for t in range(steps)],
            ]
        ).double()
        fastest = agent_rates.max(0).values
        try:
            lr_scales = list((agent_rates / fastest).T)
            stacked = _simulate(make, [0, 1, 2], fastest.tolist(), shapes=[(4,)], lr_scales=lr_scales)
        except Exception:
            return False
        for agent in range(3):
            alone = _simulate(make, [agent], agent_rates[agent].tolist(), shapes=[(4,)])
            if not _close(alone, [x[agent : agent + 1] for x in stacked]):
                return False
    return True
