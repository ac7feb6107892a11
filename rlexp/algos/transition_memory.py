"""Transition memory: each agent's last transitions, with the discounted returns of the episodes they were in."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlexp.data import Rollout, RunSpec

KEPT = ("obs", "actions")
ARRAYS = ("rewards", "values", "returns", "known")


class TransitionRows(NamedTuple):
    """Transitions drawn from the memory; weight 0 while it has none."""

    obs: Tensor  # raw
    actions: Tensor
    returns: Tensor  # discounted, of the episode from here on
    weights: Tensor  # of importance sampling, the largest of each minibatch 1


class TransitionMemory:
    """The last `size` rows of each agent: first in, first out. A row can be drawn once its episode has ended.

    R_t = Σ_k γ^k r_{t+k} to the episode's end, plus γ^n V(o_T) where it was truncated and `bootstrap_truncation`
    holds, as in `gae`; rewards r are those that the learner sees. Each environment has M = size // E rows, row t of
    training at t mod M; reset rows take their place and are never drawn.

    Prioritised (Schaul et al. 2016, arXiv 1511.05952): a row is drawn with P(i) ∝ max(R_i − V_i, 0)^α, V_i the
    critic's value when it was collected, and weighs (N · P(i))^−β, N the number of rows known.
    """

    def __init__(
        self, spec: RunSpec, *, size: int, gamma: float, bootstrap_truncation: bool, alpha: float, beta: float
    ) -> None:
        self.spec, self.gamma, self.bootstrap_truncation = spec, gamma, bootstrap_truncation
        self.alpha, self.beta = alpha, beta
        self.rows = max(1, size // spec.num_envs)  # M
        shape = (spec.num_agents, spec.num_envs, self.rows)
        self.rewards, self.values, self.returns = (np.zeros(shape, np.float32) for _ in range(3))
        self.known = np.zeros(shape, bool)
        self.count = 0  # rows collected in each environment
        self.kept: dict[str, Tensor] = {}  # (A*E, M, ...)

    def add(self, rollout: Rollout) -> None:
        """Add a rollout's rows, and the returns of the episodes that ended in it."""
        steps = rollout.obs.shape[1]
        newest = np.arange(max(0, steps - self.rows), steps)  # a rollout may be longer than the memory
        slots = (self.count + newest) % self.rows
        index, at = (torch.from_numpy(x).to(self.spec.device) for x in (newest, slots))
        for name in KEPT:
            rows = getattr(rollout, name).transpose(1, 2).flatten(0, 1)  # (A, T, E, ...) -> (A*E, T, ...)
            if name not in self.kept:
                self.kept[name] = rows.new_zeros((len(rows), self.rows, *rows.shape[2:]))
            self.kept[name][:, at] = rows[:, index]
        rewards, values = (x.cpu().numpy().swapaxes(1, 2) for x in (rollout.learner_rewards, rollout.values))
        self.rewards[:, :, slots], self.values[:, :, slots] = rewards[:, :, newest], values[:, :, newest]
        self.known[:, :, slots] = False
        truncated = (rollout.truncated & ~rollout.terminated).cpu().numpy()  # (A, T, E)
        last_values = rollout.last_values.cpu().numpy()
        episodes = rollout.episodes
        columns = (episodes.agents, episodes.envs, episodes.ends, episodes.lengths)
        for agent, env, end, length in zip(*(x.tolist() for x in columns), strict=True):
            final = 0.0
            if self.bootstrap_truncation and truncated[agent, end, env]:  # the next row has the last state
                final = float(values[agent, env, end + 1] if end + 1 < steps else last_values[agent, env])
            oldest = max(self.count + end - length + 1, self.count + steps - self.rows)  # that is not overwritten
            self._finish(agent, env, np.arange(self.count + end, oldest - 1, -1) % self.rows, final)
        self.count += steps

    def _finish(self, agent: int, env: int, slots: np.ndarray, final: float) -> None:
        """Write the returns of an episode's rows, last one first; `final` is worth what comes after them."""
        returns = []
        for reward in self.rewards[agent, env, slots].tolist():
            final = reward + self.gamma * final
            returns.append(final)
        self.returns[agent, env, slots] = returns
        self.known[agent, env, slots] = True

    def sample(self, minibatches: int, rows: int) -> TransitionRows:
        """Prioritised draws with replacement: (A, minibatches, rows, ...)."""
        agents, shape = self.spec.num_agents, (self.spec.num_agents, minibatches, rows)
        chosen, weights = np.zeros((agents, minibatches * rows), np.int64), np.zeros(shape, np.float32)
        for agent in range(agents):
            u = self.spec.uniform(agent, chosen.shape[1])
            surprise = np.maximum(self.returns[agent] - self.values[agent], 0.0, dtype=np.float64)
            priorities = np.where(self.known[agent], surprise**self.alpha, 0.0).ravel()  # (E*M,); 0^0 is 1
            total = priorities.cumsum()
            if total[-1] == 0:
                continue
            last = np.flatnonzero(priorities)[-1]  # as u · total may round to total
            chosen[agent] = np.searchsorted(total, u * total[-1], side="right").clip(max=last)
            share = priorities[chosen[agent]].reshape(minibatches, rows) / total[-1]
            importance = (self.known[agent].sum() * share) ** -self.beta
            weights[agent] = importance / importance.max(1, keepdims=True)
        flat = (chosen + np.arange(agents)[:, None] * self.known[0].size).ravel()
        index = torch.from_numpy(flat).to(self.spec.device)
        drawn = {name: table.flatten(0, 1)[index] for name, table in self.kept.items()}
        blank = torch.from_numpy(weights.ravel() == 0).to(self.spec.device)
        for x in drawn.values():
            x[blank] = 0  # not a reset's observation: it may be NaN, which no weight keeps out of a gradient
        returns = torch.from_numpy(self.returns.ravel()[flat].reshape(shape))
        on_device = {"returns": returns, "weights": torch.from_numpy(weights)}
        tensors = {name: x.unflatten(0, shape) for name, x in drawn.items()}
        return TransitionRows(**tensors, **{name: x.to(self.spec.device) for name, x in on_device.items()})

    def summary(self) -> dict[str, Tensor]:
        """Of each agent (A,): rows that can be drawn, and the share of them that were better than expected."""
        number = self.known.sum((1, 2))
        better = (self.known & (self.returns > self.values)).sum((1, 2)) / np.where(number > 0, number, np.nan)
        return {name: torch.from_numpy(x).float() for name, x in (("known", number), ("better", better))}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs: arrays (A*E, M), tensors (A*E, M, ...)."""
        arrays = {name: torch.from_numpy(getattr(self, name).copy()).flatten(0, 1) for name in ARRAYS}
        return {"count": self.count, "arrays": arrays, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.count = state["count"]
        for name, value in state["arrays"].items():
            setattr(self, name, value.cpu().numpy().reshape(getattr(self, name).shape).copy())
        self.kept = {name: value.to(self.spec.device) for name, value in state["kept"].items()}
