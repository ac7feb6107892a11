"""Nested state of several agents, divided and joined agent by agent.

A tensor (agents · n, ...) has each agent's rows in turn, in dictionaries and tuples, too. A list that holds tensors has
one entry per agent, as `RunSpec.per_agent` makes it. Everything else, tensors () included, is shared by all agents.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def select_agents(state: Any, agents: slice, total: int) -> Any:
    """The part of nested state that is some agents'; all of it if they are all.

    Raises:
        ValueError: a tensor or a list is not per agent.
    """
    if agents == slice(0, total):
        return state
    if isinstance(state, dict):
        return {key: select_agents(value, agents, total) for key, value in state.items()}
    if isinstance(state, tuple):
        return tuple(select_agents(value, agents, total) for value in state)
    if isinstance(state, list) and holds_tensors(state):
        if len(state) != total:
            raise ValueError(f"a list of {len(state)} that holds tensors has not one entry for each of {total} agents")
        return state[agents]
    if not isinstance(state, Tensor) or state.dim() == 0:
        return state
    if state.shape[0] % total:
        raise ValueError(f"state of shape {tuple(state.shape)} is not per agent, of which there are {total}")
    return state.unflatten(0, (total, -1))[agents].flatten(0, 1).clone()


def join_agents(states: Sequence[Any], *, equal: bool = False) -> Any:
    """Join nested state of several agents or groups of them; the inverse of `select_agents`.

    equal: what is shared must be the same in all; otherwise it is the first's.

    Raises:
        ValueError: with `equal`, what is shared differs.
    """
    first, *others = states
    if not others:
        return first
    if isinstance(first, dict):
        if equal and any(state.keys() != first.keys() for state in others):
            raise ValueError("agents keep different entries; they cannot be trained side by side")
        return {key: join_agents([state[key] for state in states], equal=equal) for key in first}
    if isinstance(first, tuple):
        return tuple(join_agents(each, equal=equal) for each in zip(*states, strict=True))
    if isinstance(first, list) and holds_tensors(first):
        return [entry for state in states for entry in state]
    if isinstance(first, Tensor) and first.dim() > 0:
        return torch.cat(list(states))
    shared = [repr(state.item() if isinstance(state, Tensor) else state) for state in states]
    if equal and len({*shared}) > 1:
        raise ValueError(f"agents share a value that differs between them: {', '.join(dict.fromkeys(shared))}")
    return first


def holds_tensors(state: Any) -> bool:
    """Whether there are tensors in nested containers."""
    if isinstance(state, dict):
        return any(map(holds_tensors, state.values()))
    return any(map(holds_tensors, state)) if isinstance(state, list | tuple) else isinstance(state, Tensor)
