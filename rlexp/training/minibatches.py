"""Minibatches: which rows of a rollout, whose dummies must not be read, each of an update's optimizer steps is of."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from rlexp.algos.losses import advantage_moments, share_weights
from rlexp.data import Batch
from rlexp.training.ranks import Ranks


class Inputs(NamedTuple):
    """What all minibatches of an update read and none changes."""

    buffers: dict[str, Tensor]  # of the networks, name -> (a, ...)
    coefficients: dict[str, Tensor]  # of the loss, name -> (a,)
    data: Batch  # rows of all agents (a*N, ...); replay (a, minibatches, ...)
    order: Tensor  # row indices of every minibatch (minibatches, a*B)
    lr_scale: Tensor | tuple[()]  # see `Agents`

    def rows(self, number: Tensor, agents: int, ranks: Ranks) -> Batch:
        """The rows of a minibatch that are this rank's (a, B, ...), and all of its replay. number: (1,)."""
        index = self.order.index_select(0, number)[0]  # (a*B,)
        shape = (agents, len(index) // agents)
        whole, mine = index, ranks.share(shape[1])
        if ranks.size > 1:
            index = whole.unflatten(0, shape)[:, mine].flatten()
            shape = (agents, mine.stop - mine.start)
        batch = self.data.map_rows(lambda x: x.index_select(0, index).unflatten(0, shape))
        if ranks.size > 1:
            read = (self.data.weights, self.data.advantages)
            weights, advantages = (x[whole].unflatten(0, (agents, -1)) for x in read)  # (a, B), of all ranks
            shared = vmap(partial(share_weights, ranks=ranks.size))(batch.weights, weights)
            batch = batch._replace(weights=shared, moments=vmap(advantage_moments)(advantages, weights))
        per_minibatch = (self.data.replay, self.data.key)
        replay, key = tree_map(lambda x: x.index_select(1, number)[:, 0], per_minibatch)
        return batch._replace(replay=replay, key=key)


PADDED = ("replay", "key")  # of a `Batch`: one entry per minibatch


def padded(x: Tensor, to: int) -> Tensor:
    """(A, n, ...) -> (A, to, ...), by zeros."""
    return torch.cat([x, x.new_zeros(x.shape[0], to - x.shape[1], *x.shape[2:])], 1)


def rows_with_weight(weights: Tensor) -> Tensor:
    """Row indices (A, T*E) that replace each dummy row, which must not be read, by the agent's first other row.

    weights: (A, T, E). Returns indices into A*T*E rows; a dummy row keeps its weight of 0, and so has no effect.
    """
    flat = weights.flatten(1)
    numbers = torch.arange(flat.numel(), device=flat.device).view_as(flat)
    return torch.where(flat > 0, numbers, numbers.gather(1, flat.argmax(1, keepdim=True)))
