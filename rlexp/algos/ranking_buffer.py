"""Ranking buffer: state–action pairs of each agent's episodes with the highest exploration scores."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlexp.data import Rollout, RunSpec

KEPT = ("obs", "actions")
BUCKETS = 2**16  # of visit counts, per agent: bounded memory, however many states there are


class RankedRows(NamedTuple):
    """State–action pairs drawn from the buffer; weight 0 while it is empty."""

    obs: Tensor  # raw
    actions: Tensor
    weights: Tensor


class RankingBuffer:
    """The `size` state–action pairs of each agent from the episodes with the highest S = Σ_i w_i S_i.

    S_0 is the episode's return, undiscounted and raw. Of observations of integers, S_1 is the number of distinct
    states over that of steps, and S_2 the mean of N(s)^−½, N the agent's visits so far, this episode's included,
    counted in hashed buckets. Of floats, S_1 is the standard deviation over the episode, mean over dimensions, and
    S_2 is 0. (Zha et al. 2021, arXiv 2101.08152, section 3.1.) Of longer episodes the last `max_steps` rows count.
    """

    def __init__(self, spec: RunSpec, *, size: int, max_steps: int, weights: tuple[float, float, float]) -> None:
        self.spec, self.size, self.max_steps, self.weights = spec, size, max_steps, weights
        self.scores = np.full((spec.num_agents, size), -np.inf)  # of each pair's episode; −∞: no pair yet
        self.inserted = np.zeros((spec.num_agents, size), np.int64)  # order in which their episodes came
        self.visits = np.zeros((spec.num_agents, 0), np.int64)  # (A, BUCKETS) once discrete states are seen
        self.collected = 0  # rows of each environment, resets included
        self.kept: dict[str, Tensor] = {}  # (A*size, ...)
        self.running: dict[str, Tensor] = {}  # the last rows of each environment, row t at t mod M: (A*E, M, ...)

    def add(self, rollout: Rollout) -> None:
        """Add the episodes that ended in this rollout, and hold its last rows for those that go on."""
        for name in KEPT if not self.kept else ():
            x = getattr(rollout, name)  # (A, T, E, ...)
            self.kept[name] = x.new_zeros((len(x) * self.size, *x.shape[3:]))
            self.running[name] = x.new_zeros((len(x) * self.spec.num_envs, self.max_steps, *x.shape[3:]))
        if not self.visits.size and not rollout.obs.is_floating_point():
            self.visits = np.zeros((len(self.visits), BUCKETS), np.int64)
        episodes = rollout.episodes
        columns = (episodes.agents, episodes.envs, episodes.starts, episodes.ends, episodes.lengths, episodes.returns)
        for agent, env, start, end, length, score in zip(*(x.tolist() for x in columns), strict=True):
            first = max(start, end + 1 - self.max_steps)
            earlier = min(length - (end - start + 1), self.max_steps - (end + 1 - first))  # rows of earlier rollouts
            slots = torch.arange(self.collected - earlier, self.collected, device=self.spec.device) % self.max_steps
            held = {name: table[agent * self.spec.num_envs + env, slots] for name, table in self.running.items()}
            rows = {name: torch.cat([held[name], getattr(rollout, name)[agent, first : end + 1, env]]) for name in KEPT}
            self._insert(agent, self._score(agent, score, rows["obs"]), rows)
        steps = rollout.obs.shape[1]
        newest = torch.arange(max(0, steps - self.max_steps), steps, device=self.spec.device)
        for name, table in self.running.items():
            by_env = getattr(rollout, name).transpose(1, 2).flatten(0, 1)  # (A*E, T, ...)
            table[:, (self.collected + newest) % self.max_steps] = by_env[:, newest]
        self.collected += steps

    def _score(self, agent: int, extrinsic: float, obs: Tensor) -> float:
        """S of an episode, whose states (n, ...) it counts as visited."""
        if obs.is_floating_point():
            local, novelty = obs.double().reshape(len(obs), -1).std(0, correction=0).mean().item(), 0.0
        else:
            keys = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in obs.cpu().numpy()]
            buckets = np.array([int.from_bytes(key, "little") % BUCKETS for key in keys])
            np.add.at(self.visits[agent], buckets, 1)
            local, novelty = len(set(keys)) / len(keys), float((self.visits[agent, buckets] ** -0.5).mean())
        return sum(w * s for w, s in zip(self.weights, (extrinsic, local, novelty), strict=True))

    def _insert(self, agent: int, score: float, rows: dict[str, Tensor]) -> None:
        """Replace pairs of lower or equal scores, the lowest first, of these the oldest, by the episode's last ones."""
        scores, inserted = self.scores[agent], self.inserted[agent]
        if score < scores.min():
            return
        lowest = np.lexsort((inserted, scores))[: len(rows["obs"])]  # empty places first, in order
        replaced = lowest[scores[lowest] <= score]
        index = torch.from_numpy(agent * self.size + replaced).to(self.spec.device)
        for name in KEPT:
            self.kept[name][index] = rows[name][len(rows[name]) - len(replaced) :]
        scores[replaced], inserted[replaced] = score, inserted.max() + 1

    def sample(self, minibatches: int, rows: int) -> RankedRows:
        """Pairs drawn uniformly with replacement: (A, minibatches, rows, ...)."""
        held = (self.scores > -np.inf).sum(1)  # (A,), the first so many places
        shape = (self.spec.num_agents, minibatches, rows)
        draws = np.zeros((self.spec.num_agents, minibatches * rows), np.int64)
        for agent in range(len(draws)):
            u = self.spec.uniform(agent, draws.shape[1])
            draws[agent] = np.minimum(u * held[agent], max(0, held[agent] - 1)).astype(np.int64)
            draws[agent] += agent * self.size
        index = torch.from_numpy(draws.ravel()).to(self.spec.device)
        drawn = {name: table[index].unflatten(0, shape) for name, table in self.kept.items()}
        known = torch.from_numpy((held > 0).astype(np.float32)).to(self.spec.device)
        return RankedRows(**drawn, weights=known[:, None, None].expand(shape).contiguous())

    def summary(self) -> dict[str, Tensor]:
        """Of each agent (A,): pairs kept, and the mean of their scores, NaN while there are none."""
        held = self.scores > -np.inf
        number = held.sum(1)
        mean = np.where(held, self.scores, 0.0).sum(1) / np.where(number > 0, number, np.nan)
        return {name: torch.from_numpy(x).float() for name, x in (("rows", number), ("score", mean))}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        arrays = {name: torch.from_numpy(getattr(self, name).copy()) for name in ("scores", "inserted", "visits")}
        return {"collected": self.collected, "arrays": arrays, "kept": self.kept, "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.collected = state["collected"]
        for name, value in state["arrays"].items():
            setattr(self, name, value.cpu().numpy().copy())
        for name in ("kept", "running"):
            setattr(self, name, {key: value.to(self.spec.device) for key, value in state[name].items()})
