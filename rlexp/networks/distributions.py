"""Action distributions as functions of packed parameters.

Tensors have any leading shape ``(...)``: parameters (..., P), P = `num_params`; noise (..., noise_size); actions
(..., *action_shape). Sampling is a deterministic function of noise drawn beforehand, so that acting can be compiled and
batched.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlexp.errors import ConfigError


class Categorical:
    """One of n actions; parameters are unnormalised logits (..., n)."""

    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64

    def __init__(self, space: spaces.Discrete) -> None:
        self.num_params = self.noise_size = int(space.n)
        self.start: Any = int(space.start) or None

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise (*shape, P): −log(−log u), u uniform in (0, 1); −log u is drawn as an exponential, never 0."""
        exponential = torch.empty((*shape, self.noise_size), device=generator.device).exponential_(generator=generator)
        return -exponential.log()

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """argmax_i (logit_i + g_i), which is distributed as softmax(logits) (Gumbel-max)."""
        return self.mode(params + noise)

    def mode(self, params: Tensor) -> Tensor:
        """argmax_i logit_i: (...)."""
        return params.argmax(-1)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability log softmax(logits)_a, nats: (...)."""
        return params.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """−Σ_i p_i log p_i: (...), nats."""
        log_p = params.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Σ_i p_i (log p_i − log q_i): (...), nats."""
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """Shifted by the space's `start`."""
        return action if self.start is None else action + self.start

    def to_env_tensor(self, action: Tensor) -> Tensor:
        """`to_env` of tensors, which can be traced: for exported policies."""
        return action if self.start is None else action + torch.as_tensor(self.start)


class MultiCategorical(Categorical):
    """Independent categoricals, one per action dimension; parameters are their concatenated logits.

    Log-probability, entropy and KL are sums over dimensions.
    """

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        if space.nvec.ndim != 1:
            raise ConfigError(f"action space {space}: only one-dimensional MultiDiscrete is supported")
        self.start = space.start.astype(np.int64) if space.start.any() else None
        self.sizes = [int(n) for n in space.nvec]
        self.num_params = self.noise_size = sum(self.sizes)
        self.action_shape = (len(self.sizes),)

    @staticmethod
    def _sum(term: Callable[..., Tensor], *each: Sequence[Tensor]) -> Tensor:
        return torch.stack([term(*args) for args in zip(*each, strict=True)], -1).sum(-1)

    def mode(self, params: Tensor) -> Tensor:
        """Each dimension's argmax: (..., D)."""
        return torch.stack([logits.argmax(-1) for logits in params.split(self.sizes, -1)], -1)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Σ_d log softmax(logits_d)_{a_d}: (...)."""
        return self._sum(super().log_prob, params.split(self.sizes, -1), action.unbind(-1))

    def entropy(self, params: Tensor) -> Tensor:
        """Σ_d H_d: (...), nats."""
        return self._sum(super().entropy, params.split(self.sizes, -1))

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Σ_d KL(p_d ‖ q_d): (...), nats."""
        return self._sum(super().kl, p.split(self.sizes, -1), q.split(self.sizes, -1))


class DiagGaussian:
    """Independent normals; parameters are mean and log standard deviation: (..., 2·D).

    Actions are stored and scored unclipped; only the actions sent to the environment are clipped to its bounds.
    """

    action_dtype = torch.float32

    def __init__(self, space: spaces.Box) -> None:
        if len(space.shape) != 1:
            raise ConfigError(f"action space {space}: only one-dimensional Box is supported")
        self.low, self.high, self.dtype = space.low, space.high, space.dtype
        self.action_shape: tuple[int, ...] = space.shape
        self.noise_size = space.shape[0]
        self.num_params = 2 * self.noise_size

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise (*shape, D)."""
        return torch.randn((*shape, self.noise_size), generator=generator, device=generator.device)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """μ + σ ε: (..., D)."""
        mean, log_std = params.chunk(2, -1)
        return mean + log_std.exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        """μ: (..., D)."""
        return params.chunk(2, -1)[0]

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Σ_d −½ ((a − μ)/σ)² − log σ − ½ log 2π: (...)."""
        mean, log_std = params.chunk(2, -1)
        z = (action - mean) * (-log_std).exp()
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Σ_d log σ + ½ log 2πe: (...), nats."""
        return (params.chunk(2, -1)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Σ_d log(σ_q/σ_p) + (σ_p² + (μ_p − μ_q)²) / (2 σ_q²) − ½: (...), nats."""
        mean_p, log_std_p = p.chunk(2, -1)
        mean_q, log_std_q = q.chunk(2, -1)
        spread = (2 * (log_std_p - log_std_q)).exp() + ((mean_p - mean_q) * (-log_std_q).exp()).square()
        return (log_std_q - log_std_p + 0.5 * spread - 0.5).sum(-1)

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """Clipped to the bounds, in the space's dtype; NaN, of an agent that diverges, is 0 before."""
        return np.where(np.isnan(action), 0, action).clip(self.low, self.high).astype(self.dtype, copy=False)

    def to_env_tensor(self, action: Tensor) -> Tensor:
        """`to_env` of tensors, which can be traced: for exported policies."""
        low, high = torch.from_numpy(self.low), torch.from_numpy(self.high)
        action = torch.where(action.isnan(), torch.zeros_like(action), action).to(low.dtype)
        return torch.minimum(torch.maximum(action, low), high)


Distribution = Categorical | DiagGaussian


def make_distribution(space: spaces.Space) -> Distribution:
    """The distribution over a Discrete, or one-dimensional MultiDiscrete or Box of floats; ConfigError for others."""
    if isinstance(space, spaces.Discrete):
        return Categorical(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagGaussian(space)
    raise ConfigError(f"action space {space} is not supported; use Discrete, MultiDiscrete or a Box of floats")
