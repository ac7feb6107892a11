"""What passes between rooms: rollouts, minibatches and finished episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlexp.seeding import AgentStreams, seeded

Made = TypeVar("Made")


@dataclass(frozen=True)
class RunSpec:
    """The shape of a run: what whoever keeps rollouts must know before the first."""

    num_agents: int
    num_envs: int
    streams: list[AgentStreams]
    device: torch.device

    def per_agent(self, make: Callable[[], Made]) -> list[Made]:
        """One object an agent, as a random network, drawn from the agent's own stream wherever `make` draws from.

        It is the same alone, beside others and resumed.
        """
        made: list[Made] = []
        for stream in self.streams:
            with seeded(int(torch.randint(2**62, (), generator=stream.made))):
                made.append(make())
        return made


@dataclass(frozen=True)
class FinishedEpisodes:
    """Episodes that ended within a rollout, in the order of time; every array is (N,)."""

    agents: np.ndarray
    envs: np.ndarray
    starts: np.ndarray  # first row within this rollout; 0 also for those begun before it
    ends: np.ndarray  # row of the last step
    returns: np.ndarray  # undiscounted sum of raw rewards, float64
    lengths: np.ndarray  # steps, dummies not counted


class Flaw(NamedTuple):
    """The first observation or reward of a rollout that is not finite, and is used."""

    agent: int
    env: int
    row: int  # of the step that gave it
    what: str
    told: str = ""
    way_out: str = "mend it"


@dataclass
class Rollout:
    """T steps of A × E environments, valid until the next are collected.

    Tensors are (A, T, E, ...) so that one agent's rows flatten as a view.
    """

    obs: Tensor  # raw, as the environment gave it
    actions: Tensor  # as drawn, unclipped
    dist_params: Tensor  # packed parameters of π when it acted (A, T, E, P)
    log_probs: Tensor
    values: Tensor
    rewards: Tensor  # raw
    terminated: Tensor
    truncated: Tensor
    weights: Tensor  # 0 where the row is a dummy: the step in which next-step autoreset starts a new episode
    last_values: Tensor  # V of the observation after the last step (A, E)
    steps: np.ndarray  # environment steps of each agent, dummies not counted (A,)
    dummy_first: np.ndarray  # whether row 0 is a dummy (A, E)
    open_lengths: np.ndarray  # steps that running episodes had before this rollout (A, E)
    episodes: FinishedEpisodes
    flaw: Flaw | None = None


class Batch(NamedTuple):
    """The rows of one minibatch, as the loss of one agent sees them. B rows; weight 0 marks dummy rows."""

    obs: Tensor  # raw (B, ...)
    actions: Tensor  # as drawn, unclipped (B, ...)
    dist_params: Tensor  # of the policy that acted (B, P)
    log_probs: Tensor  # of the policy that acted (B,)
    values: Tensor  # of the critic that acted (B,)
    advantages: Tensor  # (B,)
    returns: Tensor  # λ-returns (B,)
    weights: Tensor  # (B,)
    replay: Any = ()  # what the algorithm's `replay` gave for this minibatch
    key: Tensor | tuple[()] = ()  # by which `policy.rand_like` draws, where the loss does ()

    @classmethod
    def of(cls, rollout: Rollout, advantages: Tensor, returns: Tensor) -> "Batch":
        """Everything of a rollout, (A, T, E, ...), and what its steps were worth."""
        return cls(
            obs=rollout.obs,
            actions=rollout.actions,
            dist_params=rollout.dist_params,
            log_probs=rollout.log_probs,
            values=rollout.values,
            advantages=advantages,
            returns=returns,
            weights=rollout.weights,
        )

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every field of rows put through a function, the last two left alone."""
        return self._replace(**{name: function(getattr(self, name)) for name in self._fields[:-2]})


def masked(x: Tensor, weights: Tensor) -> Tensor:
    """X where the weight is not 0, else 0, whatever stood there. weights: the shape of x."""
    return torch.where(weights > 0, x, 0.0)


def finished_episodes(
    rewards: np.ndarray, done: np.ndarray, dummy: np.ndarray, open_returns: np.ndarray, open_lengths: np.ndarray
) -> tuple[FinishedEpisodes, np.ndarray, np.ndarray]:
    """Episodes that end in these rows, and the returns and lengths (A, E) of those that stay open.

    rewards, done, dummy: (T, A, E); open_returns, open_lengths: (A, E), of the episodes running at the first row.
    """
    rewards = np.where(dummy, 0.0, rewards)
    num_steps, num_agents, num_envs = rewards.shape
    flat = (num_steps, num_agents * num_envs)
    sums = np.vstack([-open_returns.reshape(1, -1), np.cumsum(rewards.reshape(flat), 0, dtype=np.float64)])
    counts = np.vstack([-open_lengths.reshape(1, -1), np.cumsum(~dummy.reshape(flat), 0)])
    columns, ends = np.nonzero(done.reshape(flat).T)  # by environment, then by time
    first = np.ones(len(columns), bool)
    first[1:] = columns[1:] != columns[:-1]
    previous = np.where(first, -1, np.roll(ends, 1))  # end of the episode before, in the same environment
    starts = np.where(first, dummy.reshape(flat)[0, columns].astype(np.int64), previous + 2)
    # cumulative sums carry a leading row: minus what the open episode had gathered before this rollout
    with np.errstate(invalid="ignore"):  # what is not finite is told in words: see `Collector._flaw`
        returns = sums[ends + 1, columns] - sums[previous + 1, columns]
    lengths = counts[ends + 1, columns] - counts[previous + 1, columns]
    order = np.lexsort((columns, ends))
    agents, envs = np.divmod(columns[order], num_envs)
    episodes = FinishedEpisodes(agents, envs, starts[order], ends[order], returns[order], lengths[order])

    last = np.full(flat[1], -1)
    np.maximum.at(last, columns, ends)
    column = np.arange(flat[1])
    shape = (num_agents, num_envs)
    with np.errstate(invalid="ignore"):
        open_returns = (sums[-1] - sums[last + 1, column]).reshape(shape)
    open_lengths = (counts[-1] - counts[last + 1, column]).reshape(shape)
    return episodes, open_returns, open_lengths
