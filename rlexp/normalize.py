"""Running means and variances, and the two normalisers built on them.

Statistics move between updates, never within one: a rollout is collected, scored and learnt from under the same
observation statistics, so that the ratio of the first minibatch is exactly 1. Evaluation never moves them.
"""

import torch
from torch import Tensor, nn

from rlexp.advantages import reverse_scan
from rlexp.losses import masked


def merge_moments(
    mean: Tensor, var: Tensor, count: Tensor, x: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the data behind (mean, var, count) and the rows of x together (Chan et al. 1979).

    mean, var: (F...); count: (); x: (N, F...); weights: (N,) in {0, 1}. Variances are population variances.
    """
    w = weights.reshape(-1, *[1] * (x.dim() - 1))
    n = weights.sum()
    safe_n = n.clamp_min(1.0)
    batch_mean = masked(x, w).sum(0) / safe_n
    batch_var = masked((x - batch_mean).square(), w).sum(0) / safe_n
    total = count + n
    safe_total = total.clamp_min(1.0)
    delta = batch_mean - mean
    new_mean = mean + delta * (n / safe_total)
    m2 = var * count + batch_var * n + delta.square() * (count * n / safe_total)
    return new_mean, torch.where(total > 0, m2 / safe_total, var), total


class ObservationNormalizer(nn.Module):
    """(x − mean) / √(var + 1e-8), clipped to ±clip; statistics are buffers of the agent's network.

    Before any data the statistics are mean 0, variance 1.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised observations, the shape of x."""
        return ((x - self.mean) * (self.var + 1e-8).rsqrt()).clamp(-self.clip, self.clip)


class ReturnScaler:
    """Divides rewards by the running standard deviation of the discounted return, and clips them to ±clip.

    G_t = r_t + γ G_{t−1}, restarted with each episode; the same for every reward of a rollout, which its own returns
    have entered. One statistic an agent; γ is a number, or one an agent (A, 1, 1). Only the learner's rewards are
    scaled: recorded returns stay raw.
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
        goes_on = ~done
        entered = torch.cat([(rewards[:, :1] + self.gamma * self.running[:, None]), rewards[:, 1:]], 1)
        decay = self.gamma * torch.cat([torch.zeros_like(goes_on[:, :1]), goes_on[:, :-1]], 1)
        returns = reverse_scan(entered.flip(1), decay.flip(1)).flip(1)  # the past takes the place of the future
        self.running = returns[:, -1] * goes_on[:, -1]
        self.mean, self.var, self.count = torch.vmap(merge_moments)(
            self.mean, self.var, self.count, returns.flatten(1), weights.flatten(1)
        )
        scale = (self.var + 1e-8).rsqrt()[:, None, None]
        return (rewards * scale).clamp(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Tensor]:
        """Statistics and the running returns."""
        return {"running": self.running, "mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up saved statistics."""
        for name, value in state.items():
            setattr(self, name, value.to(self.mean.device))
