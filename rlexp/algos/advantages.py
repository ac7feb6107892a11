"""Generalised advantage estimation (GAE) under next-step autoreset."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlexp.errors import ConfigError


class Advantages(NamedTuple):
    """Both (..., T, E)."""

    advantages: Tensor
    returns: Tensor  # λ-returns, the critic's targets: advantages + values
    extra: Any = ()  # rows of the loss that the objective added: see `Algorithm.rewards`


def gae(
    rewards: Tensor,
    values: Tensor,
    last_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float | Tensor,
    lam: float | Tensor,
    bootstrap_truncation: bool = True,
) -> Advantages:
    """δ_t = r_t + γ V(o_{t+1}) (1 − terminated_t) − V(o_t);  A_t = δ_t + γ λ (1 − done_t) A_{t+1}.

    Schulman et al. 2016 (arXiv 1506.02438), equation 16, with done = terminated | truncated. Under next-step
    autoreset o_{t+1} is the true final observation wherever step t ends an episode, so truncation bootstraps from
    the final state. The dummy step that follows belongs to no episode: the recursion is cut at done, and its row
    contributes only V(o_{t+1}) of a truncated step. `bootstrap_truncation` False treats truncation as termination,
    as CleanRL does.

    rewards r, values V(o_t), terminated and truncated at step t (bool): (..., T, E); last_values V(o_T): (..., E).
    gamma γ, lam λ (0 is one-step TD, 1 is Monte Carlo): numbers, or one per agent (A, 1, 1).
    """
    done = terminated | truncated
    ended = terminated if bootstrap_truncation else done
    next_values = torch.cat([values[..., 1:, :], last_values.unsqueeze(-2)], -2)  # (..., T, E)
    delta = rewards + gamma * torch.where(ended, 0.0, next_values) - values
    dummy = torch.cat([torch.zeros_like(done[..., :1, :]), done[..., :-1, :]], -2)  # row 0 has no predecessor
    delta = torch.where(dummy, 0.0, delta)
    advantages = reverse_scan(delta, gamma * lam * ~done)
    return Advantages(advantages, advantages + values)


def reverse_scan(x: Tensor, decay: Tensor) -> Tensor:
    """y_t = x_t + decay_t · y_{t+1}, y_T = 0; both (..., T, E).

    By doubling, in log₂ T steps instead of T: if y_t sums the 2^k rows from t on, and d_t is the product of their
    decays, then y_t + d_t · y_{t + 2^k} sums the 2^(k+1) rows from t on.
    """
    span, steps = 1, x.shape[-2]
    while span < steps:
        head, tail = slice(None, -span), slice(span, None)
        x = torch.cat([torch.addcmul(x[..., head, :], decay[..., head, :], x[..., tail, :]), x[..., -span:, :]], -2)
        # rows whose sum has reached the end are complete
        decay = torch.cat([decay[..., head, :] * decay[..., tail, :], torch.zeros_like(decay[..., -span:, :])], -2)
        span *= 2
    return x


@dataclass(kw_only=True)
class GAE:
    """`gae` with fixed parameters: the config group `gae`. Raises ConfigError for γ or λ outside [0, 1]."""

    gamma: float = 0.99
    lam: float = 0.95
    bootstrap_truncation: bool = True

    def __post_init__(self) -> None:
        for name in ("gamma", "lam"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"gae.{name}={getattr(self, name)}: must lie in [0, 1]")

    @classmethod
    def side_by_side(cls, each: "Sequence[GAE]", device: torch.device) -> "GAE":
        """Merge the estimators of several agents, one each, that differ in γ and λ only."""
        merged = copy.copy(each[0])
        for name in ("gamma", "lam"):
            values = [getattr(one, name, None) for one in each]  # third-party estimators may have neither
            if len(set(values)) > 1:
                setattr(merged, name, torch.tensor(values, device=device).reshape(-1, 1, 1))
        return merged

    def __call__(
        self, rewards: Tensor, values: Tensor, last_values: Tensor, terminated: Tensor, truncated: Tensor
    ) -> Advantages:
        """Advantages and λ-returns; see `gae`."""
        options: dict[str, Any] = {name: getattr(self, name) for name in ("gamma", "lam", "bootstrap_truncation")}
        return gae(rewards, values, last_values, terminated, truncated, **options)
