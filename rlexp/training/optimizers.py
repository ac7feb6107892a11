"""How an optimizer, which may be anybody's, behaves towards agents side by side, graphs and checkpoints: tried out.

Agents side by side are stacked in one tensor a parameter (a, ...); one agent alone is not (a = 1).
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
from rlexp.text import one_line
from rlexp.training.optimizer_state import kept_by_agent, restore

Make = Callable[..., torch.optim.Optimizer]
Shapes = Sequence[tuple[int, ...]]

SHAPES: Shapes = ((3, 4), (4,), ())  # of one agent's parameters: a matrix, a bias, a scalar
AGENTS = 5
SIGNS = (1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0)  # of the gradients, step by step
RATES = (1e-6, 0.1)  # small and large, as some optimizers have bounds on their steps
GRAPH = {"capturable": True, "foreach": False, "fused": False}  # options of an optimizer within a CPU's graph


@dataclass(frozen=True)
class Traits:
    """How an optimizer behaves."""

    elementwise: bool  # agents stacked in one tensor go where each would go alone
    proportional: bool  # steps are proportional to the learning rate, also where that changes
    heeding: bool  # goes by the current learning rate, so that schedules have an effect
    recordable: bool  # all that its step reads and writes is parameters and state, so that a compiled graph can hold it


def traits(settings: Mapping[str, Any]) -> Traits:
    """Traits of the optimizer of a config group `optimizer`, whose `lr` is left out.

    Raises:
        ConfigError: it cannot be made, cannot step by gradients alone, or keeps what no checkpoint holds.
    """
    return _traits(json.dumps({key: value for key, value in settings.items() if key != "lr"}, default=str))


@functools.cache
def _traits(settings: str) -> Traits:
    plain = json.loads(settings)
    name = f"optimizer._target_={plain.get('_target_')}"
    try:
        make: Make = instantiate(OmegaConf.create(plain), _convert_="all")
        with NoRandomness(f"{name}: the optimizer"):
            alone = _follow(make, [0], RATES[1])
        heeding = _heeds(make)
        again = _follow(make, [0], RATES[1], reloaded=True)
    except ConfigError:
        raise
    except Exception as error:  # whatever somebody else's optimizer raises
        line = one_line(str(error))
        if isinstance(error, TypeError) and "'closure'" in line:
            line = "its step wants a closure that computes the loss anew, and such optimizers are not supported"
        raise ConfigError(f"{name}: cannot be used here: {line}") from error
    if not all(torch.equal(one, other) for one, other in zip(alone, again, strict=True)):
        raise ConfigError(
            f"{name}: cannot be used here: it keeps what no checkpoint holds; keep it in self.state[param]"
        )
    return Traits(
        elementwise=moves_alike(make, SHAPES, AGENTS),
        proportional=_is_proportional(make),
        recordable=_is_recordable(make, alone),
        heeding=heeding,
    )


def moves_alike(make: Make, shapes: Shapes, agents: int, steps: int = len(SIGNS)) -> bool:
    """Whether agents with parameters of these shapes, stacked, go where each would go alone, for so many steps."""
    for rate in RATES:
        how: dict[str, Any] = {"shapes": shapes, "steps": steps}
        try:
            together = _follow(make, list(range(agents)), rate, **how)
        except Exception:  # it takes no stacked parameters, but one agent's it does
            return False
        for agent in {0, 1, agents - 1}:
            alone = _follow(make, [agent], rate, **how)
            if not _close(alone, [x[agent : agent + 1] for x in together]):
                return False
    return True


def _close(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-6) -> bool:
    return all(torch.allclose(x, y, rtol=rtol, atol=1e-12) for x, y in zip(ours, theirs, strict=True))


def _is_recordable(make: Make, wanted: list[Tensor]) -> bool:
    try:  # within a graph step counts are single numbers of float32
        return _close(_follow(make, [0], RATES[1], as_graph=True), wanted, rtol=1e-3)
    except Exception:  # as it would when it is recorded
        return False


def recorded_step(make: Make, params: list[Tensor], states: list[dict[str, Any]], lr: Tensor, options: Any) -> Any:
    """A step of an optimizer as a function of tensors alone: one of the moment, over parameters and states given.

    Its step is taken without the wrappers that serve the profiler and autograd. Returns what makes it.
    """
    optimizer = make(params, lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = lr
        group.update({name: value for name, value in options.items() if name in group})
    optimizer.state.update(zip(params, states, strict=True))
    step = inspect.unwrap(type(optimizer).step)
    return functools.partial(step, optimizer)


def _follow(
    make: Make,
    agents: list[int],
    rates: float | Sequence[float],
    *,
    shapes: Shapes = SHAPES,
    steps: int = len(SIGNS),
    reloaded: bool = False,
    as_graph: bool = False,
    paces: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Where some steps lead parameters (agents, ...): of one agent as it trains alone, of several stacked.

    Args:
        make: the optimizer.
        agents: whose numbers are drawn; their scales are far apart, so that whatever mixes agents shows.
        rates: learning rate, or one a step.
        shapes: of one agent's parameters.
        steps: how many.
        reloaded: halfway another optimizer takes over what this one keeps.
        as_graph: after the first step by `recorded_step`, as a compiled graph would go on.
        paces: of each step (agents,): the share of it that each agent takes, as where agents have their own rates.
    """

    def draw(seed: int, scale: float) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        numbers = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        return [torch.where(x.abs() < 0.2, 0.0, scale * x) for x in numbers]  # some gradients are 0

    def join(own: list[list[Tensor]]) -> list[Tensor]:
        return own[0] if len(own) == 1 else [torch.stack(each) for each in zip(*own, strict=True)]

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
                    make, params, [dict(own) for own in states], torch.tensor(rate, dtype=torch.float64), GRAPH
                )()
        else:
            optimizer.step()
            if not as_graph:
                held = [param.detach() for param in params]
        if as_graph and not number:
            held, states = [param.detach() for param in params], [optimizer.state[param] for param in params]
            if not all(isinstance(x, Tensor) for state in states for x in state.values()):
                raise TypeError("it counts in plain numbers, which a graph fixes")
            states = [dict(state) for state in states]
        if paces is not None:
            with torch.no_grad():
                for param, old in zip(params, before, strict=True):
                    param.copy_(old + paces[number].reshape(-1, *[1] * (param.dim() - 1)) * (param - old))
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
                raise TypeError(f"its state {key!r} is a {type(value).__name__}, which no checkpoint holds")
            if agents > 1 and isinstance(value, Tensor) and value.dim() and value.shape[0] != agents:
                raise TypeError(f"its state {key!r} is not kept agent by agent")


def _heeds(make: Make) -> bool:
    """Whether it goes by the learning rate that it is given before each step, as Rprop does by the first alone.

    Raises:
        TypeError: it has several.
    """
    param = torch.ones(2, requires_grad=True)
    own = {group["lr"] for group in make([param], lr=0.1).param_groups}
    if own != {0.1}:
        raise TypeError("its groups have learning rates of their own, and optimizer.lr is set for all")
    falling = [0.1 if number < 2 else 0.01 for number in range(len(SIGNS))]
    return not _close(_follow(make, [0], falling), _follow(make, [0], 0.1))


def _is_proportional(make: Make) -> bool:
    """Whether agents that take shares of the steps of the fastest go where each would go at its own learning rate.

    Steps of Adam are proportional to the rate; those of Rprop are not, by its bounds on them, nor those of whoever has
    the rate in its momentum, where the rate changes.
    """
    steps = len(SIGNS)
    for rate in RATES:
        own = torch.tensor(
            [
                [rate] * steps,
                [rate * (1 - t / steps) ** 3 for t in range(steps)],
                [rate * (t + 1) / steps for t in range(steps)],
            ]
        ).double()
        fastest = own.max(0).values
        try:
            paces = list((own / fastest).T)
            together = _follow(make, [0, 1, 2], fastest.tolist(), shapes=[(4,)], paces=paces)
        except Exception:
            return False
        for agent in range(3):
            alone = _follow(make, [agent], own[agent].tolist(), shapes=[(4,)])
            if not _close(alone, [x[agent : agent + 1] for x in together]):
                return False
    return True
