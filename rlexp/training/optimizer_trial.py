"""Some steps of an optimizer, possibly third-party: as they are, over a checkpoint, or as a graph makes them."""

import collections
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlexp.compiling.compile import recording
from rlexp.training.optimizer_state import NOT_KEPT, recorded_step, restore, state_by_agent

Make = Callable[..., torch.optim.Optimizer]
Shapes = Sequence[tuple[int, ...]]

SHAPES: Shapes = ((3, 4), (4,), ())  # of one agent's parameters: a matrix, a bias, a scalar
# of the gradients, step by step: their signs change, and now and then they are far larger, far smaller
FACTORS = (1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 300.0, -1.0, 1.0, 0.003, 1.0, -1.0, 1.0)
STEPS = 60  # what an optimizer does for the first time after a thousand is not seen
GRAPH = {"capturable": True, "foreach": False, "fused": False}  # options of an optimizer in a CPU graph


class OptimizerTrial:
    """Synthetic parameters and gradients of some agents, and an optimizer of them. One agent is not stacked.

    Each public method makes all steps, once, and returns the parameters after them (agents, ...).

    Args:
        make: makes the optimizer.
        agents: seeds of parameters and gradients, of very different scales, so that mixing agents shows.
        rates: learning rate, or one per step.
        shapes: of one agent's parameters.
        spoilt: an agent whose gradients are infinite or NaN from the middle on.

    Raises:
        TypeError: it has state that is not per agent, or that no checkpoint can hold.
    """

    def __init__(
        self,
        make: Make,
        agents: Sequence[int],
        rates: float | Sequence[float],
        shapes: Shapes = SHAPES,
        spoilt: int | None = None,
    ) -> None:
        self.make, self.agents, self.shapes, self.spoilt = make, agents, shapes, spoilt
        self.rates = [rates] * STEPS if isinstance(rates, float) else list(rates)
        drawn = [_draw(agent, 10.0 ** (agent % 2), shapes) for agent in agents]
        self.params = [x.requires_grad_() for x in _join(drawn)]
        self.optimizer = make(self.params, lr=max(self.rates))

    def plain(self, steps: int = STEPS) -> list[Tensor]:
        """One step after the other."""
        for number in range(steps):
            self._step(number, nan=2 * number >= steps)
        return self._result(self.params)

    def aside(self) -> str | None:
        """What a step changes of the optimizer itself, beside its state and groups; None: nothing.

        The first two steps do not count, in which an optimizer may find out how to compute.
        """
        found = []
        for number in range(3):
            self._step(number)
            found.append(_attributes(self.optimizer))
        return _changed(*found[1:])

    def reloaded(self) -> list[Tensor]:
        """Halfway the optimizer's state is moved to a new optimizer, as a checkpoint does."""
        names = {str(index): param for index, param in enumerate(self.params)}
        for number in range(STEPS):
            self._step(number)
            if number == STEPS // 2:
                kept = state_by_agent(self.optimizer, names, len(self.agents))
                self.optimizer = self.make(self.params, lr=max(self.rates))
                restore(self.optimizer, names, len(self.agents), kept)
        return self._result(self.params)

    def as_graph(self) -> list[Tensor]:
        """After the first step by `recorded_step`, as a compiled graph makes them, in the memory of the first."""
        before = _groups(self.optimizer)
        self._step(0)
        if (name := _changed(before, _groups(self.optimizer))) is not None:
            raise TypeError(f"its step changes {name!r} of a group, which would be constant in a graph")
        held = [param.detach() for param in self.params]
        states = [dict(self.optimizer.state[param]) for param in self.params]
        if not all(isinstance(x, Tensor) for state in states for x in state.values()):
            raise TypeError("its state has plain numbers, which would be constants in a graph")
        for number in range(1, STEPS):
            self._set_gradients(number)
            rate = torch.tensor(self.rates[number], dtype=torch.float64)
            with torch.no_grad(), recording():
                recorded_step(self.make, self.params, [dict(state) for state in states], rate, GRAPH)()
        return self._result(held)

    def scaled(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Each step is then scaled for each agent: `scales`, one (agents,) per step."""
        for number, scale in enumerate(scales):
            before = [param.detach().clone() for param in self.params]
            self._step(number)
            with torch.no_grad():
                for param, old in zip(self.params, before, strict=True):
                    param.copy_(old + scale.reshape(-1, *[1] * (param.dim() - 1)) * (param - old))
        return self._result(self.params)

    def _step(self, number: int, nan: bool = False) -> None:
        self._set_gradients(number, nan)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[number]
        self.optimizer.step()

    def _set_gradients(self, number: int, nan: bool = False) -> None:
        factors = [FACTORS[(number + 5 * agent) % len(FACTORS)] for agent in self.agents]
        scales = [x * (1.0, 1000.0, 0.001)[agent % 3] for x, agent in zip(factors, self.agents, strict=True)]
        if nan:
            bad = math.nan if number % 2 else math.inf
            scales = [bad if agent == self.spoilt else x for x, agent in zip(scales, self.agents, strict=True)]
        drawn = [_draw(10 + 10 * number + x, scale, self.shapes) for x, scale in zip(self.agents, scales, strict=True)]
        for param, grad in zip(self.params, _join(drawn), strict=True):
            param.grad = grad

    def _result(self, held: list[Tensor]) -> list[Tensor]:
        _require_by_agent(self.optimizer, self.params, len(self.agents))
        found = [x.detach().clone() for x in held]
        return found if len(self.agents) > 1 else [x[None] for x in found]


def _groups(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Values of the parameter groups, but what is set before each step."""
    rows = [(number, *row) for number, group in enumerate(optimizer.param_groups) for row in group.items()]
    return _values({f"{key} ({number})": x for number, key, x in rows if key not in NOT_KEPT}, set())


def _attributes(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Values among an optimizer's attributes, by name, but of its parameters, groups and state."""
    held = [optimizer.state, optimizer.param_groups, optimizer.defaults, *optimizer.param_groups]
    tensors = [param for group in optimizer.param_groups for param in group["params"]]
    tensors += [x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
    return _values(vars(optimizer), {id(x) for x in (*held, *tensors, *optimizer.state.values())})


def _values(x: Any, seen: set[int], name: str = "") -> dict[str, Any]:
    """Numbers, texts and copies of tensors in nested containers and objects, by their path; seen: ids to leave out."""
    if id(x) in seen or isinstance(x, type | types.ModuleType | types.FunctionType | types.MethodType):
        return {}
    if isinstance(x, np.ndarray):
        return {name: x.tolist()}
    if isinstance(x, Tensor):
        return {name: x.detach().clone()}
    if isinstance(x, bool | int | float | str | None):
        return {name: x}
    seen.add(id(x))
    if isinstance(x, Mapping):
        rows = [(key if isinstance(key, str) else str(number), value) for number, (key, value) in enumerate(x.items())]
    elif isinstance(x, list | tuple | set | collections.deque):
        rows = [(str(number), value) for number, value in enumerate(x)]
    else:
        names = [own for base in type(x).__mro__ for own in getattr(base, "__slots__", ())]
        rows = [*getattr(x, "__dict__", {}).items(), *((own, getattr(x, own, None)) for own in names)]
    found: dict[str, Any] = {}
    for key, value in rows:
        found |= _values(value, seen, f"{name}.{key}" if name else key)
    return found


def _changed(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The first name whose value is another one, or has come or gone."""
    for name in [*after, *(name for name in before if name not in after)]:
        x, y = before.get(name, _changed), after.get(name, _changed)
        same = torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else type(x) is type(y) and x == y
        if not same:
            return name
    return None


def _draw(seed: int, scale: float, shapes: Shapes) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    numbers = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [torch.where(x.abs() < 0.2, 0.0, scale * x) for x in numbers]  # some gradients are 0


def _join(tensors: list[list[Tensor]]) -> list[Tensor]:
    """Of one agent its own, of several stacked."""
    return tensors[0] if len(tensors) == 1 else [torch.stack(each) for each in zip(*tensors, strict=True)]


def _require_by_agent(optimizer: torch.optim.Optimizer, params: list[Tensor], agents: int) -> None:
    for param in params:
        for key, value in optimizer.state[param].items():
            if not isinstance(value, Tensor | bool | int | float | None):
                raise TypeError(f"its state {key!r} is a {type(value).__name__}, which no checkpoint can hold")
            if agents > 1 and isinstance(value, Tensor) and value.dim() and value.shape[0] != agents:
                raise TypeError(f"its state {key!r} is not per agent")
