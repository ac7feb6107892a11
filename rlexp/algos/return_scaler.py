"""Reward scaling by the running standard deviation of the discounted return."""

import torch
from torch import Tensor

from rlexp.algos.advantages import reverse_scan
from rlexp.data import masked
from rlexp.networks.normalizer import merge_moments


class ReturnScaler:
    """Divides rewards by the running standard deviation of the discounted return, and clips them to ±clip.

    G_t = r_t + γ G_{t−1}, reset with each episode. A rollout's returns update the statistics before its rewards are
    scaled, all by the same factor. One statistic per agent; γ is a number, or one per agent (A, 1, 1). Only the
    learner's rewards are scaled: recorded returns stay raw.
    """

    def __init__(
        self, num_agents: int, num_envs: int, gamma: float | Tensor, clip: float, device: torch.device
    ) -> None:
        self.gamma, self.clip = gamma, clip
        self.running = torch.zeros(num_agents, num_envs, device=device)
        self.mean = torch.zeros(num_agents, device=device)
        self.var = torch.ones(num_agents, device=device)
        self.count = torch.zeros(num_agents, device=device)

    def __call__(self, rewards: Tensor, done: Tensor, weights: Tensor) -> Tensor:
        """Scaled rewards. rewards, done, weights: (A, T, E)."""
        rewards = masked(rewards, weights)
        not_done = ~done
        entered = torch.cat([(rewards[:, :1] + self.gamma * self.running[:, None]), rewards[:, 1:]], 1)
        decay = self.gamma * torch.cat([torch.zeros_like(not_done[:, :1]), not_done[:, :-1]], 1)
        returns = reverse_scan(entered.flip(1), decay.flip(1)).flip(1)  # a forward scan, by flipping time
        self.running = returns[:, -1] * not_done[:, -1]
        self.mean, self.var, self.count = torch.vmap(merge_moments)(
            self.mean, self.var, self.count, returns.flatten(1), weights.flatten(1)
        )
        scale = (self.var + 1e-8).rsqrt()[:, None, None]
        return (rewards * scale).clamp(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Tensor]:
        """Statistics and running returns."""
        return {"running": self.running, "mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore statistics and running returns."""
        for name, value in state.items():
            setattr(self, name, value.to(self.mean.device))
