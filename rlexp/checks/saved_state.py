"""What an objective saves can be divided agent by agent: runs that share a batch are saved, and resumed, one by one."""

import copy
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rlexp.algos.base import Algorithm
from rlexp.checks.location import located_errors, refusal
from rlexp.data import RunSpec
from rlexp.plain.by_agent import holds_tensors, join_agents, select_agents
from rlexp.text import with_article

PLAIN = {Tensor, str, bytes, int, float, bool, type(None)}  # classes that every checkpoint can hold
WANTED = "tensors (agents * n, ...), lists with one entry per agent, and plain values that all agents share"


def require_loadable(algo: Algorithm, state: Any) -> None:
    """Refuse state of an objective that a checkpoint, which runs no code when it is read, could not give back."""
    if (found := _unloadable(state, "")) is not None:
        path, kind = found
        what = f"keeps {path}, {with_article(kind.__name__)}, which cannot be read back from a checkpoint"
        raise refusal(algo, "state_dict", f"{what}; it takes {WANTED}")


def _unloadable(state: Any, path: str) -> tuple[str, type] | None:
    """Path and class of the first part of nested state that cannot be saved, or read back."""
    kind = type(state)
    if kind in PLAIN:
        return None
    if kind is dict:
        parts = {f"{path}.{key}" if path else str(key): value for key, value in state.items()}
        parts |= {f"the key {key!r} in {path or 'it'}": key for key in state}
    elif kind is list or kind is tuple:
        parts = {f"{path}[{k}]": value for k, value in enumerate(state)}
    else:
        return None if _is_loadable(state) else (path, kind)
    found = (_unloadable(part, at) for at, part in parts.items())
    return next((each for each in found if each is not None), None)


def _is_loadable(value: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # of pickle, of torch.load, or of a user's class
        return False
    return True


def saved_state(algo: Algorithm, spec: RunSpec) -> dict[str, Any]:
    """The state of an objective, saved population by population and joined again.

    Raises:
        ObjectiveError: it cannot be divided.
    """
    with located_errors(algo, "state_dict"):
        state = copy.deepcopy(algo.state_dict())
    require_loadable(algo, state)
    total, size = spec.num_agents, spec.population
    try:
        parts = [select_agents(state, slice(k, k + size), total) for k in range(0, total, size)]
        return join_agents(parts, equal=True)
    except ValueError as error:
        raise refusal(algo, "state_dict", f"{error}; it takes {WANTED}") from None


def require_saved_by_agent(algo: Algorithm, spec: RunSpec, make: Callable[[], Algorithm]) -> None:
    """Refuse a prepared objective that keeps a list of one plain value per agent; make: another one."""
    state = saved_state(algo, spec)
    if spec.population > 1:
        return
    alone, one = make(), dataclasses.replace(spec, num_agents=1, streams=spec.streams[:1])
    alone.prepare(one)
    lengths = dict(_plain_lists(saved_state(alone, one)))
    for path, length in _plain_lists(state):
        if length == spec.num_agents != lengths.get(path, length):
            what = f"keeps {path}, a list of one plain value per agent; make it a tensor (agents,). It takes {WANTED}"
            raise refusal(algo, "state_dict", what)


def _plain_lists(state: Any, path: str = "") -> Iterator[tuple[str, int]]:
    """Path and length of each list without tensors."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _plain_lists(value, f"{path}.{key}" if path else str(key))
    elif isinstance(state, list) and not holds_tensors(state):
        yield path, len(state)
