"""Running means and variances, and observation normalisation.

Statistics change between updates, never within one: a rollout is collected and learned from with the same statistics,
so that the ratio of the first minibatch is exactly 1. Evaluation never changes them.
"""

import torch
from torch import Tensor, nn

from rlexp.data import masked


def merge_moments(
    mean: Tensor, var: Tensor, count: Tensor, x: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Update running moments (mean, var, count) with the rows of x (Chan et al. 1979).

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
    """(x − mean) / √(var + 1e-8), clipped to ±clip. Statistics are buffers, initially mean 0 and variance 1."""

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
