"""Terms of the PPO objective: pure functions, one equation each.

Rows have a weight in {0, 1}: 0 for the dummy rows of next-step autoreset, which must not affect the loss. They are
masked by selection, not multiplied by 0: NaN · 0 is NaN. Where ranks share a minibatch, a rank's rows have one weight
w in place of 1, by which means over ranks are means over the minibatch; see `share_weights`.
"""

from typing import NamedTuple

from torch import Tensor

from rlexp.data import masked


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Σ_{i: w_i > 0} x_i / Σ_i w_i over all rows; 0 where no row has weight.

    x, weights: the same shape; weights in {0, 1}, or those of `share_weights`. Returns a scalar. Raises ValueError for
    other shapes, as (B, B), which is (B, 1) − (B,).
    """
    if x.shape != weights.shape:
        shapes = f"{tuple(x.shape)}, weights are {tuple(weights.shape)}"
        raise ValueError(f"weighted_mean: x is {shapes}; a (B, 1) takes .squeeze(-1), several terms a sum over them")
    return masked(x, weights).sum() / weights.sum().clamp_min(1e-6)  # of one row it may be 1 / ranks


def share_weights(weights: Tensor, whole: Tensor, ranks: int) -> Tensor:
    """Weights of a rank's rows, w = (Σ whole / ranks) / Σ weights in place of 1.

    Then Σ_r weighted_mean_r / ranks = (1/R) Σ_r Σ_{i in r} x_i / (N/R) = Σ_i x_i / N, the mean over all N rows.

    weights: in {0, 1}, of the rank's rows (b,); whole: of all rows of the minibatch (B,).
    """
    return weights * (whole.sum() / ranks / weights.sum().clamp_min(1.0))


def advantage_moments(advantages: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, with Bessel's correction, over rows with weight in {0, 1}. Scalars."""
    mean = weighted_mean(advantages, weights)
    variance = masked((advantages - mean).square(), weights).sum() / (weights.sum() - 1.0).clamp_min(1.0)
    return mean, variance.sqrt()


def normalize_advantages(
    advantages: Tensor, weights: Tensor, eps: float = 1e-8, *, moments: tuple[Tensor, Tensor] | tuple[()] = ()
) -> Tensor:
    """(A − mean A) / (std A + eps) over rows with weight: (B,). moments: ``batch.moments``; default: of these rows."""
    mean, deviation = moments or advantage_moments(advantages, weights)
    return (advantages - mean) / (deviation + eps)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, weights: Tensor, clip_coef: Tensor) -> Tensor:
    """L = −E[ min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) ]  (Schulman et al. 2017, equation 7). Scalar.

    ratio ρ = π_θ(a|s) / π_old(a|s), advantages A, weights: (B,).
    """
    clipped = ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef)
    return -weighted_mean((ratio * advantages).minimum(clipped * advantages), weights)


def value_loss(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """L = ½ E[ (V − R)² ]. values, returns, weights: (B,). Scalar."""
    return 0.5 * weighted_mean((values - returns).square(), weights)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, clip_coef: Tensor
) -> Tensor:
    """L = ½ E[ max((V − R)², (V_old + clip(V − V_old, −ε, ε) − R)²) ]. All (B,). Scalar."""
    clipped = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
    return 0.5 * weighted_mean((values - returns).square().maximum((clipped - returns).square()), weights)


class RatioStatistics(NamedTuple):
    """How far the policy has moved from the behaviour policy."""

    old_approx_kl: Tensor  # E[−log ρ], the k1 estimator of KL(π_old ‖ π_θ)
    approx_kl: Tensor  # E[(ρ − 1) − log ρ], the k3 estimator: never negative, less noisy
    clip_fraction: Tensor  # share of rows with |ρ − 1| > ε


def ratio_statistics(log_ratio: Tensor, weights: Tensor, clip_coef: Tensor) -> RatioStatistics:
    """Both KL estimators of Schulman's note (joschu.net/blog/kl-approx.html) and the clip fraction.

    log_ratio: log ρ (B,). Scalars, nats.
    """
    ratio = log_ratio.exp()
    return RatioStatistics(
        old_approx_kl=weighted_mean(-log_ratio, weights),
        approx_kl=weighted_mean((ratio - 1.0) - log_ratio, weights),
        clip_fraction=weighted_mean(((ratio - 1.0).abs() > clip_coef).to(log_ratio.dtype), weights),
    )


def explained_variance(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """1 − Var[R − V] / Var[R]: 1 is perfect, 0 no better than the mean, negative worse. Scalar."""

    def variance(x: Tensor) -> Tensor:
        return weighted_mean((x - weighted_mean(x, weights)).square(), weights)

    return 1.0 - variance(returns - values) / variance(returns).clamp_min(1e-12)
