"""Acting: actions for all agents' observations, sampled into the slots of a rollout.

For environments written in torch, acting and stepping are one native call: see `envs/torch_vector.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_map

from rlexp.compiling.graphs import Graphs
from rlexp.envs.classic_control import World
from rlexp.envs.torch_vector import EnvBuffers, advance
from rlexp.training.agents import Agents


class Slot(NamedTuple):
    """Views into one step of a rollout: what acting reads and writes."""

    obs: Tensor  # raw (A, E, ...); read
    noise: Tensor  # (A, E, ·); read
    dist_params: Tensor  # (A, E, P); written
    values: Tensor  # (A, E); written
    actions: Tensor  # (A, E, ...); written
    buffers: EnvBuffers | tuple[()] = ()  # of environments in torch, whose step is fused with acting


class Actor:
    """Acts for groups of agents, eagerly or by compiled graphs.

    Args:
        groups: of agents, of one size.
        graphs: of each group.
        world: torch dynamics of environments whose step is fused with acting, if any.
    """

    def __init__(self, groups: Sequence[Agents], graphs: Sequence[Graphs], world: World | None) -> None:
        self.groups, self.graphs, self.world = groups, graphs, world
        self.slots: list[Slot] | None = None  # that `calls` are bound to
        self.compiled = False
        self.calls: list[Callable[[], Any]] = []

    def bind(self, slots: list[Slot], compiled: bool) -> list[Callable[[], Any]]:
        """One call per slot: sample actions for its observations with its noise, and write the results into it.

        Made once for a collector's slots, as that takes longer than acting, and again once it may be compiled.
        """
        if self.slots is not slots or self.compiled != compiled:
            size = self.groups[0].size
            each: list[list[Callable[[], Any]]] = []
            for number, (agents, graphs) in enumerate(zip(self.groups, self.graphs, strict=True)):
                part = slice(number * size, (number + 1) * size)
                share = [tree_map(lambda x, part=part: x[part], slot) for slot in slots]
                act, tensors = partial(self._act, agents), agents.params | agents.buffers
                each.append(
                    graphs.acting(act, tensors, share) if compiled else [partial(act, tensors, slot) for slot in share]
                )
            self.calls = each[0] if len(each) == 1 else [partial(in_turn, calls) for calls in zip(*each, strict=True)]
            self.slots, self.compiled = slots, compiled
        return self.calls

    def _act(self, agents: Agents, tensors: dict[str, Tensor], slot: Slot) -> tuple[Tensor, ...]:
        params, values = agents.policy(tensors, slot.obs)
        slot.dist_params.copy_(params)
        slot.values.copy_(values)
        actions = agents.network.distribution.sample(params, slot.noise)
        slot.actions.copy_(actions)
        if isinstance(slot.buffers, EnvBuffers):
            assert self.world is not None
            advance(self.world, actions, slot.buffers)
        return (values,)  # graphs must return something


def in_turn(calls: Sequence[Callable[[], Any]]) -> None:
    """Make all calls."""
    for call in calls:
        call()
