"""All agents' policies at once, for objectives whose hooks read networks outside the loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlexp.networks.actor_critic import Policy
from rlexp.training.agents import Agents


class AllPolicies:
    """Calls a function written for one agent for all of them; see `Policies`.

    parts: groups of agents, and which of all agents they are.
    """

    def __init__(self, parts: Sequence[tuple[Agents, slice]]) -> None:
        self.parts = parts

    @torch.no_grad()
    def each(self, function: Callable[..., Any], *data: Any) -> Any:
        """``function(policy, *data)`` of every agent: data and results (A, ...)."""
        found = []
        for agents, part in self.parts:

            def one(tensors: dict[str, Tensor], *data: Any, agents: Agents = agents) -> Any:
                return function(Policy(agents.network, tensors), *data)

            share = tree_map(lambda x, part=part: x[part], data)
            result = agents.each(one, (agents.params | agents.buffers,), *share)
            found.append(tree_map(lambda x: x[None], result) if agents.single else result)
        return tree_map(lambda *each: torch.cat(each), *found)
