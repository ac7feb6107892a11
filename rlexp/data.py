"""Data shared by all rooms: rollouts, minibatches and finished episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlexp.errors import ConfigError
from rlexp.seeding import AgentStreams, seeded

Made = TypeVar("Made")
FinalObs = Literal["none", "truncated", "all"]  # episodes whose final observations are read


@dataclass(frozen=True)
class RunSpec:
    """Number of agents and environments of a run, their random streams and device, known before the first rollout."""

    num_agents: int
    num_envs: int
    streams: list[AgentStreams]
    device: torch.device
    population: int = 1  # agents that belong together: 0 to population − 1, the next as many, ...

    def per_agent(self, make: Callable[[], Made]) -> list[Made]:
        """One object per agent, such as a random network; whatever `make` draws is seeded by the agent's stream.

        The same for an agent trained alone, side by side with others, or resumed.
        """
        made: list[Made] = []
        for stream in self.streams:
            with seeded(int(torch.randint(2**62, (), generator=stream.made))):
                made.append(make())
        return made

    def uniform(self, agent: int, n: int) -> np.ndarray:
        """Draws from [0, 1) of an agent's memory stream (n,), float64."""
        generator = self.streams[agent].memory
        return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()


@dataclass(frozen=True)
class FinishedEpisodes:
    """Episodes that ended within a rollout, in time order; every array is (N,)."""

    agents: np.ndarray
    envs: np.ndarray
    starts: np.ndarray  # first row within this rollout; 0 for episodes that began before it
    ends: np.ndarray  # row of the last step
    returns: np.ndarray  # undiscounted sum of raw rewards, float64
    lengths: np.ndarray  # steps, dummies not counted


class Flaw(NamedTuple):
    """The first invalid output of an environment in a rollout, such as a NaN reward."""

    agent: int
    env: int
    row: int  # of the step that returned it
    what: str
    detail: str = ""
    remedy: str = "fix it"


@dataclass
class Rollout:
    """T steps of A × E environments, valid until the next rollout is collected.

    Tensors are (A, T, E, ...) so that one agent's rows flatten as a view.
    """

    obs: Tensor  # raw, as returned by the environment
    next_obs: Tensor  # after each step: where it ended an episode, the final observation
    actions: Tensor  # as sampled, unclipped
    dist_params: Tensor  # packed parameters of the behaviour policy π_old (A, T, E, P)
    log_probs: Tensor
    values: Tensor
    rewards: Tensor  # raw
    learner_rewards: Tensor  # what advantages are computed from: signs or scaled, and with what `algo.rewards` adds
    terminated: Tensor
    truncated: Tensor
    weights: Tensor  # 0 for dummy rows: steps in which next-step autoreset resets the environment
    last_values: Tensor  # V of the observation after the last step (A, E)
    steps: np.ndarray  # environment steps per agent, dummies not counted (A,)
    dummy_first: np.ndarray  # whether row 0 is a dummy (A, E)
    open_lengths: np.ndarray  # length of running episodes before this rollout (A, E)
    episodes: FinishedEpisodes  # as the learner sees them
    games: FinishedEpisodes  # as they are recorded: the same, but where the environment went on after an episode's end
    flaw: Flaw | None = None
    alive: np.ndarray | None = None  # whether an agent has not diverged and been retired (A,); None: none has

    def open_starts(self) -> np.ndarray:
        """First row of the episode that runs at the end, in each environment (A, E); T or more: it has none yet."""
        start = self.dummy_first.astype(np.int64)
        np.maximum.at(start, (self.episodes.agents, self.episodes.envs), self.episodes.ends + 2)
        return start


class Spaces(NamedTuple):
    """Spaces of an environment, raw."""

    observation: gymnasium.Space
    action: gymnasium.Space


class ExtraRewards(NamedTuple):
    """What `Algorithm.rewards` adds to a rollout's rewards.

    Without `values` they are added to the environment's. With them they are a stream apart, which has its own critic:
    `gae` with this γ gives its advantages, which are added to the others, `coef` times, and its λ-returns, which the
    loss gets as ``batch.extra["returns"]``. Not episodic: its return goes on past the end of an episode.
    """

    rewards: Tensor  # (A, T, E)
    values: Tensor | None = None  # of the stream's own critic (A, T, E)
    last_values: Tensor | None = None  # of the observation after the last step (A, E)
    gamma: float = 0.99
    coef: float = 1.0
    episodic: bool = True
    rows: dict[str, Tensor] = {}  # more for the loss, as `batch.extra` (A, T, E, ...)
    joined: Tensor | None = None  # beside a stream apart: what is added to the environment's rewards (A, T, E)

    def beside(self, other: "ExtraRewards | None") -> "ExtraRewards":
        """These rewards together with those that another hook adds; ConfigError if both are a stream apart."""
        if other is None:
            return self
        rows = other.rows | self.rows
        if self.values is None and other.values is None:
            return self._replace(rewards=self.rewards + other.rewards, rows=rows)
        if self.values is not None and other.values is not None:
            what = "both bring rewards with a critic of their own, and one of them is all there is room for"
            raise ConfigError(f"bonus: the objective and the bonus {what}; use another bonus, or none")
        apart, added = (self, other) if other.values is None else (other, self)
        joined = added.rewards if apart.joined is None else apart.joined + added.rewards
        return apart._replace(rows=rows, joined=joined)


class Batch(NamedTuple):
    """One agent's minibatch of B rows, the argument of `loss`. Weight 0 marks dummy rows."""

    obs: Tensor  # raw (B, ...)
    actions: Tensor  # as sampled, unclipped (B, ...)
    dist_params: Tensor  # of the behaviour policy (B, P)
    log_probs: Tensor  # of the behaviour policy (B,)
    values: Tensor  # of the critic at collection time (B,)
    advantages: Tensor  # (B,)
    returns: Tensor  # λ-returns (B,)
    weights: Tensor  # (B,)
    extra: Any = ()  # of `Algorithm.rewards`: name -> (B, ...)
    replay: Any = ()  # the algorithm's `replay` for this minibatch
    key: Tensor | tuple[()] = ()  # random key of `policy.rand_like` ()
    moments: Any = ()  # mean and deviation of the whole minibatch's advantages, where these rows are a rank's share

    @classmethod
    def of(cls, rollout: Rollout, advantages: Tensor, returns: Tensor, extra: Any = ()) -> "Batch":
        """All rows of a rollout (A, T, E, ...) with their advantages and returns."""
        shared = {name: getattr(rollout, name) for name in cls._fields if hasattr(rollout, name)}
        return cls(**shared, advantages=advantages, returns=returns, extra=extra)

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to every field of rows; `replay`, `key` and `moments` are left alone."""
        return self._replace(**{name: tree_map(function, getattr(self, name)) for name in self._fields[:-3]})


def masked(x: Tensor, weights: Tensor) -> Tensor:
    """X where the weight is not 0, else 0, even if x is NaN there. weights: the shape of x."""
    return torch.where(weights > 0, x, 0.0)


class Tally:
    """Finds the episodes that end in rollout after rollout, and keeps what is known of those that are running.

    shape: of agents and environments (A, E).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.ended = np.zeros(shape, bool)  # in the last row, so that the next one is a dummy
        self.returns, self.lengths = np.zeros(shape), np.zeros(shape, np.int64)

    def find(self, rewards: np.ndarray, done: np.ndarray) -> tuple[FinishedEpisodes, np.ndarray]:
        """Episodes that end in these rows (T, A, E), and which rows are dummies (T, A, E)."""
        dummy = np.concatenate([self.ended[None], done[:-1]])
        self.ended = done[-1].copy()
        episodes, self.returns, self.lengths = finished_episodes(rewards, done, dummy, self.returns, self.lengths)
        return episodes, dummy

    def state_dict(self) -> dict[str, Tensor]:
        """State of the running episodes."""
        state = {"prev_done": self.ended, "open_returns": self.returns, "open_lengths": self.lengths}
        return {name: torch.from_numpy(x.copy()) for name, x in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue them."""
        self.ended, self.returns, self.lengths = (
            state[name].numpy() for name in ("prev_done", "open_returns", "open_lengths")
        )


def finished_episodes(
    rewards: np.ndarray, done: np.ndarray, dummy: np.ndarray, open_returns: np.ndarray, open_lengths: np.ndarray
) -> tuple[FinishedEpisodes, np.ndarray, np.ndarray]:
    """Episodes that end in these rows, and the returns and lengths (A, E) of those still running.

    rewards, done, dummy: (T, A, E); open_returns, open_lengths: (A, E), of episodes running at the first row.
    """
    num_steps, num_agents, num_envs = rewards.shape
    rewards, done, dummy = (x.reshape(num_steps, -1) for x in (np.where(dummy, 0.0, rewards), done, dummy))
    # cumulative sums with a leading row: minus the running episode's return and length before this rollout
    sums = np.vstack([-open_returns.reshape(1, -1), np.cumsum(rewards, 0, dtype=np.float64)])
    counts = np.vstack([-open_lengths.reshape(1, -1), np.cumsum(~dummy, 0)])
    columns, ends = np.nonzero(done.T)  # by environment, then by time
    first = np.diff(columns, prepend=-1) > 0
    previous = np.where(first, -1, np.roll(ends, 1))  # end of the previous episode in the same environment
    starts = np.where(first, dummy[0, columns].astype(np.int64), previous + 2)
    last, every = np.full(num_agents * num_envs, -1), np.arange(num_agents * num_envs)
    last[columns] = ends  # the last one of an environment is assigned last
    with np.errstate(invalid="ignore"):  # `Collector._flaw` reports what is not finite
        returns = sums[ends + 1, columns] - sums[previous + 1, columns]
        open_returns = (sums[-1] - sums[last + 1, every]).reshape(num_agents, num_envs)
    lengths = counts[ends + 1, columns] - counts[previous + 1, columns]
    open_lengths = (counts[-1] - counts[last + 1, every]).reshape(num_agents, num_envs)
    order = np.lexsort((columns, ends))
    agents, envs = np.divmod(columns[order], num_envs)
    episodes = FinishedEpisodes(agents, envs, starts[order], ends[order], returns[order], lengths[order])
    return episodes, open_returns, open_lengths
