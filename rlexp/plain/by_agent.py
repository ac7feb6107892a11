"""Nested state of several agents, divided and joined agent by agent.

A tensor (agents · n, ...) has each agent's rows in turn, inside dictionaries, tuples and lists, too. What is kept in
another way cannot be seen from the state of one number of agents: a list of two may be one entry for each of two
agents, or two that they share. `Division` finds it out from the states of two numbers of agents.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Path = tuple[Any, ...]  # keys and positions

EACH, LIST = "an entry for each agent", "a list for all agents"  # kinds of parts
SHARED, ROWS = "one for all agents", "rows of each agent"
PLAIN, MIXED = "a plain value", "of several kinds"
EVERY = "every entry"  # of a list, in the path of what is alike


class Place(NamedTuple):
    """Where a part is; `alike`: the same for all entries of a list, which may grow."""

    exact: Path = ()
    alike: Path = ()

    def entry(self, key: Any, holder: Any) -> "Place":
        """Of an entry of a dictionary, list or tuple there."""
        return Place((*self.exact, key), (*self.alike, EVERY if isinstance(holder, list) else key))

    def __str__(self) -> str:
        return f"its part {'.'.join(map(str, self.exact))}" if self.exact else "it"


@dataclass
class Division:
    """How each part of nested state is divided."""

    kinds: dict[Path, str] | None = None  # None: tensors (agents · n, ...) alone
    alike: dict[Path, str] = field(default_factory=dict)  # of all entries of a list
    flaw: str = ""  # why the state cannot be divided, if it cannot

    @classmethod
    def found(cls, pairs: Iterable[Sequence[Any]], agents: int) -> "Division":
        """The division of a state, from pairs of it, each at one time: of so many agents, and of twice as many."""
        division = cls({})
        for once, twice in pairs:
            if not division.flaw:
                division._compare(once, twice, agents, Place())
        return division

    def _compare(self, once: Any, twice: Any, agents: int, place: Place) -> None:
        counts = f"of {agents} agent{'s' * (agents > 1)} and of {2 * agents}"
        if isinstance(once, dict) and isinstance(twice, dict):
            if once.keys() != twice.keys():
                self.flaw = f"{place} has other entries {counts}: {_few(once)} and {_few(twice)}"
            for key in once.keys() & twice.keys():
                self._compare(once[key], twice[key], agents, place.entry(key, once))
        elif isinstance(once, list) and isinstance(twice, list) and (len(once), len(twice)) == (agents, 2 * agents):
            self._note(place, EACH)
            self._require_own(once, twice[:agents], place)
        elif isinstance(once, list | tuple) and isinstance(twice, list | tuple):
            if len(once) != len(twice):
                self.flaw = f"{place} has {len(once)} and {len(twice)} entries {counts}"
            self._note(place, LIST if once else PLAIN)
            for k, (one, two) in enumerate(zip(once, twice, strict=False)):
                self._compare(one, two, agents, place.entry(k, once))
        elif isinstance(once, Tensor) and isinstance(twice, Tensor) and once.dim() and once.numel():
            if len(once) % agents == 0 and (2 * len(once), *once.shape[1:]) == tuple(twice.shape):
                self._note(place, ROWS)
                self._require_own(once, twice[: len(once)], place)
            elif once.shape == twice.shape:
                self._note(place, SHARED)
                self._require_same(once, twice, place)
            else:
                self.flaw = f"{place} has the shapes {tuple(once.shape)} and {tuple(twice.shape)} {counts}"
        else:
            self._note(place, PLAIN)
            self._require_same(once, twice, place)

    def _note(self, place: Place, kind: str) -> None:
        assert self.kinds is not None
        before = self.kinds.setdefault(place.exact, kind)
        if before == PLAIN:  # None, say, or an empty list
            self.kinds[place.exact] = kind
        elif kind not in (PLAIN, before):
            self.flaw = f"{place} is {before} at first and {kind} later"
        others = self.alike.setdefault(place.alike, kind)
        self.alike[place.alike] = kind if others == PLAIN else others if kind in (PLAIN, others) else MIXED

    def _require_same(self, once: Any, twice: Any, place: Place) -> None:
        if not _same(once, twice):
            self.flaw = f"{place} is shared by all agents, and depends on how many there are"

    def _require_own(self, once: Any, part: Any, place: Place) -> None:
        if not _close(once, part):
            self.flaw = f"{place} does not begin with the first agent's part, or that depends on how many there are"

    def kind(self, place: Place) -> str:
        """Of a part: one of the words above; empty: none like it was seen."""
        assert self.kinds is not None
        found = self.kinds.get(place.exact) or self.alike.get(place.alike, "")
        return "" if found == MIXED else found

    def kind_of(self, value: Any, place: Place) -> str:
        """How this value of a part is to be treated: EACH, LIST, SHARED, ROWS or PLAIN.

        Raises:
            ValueError: it is of a kind that was not seen.
        """
        is_list, is_tensor = isinstance(value, list | tuple), isinstance(value, Tensor) and value.dim() > 0
        if self.kinds is None:
            return ROWS if is_tensor else LIST if is_list else PLAIN
        kind = self.kind(place)
        wanted = {EACH, LIST} if is_list else {SHARED, ROWS} if is_tensor else {EACH, LIST, SHARED, ROWS, PLAIN}
        if kind in wanted:
            return kind if is_list or is_tensor else PLAIN
        if (is_list and not value) or (is_tensor and not value.numel()):
            return PLAIN
        what = "was not there, or was of another kind, when the objective was tried before training"
        raise ValueError(f"{place} {what}: give it its form from the beginning")


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
    return _select(state, agents, total, division, Place())


def _select(state: Any, agents: slice, total: int, division: Division, place: Place) -> Any:
    def inner(key: Any, value: Any) -> Any:
        return _select(value, agents, total, division, place.entry(key, state))

    if isinstance(state, dict):
        made = copy.copy(state)  # of the same class
        for key, value in state.items():
            made[key] = inner(key, value)
        return made
    kind = division.kind_of(state, place)
    if kind == EACH:
        if len(state) != total:
            raise ValueError(f"{place} began with an entry for each agent and has {len(state)} of {total}")
        return state[agents]
    if kind == LIST:
        return type(state)(inner(k, value) for k, value in enumerate(state))
    if kind != ROWS:
        return state
    if state.shape[0] % total:
        raise ValueError(f"{place} has the shape {tuple(state.shape)}, not that of {total} agents' rows")
    return state.unflatten(0, (total, -1))[agents].flatten(0, 1).clone()


def join_agents(
    states: Sequence[Any], division: Division | None = None, *, equal: bool = False, place: Place | None = None
) -> Any:
    """Join nested state of several agents or groups of them; the inverse of `select_agents`.

    equal: what is shared must be the same in all; otherwise it is the first's. place: of the states in a larger one.

    Raises:
        ValueError: the states do not fit together; names the part.
    """
    first, *others = states
    division, place = division or Division(), place or Place()
    if not others:
        return first

    def inner(key: Any) -> Any:
        within = place.entry(key, first)
        return join_agents([state[key] for state in states], division, equal=equal, place=within)

    names = {_named_kind(state) for state in states}
    if len(names) > 1:
        raise ValueError(f"{place} is {' in one agent and '.join(sorted(names)[:2])} in another")
    if isinstance(first, dict):
        if any(state.keys() != first.keys() for state in others):
            raise ValueError(f"{place} has other entries in one agent than in another")
        made = copy.copy(first)
        for key in first:
            made[key] = inner(key)
        return made
    kind = division.kind_of(first, place)
    if kind == EACH:
        return [entry for state in states for entry in state]
    if kind == LIST:
        if any(len(state) != len(first) for state in others):
            raise ValueError(f"{place} has other lengths in one agent than in another")
        return type(first)(inner(k) for k in range(len(first)))
    if kind == ROWS:
        return torch.cat(list(states))
    if equal and not all(_same(first, other) for other in others):
        raise ValueError(f"{place} is shared by all agents, and differs between them")
    return first


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; NaN is equal to NaN."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return repr(one) == repr(other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _close(one: Any, other: Any) -> bool:
    """Whether nested values are equal up to rounding; NaN is equal to NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if not one.is_floating_point() or one.shape != other.shape:
            return _same(one, other)
        return torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4) or (one != one and other != other)
    return _same(one, other)


def _named_kind(state: Any) -> str:
    kinds = {dict: "a dictionary", list: "a list", tuple: "a tuple", Tensor: "a tensor"}
    return next((name for kind, name in kinds.items() if isinstance(state, kind)), "a plain value")


def _few(keys: Any) -> str:
    return ", ".join(map(str, list(keys)[:3])) + (", ..." if len(keys) > 3 else "")
