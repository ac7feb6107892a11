"""Nested state of several agents, divided and joined agent by agent.

A tensor (agents · n, ...) has each agent's rows in turn, inside dictionaries, tuples and lists, too. What is kept in
another way cannot be seen from the state of one number of agents: a list of two may be one entry for each of two
agents, or two that they share. `Division` finds it out from the states of two numbers of agents.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]  # keys and positions


EACH, LIST = "an entry for each agent", "a list for all agents"  # kinds of parts
SHARED, ROWS = "one for all agents", "rows of each agent"


@dataclass
class Division:
    """How each part of nested state is divided."""

    kinds: dict[Path, str] = field(default_factory=dict)  # of lists and tensors; others: tensors (agents · n, ...)
    flaw: str = ""  # why the state cannot be divided, if it cannot

    @classmethod
    def found(cls, pairs: Iterable[Sequence[Any]], agents: int) -> "Division":
        """The division of a state, from pairs of it, each at one time: of so many agents, and of twice as many."""
        division = cls()
        for once, twice in pairs:
            if not division.flaw:
                division._compare(once, twice, agents, ())
        return division

    def _compare(self, once: Any, twice: Any, agents: int, path: Path) -> None:
        counts = f"of {agents} agent{'s' * (agents > 1)} and of {2 * agents}"
        if isinstance(once, dict) and isinstance(twice, dict):
            if once.keys() != twice.keys():
                self.flaw = f"{named(path)} has other entries {counts}: {_few(once)} and {_few(twice)}"
            for key in once.keys() & twice.keys():
                self._compare(once[key], twice[key], agents, (*path, key))
        elif isinstance(once, list) and isinstance(twice, list) and (len(once), len(twice)) == (agents, 2 * agents):
            self._note(path, EACH)
        elif isinstance(once, list | tuple) and isinstance(twice, list | tuple):
            if len(once) != len(twice):
                self.flaw = f"{named(path)} has {len(once)} and {len(twice)} entries {counts}"
            elif once:
                self._note(path, LIST)
            for k, (one, two) in enumerate(zip(once, twice, strict=False)):
                self._compare(one, two, agents, (*path, k))
        elif isinstance(once, Tensor) and isinstance(twice, Tensor) and once.dim() and once.numel():
            if len(once) % agents == 0 and (2 * len(once), *once.shape[1:]) == tuple(twice.shape):
                self._note(path, ROWS)
            elif once.shape != twice.shape:
                self.flaw = f"{named(path)} has the shapes {tuple(once.shape)} and {tuple(twice.shape)} {counts}"
            else:
                self._note(path, SHARED)
                self._require_same(once, twice, path)
        else:
            self._require_same(once, twice, path)

    def _note(self, path: Path, kind: str) -> None:
        if (before := self.kinds.setdefault(path, kind)) != kind:
            self.flaw = f"{named(path)} is {before} at first and {kind} later"

    def _require_same(self, once: Any, twice: Any, path: Path) -> None:
        if not _same(once, twice):
            self.flaw = f"{named(path)} is shared by all agents, and depends on how many there are"

    def is_each(self, path: Path) -> bool:
        """Whether a list has one entry per agent."""
        return self.kinds.get(path) == EACH

    def is_shared(self, value: Any, path: Path) -> bool:
        """Whether a tensor is the same for all agents."""
        return isinstance(value, Tensor) and (value.dim() == 0 or self.kinds.get(path) == SHARED)


def select_agents(state: Any, agents: slice, total: int, division: Division | None = None) -> Any:
    """The part of nested state that is some agents'; all of it if they are all.

    Raises:
        ValueError: it cannot be divided; names the part.
    """
    if agents == slice(0, total):
        return state
    division = division or Division()
    if division.flaw:
        raise ValueError(division.flaw)
    return _select(state, agents, total, division, ())


def _select(state: Any, agents: slice, total: int, division: Division, path: Path) -> Any:
    def inner(key: Any, value: Any) -> Any:
        return _select(value, agents, total, division, (*path, key))

    if isinstance(state, dict):
        made = copy.copy(state)  # of the same class
        for key, value in state.items():
            made[key] = inner(key, value)
        return made
    if isinstance(state, list) and division.is_each(path):
        if len(state) != total:
            raise ValueError(f"{named(path)} began with an entry for each agent and has {len(state)} of {total}")
        return state[agents]
    if isinstance(state, list | tuple):
        if isinstance(state, list) and len(state) == total and path not in division.kinds and holds_tensors(state):
            what = f"was empty at first and now has {total} entries with tensors, as many as there are agents"
            raise ValueError(f"{named(path)} {what}: give it its entries from the beginning")
        return type(state)(inner(k, value) for k, value in enumerate(state))
    if not isinstance(state, Tensor) or division.is_shared(state, path):
        return state
    if state.shape[0] % total:
        raise ValueError(f"{named(path)} has the shape {tuple(state.shape)}, not that of {total} agents' rows")
    return state.unflatten(0, (total, -1))[agents].flatten(0, 1).clone()


def join_agents(
    states: Sequence[Any], division: Division | None = None, *, equal: bool = False, path: Path = ()
) -> Any:
    """Join nested state of several agents or groups of them; the inverse of `select_agents`.

    equal: what is shared must be the same in all; otherwise it is the first's. path: of the states in a larger one.

    Raises:
        ValueError: the states do not fit together; names the part.
    """
    first, *others = states
    division = division or Division()
    if not others:
        return first

    def inner(key: Any) -> Any:
        return join_agents([state[key] for state in states], division, equal=equal, path=(*path, key))

    kinds = {_kind(state) for state in states}
    if len(kinds) > 1:
        raise ValueError(f"{named(path)} is {' in one agent and '.join(sorted(kinds)[:2])} in another")
    if isinstance(first, dict):
        if any(state.keys() != first.keys() for state in others):
            raise ValueError(f"{named(path)} has other entries in one agent than in another")
        made = copy.copy(first)
        for key in first:
            made[key] = inner(key)
        return made
    if isinstance(first, list) and division.is_each(path):
        return [entry for state in states for entry in state]
    if isinstance(first, list | tuple):
        if any(len(state) != len(first) for state in others):
            raise ValueError(f"{named(path)} has other lengths in one agent than in another")
        return type(first)(inner(k) for k in range(len(first)))
    if isinstance(first, Tensor) and not division.is_shared(first, path):
        return torch.cat(list(states))
    if equal and not all(_same(first, other) for other in others):
        raise ValueError(f"{named(path)} is shared by all agents, and differs between them")
    return first


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; NaN is equal to NaN."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return repr(one) == repr(other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _kind(state: Any) -> str:
    kinds = {dict: "a dictionary", list: "a list", tuple: "a tuple", Tensor: "a tensor"}
    return next((name for kind, name in kinds.items() if isinstance(state, kind)), "a plain value")


def holds_tensors(state: Any) -> bool:
    """Whether there are tensors in nested containers."""
    if isinstance(state, dict):
        return any(map(holds_tensors, state.values()))
    return any(map(holds_tensors, state)) if isinstance(state, list | tuple) else isinstance(state, Tensor)


def named(path: Path) -> str:
    """A part of nested state in messages."""
    return f"its part {'.'.join(map(str, path))}" if path else "it"


def _few(keys: Any) -> str:
    return ", ".join(map(str, list(keys)[:3])) + (", ..." if len(keys) > 3 else "")
