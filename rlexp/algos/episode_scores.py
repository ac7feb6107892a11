"""Scores of finished episodes by which a memory may rank them; its default are their returns."""

from typing import Any

import numpy as np
import torch

from rlexp.algos.advantages import reverse_scan
from rlexp.data import FinishedEpisodes, Rollout, RunSpec

STATE = ("gain", "discount", "expected")


def random_scores(spec: RunSpec, episodes: FinishedEpisodes) -> np.ndarray:
    """Uniform draws (N,), each from its agent's stream: the best `top_k` are a uniform choice of all episodes."""
    scores = np.empty(len(episodes.agents))
    for agent in np.unique(episodes.agents).tolist():
        of_agent = episodes.agents == agent
        scores[of_agent] = spec.uniform(agent, int(of_agent.sum()))
    return scores


def redrawn_scores(spec: RunSpec, seen: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Scores (A, K) of episodes that are a uniform choice of all seen (A,): the highest of as many draws; held: (A, K).

    For memories of versions that chose at random without a score.
    """
    scores = np.full(held.shape, -np.inf)
    for agent, slots in enumerate(held):
        count = int(slots.sum())
        scores[agent, slots] = np.sort(spec.uniform(agent, int(seen[agent])))[::-1][:count]
    return scores


class AdvantageScores:
    """How much better each episode was than the critic expected at its start.

        Σ_t γ^t δ_t = Σ_t γ^t r_t + γ^L V(o_L) − V(o_0),   δ_t = r_t + γ V(o_{t+1}) − V(o_t)

    over its L steps, with rewards r as the learner sees them, V as it was when the policy acted, and V(o_L) = 0 where
    the episode terminated; where it was truncated o_L is its final observation. γ: gamma.
    """

    def __init__(self, spec: RunSpec, gamma: float) -> None:
        self.gamma = gamma
        shape = (spec.num_agents, spec.num_envs)
        # of the running episodes (A, E): discounted rewards so far, γ^(steps so far), V of the first observation
        self.gain, self.discount, self.expected = np.zeros(shape), np.ones(shape), np.zeros(shape)

    def __call__(self, rollout: Rollout) -> np.ndarray:
        """Scores of the episodes that ended in this rollout (N,)."""
        done = rollout.terminated | rollout.truncated
        after = torch.cat([rollout.values[:, 1:], rollout.last_values[:, None]], 1)  # V(o_{t+1}) (A, T, E)
        rewards = torch.where(rollout.weights > 0, rollout.learner_rewards, 0.0).double()
        final = torch.where(done & ~rollout.terminated, after, 0.0).double()
        scanned = reverse_scan(rewards + self.gamma * final, self.gamma * (~done).double())
        # discounted sum of each row to its episode's end, or the rollout's; V
        ahead, values = scanned.cpu().numpy(), rollout.values.double().cpu().numpy()
        gain, discount, expected = self.gain.copy(), self.discount.copy(), self.expected.copy()
        began = rollout.open_lengths == 0  # episodes that did not run before this rollout
        scores = np.empty(len(rollout.episodes.agents))
        each = zip(rollout.episodes.agents, rollout.episodes.envs, rollout.episodes.starts, strict=True)
        for index, (agent, env, start) in enumerate(each):
            at = agent, start, env
            if began[agent, env]:
                scores[index] = ahead[at] - values[at]
            else:
                scores[index] = gain[agent, env] + discount[agent, env] * ahead[at] - expected[agent, env]
            began[agent, env] = True
        self._carry(rollout.open_starts(), began, ahead, values)
        return scores

    def _carry(self, start: np.ndarray, began: np.ndarray, ahead: np.ndarray, values: np.ndarray) -> None:
        """Sum up the episodes still running. start: first row of each (A, E); began: whether it is in this rollout."""
        steps = ahead.shape[1]
        row = np.minimum(start, steps - 1)[:, None]  # (A, 1, E)
        first, value = (np.take_along_axis(x, row, 1)[:, 0] for x in (ahead, values))
        runs = start < steps  # else the next one begins with the next rollout
        self.gain = np.where(began, 0.0, self.gain) + np.where(began, 1.0, self.discount) * np.where(runs, first, 0.0)
        self.expected = np.where(began, value, self.expected)
        self.discount = np.where(began, 1.0, self.discount) * self.gamma ** np.maximum(steps - start, 0)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        for name in STATE:
            setattr(self, name, state[name].cpu().numpy().copy())
