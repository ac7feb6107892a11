"""Intervals over seeds, as pure functions of arrays of scores; the test of a difference is in `permutation.py`.

The unit is the seed: one number per seed, never one per episode. What each interval covers, for scores of many shapes,
is simulated by `scripts/promises`. Sources: Agarwal et al. 2021 (arXiv 2108.13264) for the interquartile mean, the
probability of improvement and profiles; Rubin 1981 for the Bayesian bootstrap; Newcombe 2006; Johnson 1978; Welch 1947.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from rlexp.compare.measures import iqm
from rlexp.text import number

LEVEL = 0.95
RESAMPLES = 2000
BOUNDED = 5  # seeds from which on the range of their scores bounds the interval of their IQM
WEIGHTINGS = 10_000  # draws of the Bayesian bootstrap: quantiles far out, for many comparisons
BOOTSTRAP_SEED = 20210830  # fixed: the same runs give the same numbers to the last digit


def bounds(low: float, high: float) -> str:
    """Format an interval as " [low, high]"; empty for NaN."""
    return "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"


class Interval(NamedTuple):
    """An estimate and the bounds of its 95 % interval, NaN where there are none."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan

    def __str__(self) -> str:
        return number(self.value) + bounds(self.low, self.high)


class Band(NamedTuple):
    """Estimates at the points of a curve and the bounds of their pointwise 95 % intervals, (points,) each."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@functools.lru_cache(maxsize=64)  # arms with equally many seeds share the draws: a hundred intervals are cheap
def redraws(n: int, stratum: int = 0) -> np.ndarray:
    """Indices of the seeds in each bootstrap resample (RESAMPLES, n)."""
    return np.random.default_rng([BOOTSTRAP_SEED, n, stratum]).integers(0, n, (RESAMPLES, n))


@functools.lru_cache(maxsize=64)
def _middle_weights(n: int, stratum: int = 0) -> np.ndarray:
    """Weights of n seeds, in ascending order, in the IQM of each draw of the Bayesian bootstrap (WEIGHTINGS, n).

    A draw weighs the seeds by Dirichlet(1, …, 1) (Rubin 1981); its IQM is the mean between the quartiles.
    """
    weights = np.random.default_rng([BOOTSTRAP_SEED, n, stratum]).dirichlet(np.ones(n), WEIGHTINGS)
    below = np.clip(np.cumsum(weights, 1), 0.25, 0.75)
    return 2 * np.diff(below, axis=1, prepend=0.25)


def _weighted_iqms(scores: np.ndarray, stratum: int = 0) -> np.ndarray:
    """IQM of the scores (n,) in each draw (WEIGHTINGS,)."""
    return _middle_weights(len(scores), stratum) @ np.sort(scores)


def _expanded(n: int, dof: int, alpha: float) -> float:
    """Tail of Bayesian-bootstrap quantiles for an interval at level 1 − alpha.

    The draws' variance is (n − 1)/(n + 1) of s²/n, and with few seeds Student's t is wider than the normal, as in
    Hesterberg's (2015) expanded percentiles. From 8 seeds on the latter would be too wide.
    """
    quantile = _student(dof, 1 - alpha) if n < 8 else float(stats.norm.ppf(1 - alpha / 2))
    return float(stats.norm.sf(math.sqrt((n + 1) / (n - 1)) * quantile))


def iqm_interval(scores: np.ndarray, limits: tuple[float | None, float | None] = (None, None)) -> Interval:
    """IQM of one arm's seeds (n,), by the Bayesian bootstrap with expanded quantiles; NaN bounds for a single seed.

    Where the middle half is constant the interval still reaches for what lies outside, as a seed there may weigh more.
    It is within the range of the scores, which the IQM is outside of in one study of four with three seeds: with fewer
    than BOUNDED it reaches at least as far as that of the mean, within the limits of a score.
    """
    n, value = len(scores), float(iqm(scores))
    if n < 2:
        return Interval(value)
    tail = _expanded(n, n - 1, 1 - LEVEL)
    low, high = np.clip(np.quantile(_weighted_iqms(scores), [tail, 1 - tail]), scores.min(), scores.max())
    of_mean = mean_interval(scores, limits) if n < BOUNDED else Interval(value, value, value)
    return Interval(value, min(value, float(low), of_mean.low), max(value, float(high), of_mean.high))


def iqm_difference(arm: np.ndarray, baseline: np.ndarray, alpha: float = 0.05) -> Interval:
    """Difference of the IQMs of two arms' seeds, as `iqm_interval`; independent draws for the two arms."""
    fewest, value = min(len(arm), len(baseline)), float(iqm(arm) - iqm(baseline))
    if fewest < 2:
        return Interval(value)
    tail = _expanded(fewest, len(arm) + len(baseline) - 2, alpha)
    low, high = np.quantile(_weighted_iqms(arm) - _weighted_iqms(baseline, 1), [tail, 1 - tail])
    of_means = (
        welch([(summary(arm), summary(baseline))], alpha) if fewest < BOUNDED else Difference(value, value, value)
    )
    ends = (value, min(value, float(low), of_means.low), max(value, float(high), of_means.high))
    digits = 12 - math.ceil(math.log10(max(1e-300, np.abs(arm).max(), np.abs(baseline).max())))
    return Interval(*(round(x, digits) for x in ends))  # equal IQMs differ by 0, not by what rounding left


def mean_interval(scores: np.ndarray, limits: tuple[float | None, float | None] = (None, None)) -> Interval:
    """Mean of one arm's seeds (n,) with its interval, within the limits of a score; NaN bounds for a single seed.

    Student's x̄ ± t s/√n, extended on the side of the long tail by Johnson's correction for the skewness γ of the scores
    (Johnson 1978, JASA 73, 536): γ (1 + 2t²) s/(6n).
    """
    return Interval(*(float(each[0]) for each in mean_band(scores[None], limits)))


def mean_band(scores: np.ndarray, limits: tuple[float | None, float | None] = (None, None)) -> Band:
    """`mean_interval` at every point of a curve: scores of the seeds (points, n)."""
    n, value = scores.shape[-1], scores.mean(-1)
    if n < 2:
        return Band(value, np.full(len(value), np.nan), np.full(len(value), np.nan))
    equal = np.ptp(scores, -1) <= 1e-12 * np.abs(scores).max(-1)  # whose computed deviation is a rounding error
    value = np.where(equal, scores[:, 0], value)
    t, s = _student(n - 1), np.where(equal, 0.0, scores.std(-1, ddof=1))
    cubes = ((scores - value[:, None]) / np.where(equal, 1.0, s)[:, None]) ** 3
    skewness = n / ((n - 1) * (n - 2)) * cubes.sum(-1) if n > 2 else 0.0
    half, tail = t * s / math.sqrt(n), skewness * (1 + 2 * t * t) * s / (6 * n)
    low, high = (math.inf * side if limit is None else limit for side, limit in zip((-1, 1), limits, strict=True))
    return Band(
        value, np.maximum(value - half + np.minimum(0, tail), low), np.minimum(value + half + np.maximum(0, tail), high)
    )


class Difference(NamedTuple):
    """Difference of two arms' means, in units of the score."""

    value: float = np.nan
    low: float = np.nan  # of the interval; NaN with a single seed
    high: float = np.nan
    p: float = np.nan  # two-sided; NaN if there are too few scores for any p below alpha
    error: float = np.nan  # standard error
    alpha: float = 0.05  # the interval is at level 1 − alpha

    def __str__(self) -> str:
        return f"{self.value:+.4g}{bounds(self.low, self.high)}"


class Summary(NamedTuple):
    """Sufficient statistics of one arm for Welch's test."""

    mean: float
    variance: float  # with n − 1; NaN for a single seed
    n: int


def summary(scores: np.ndarray) -> Summary:
    """Summarise the seeds of one arm (n,)."""
    if len(scores) < 2:
        return Summary(float(scores.mean()), np.nan, len(scores))
    if np.ptp(scores) == 0:  # the computed variance would be rounding error
        return Summary(float(scores[0]), 0.0, len(scores))
    return Summary(float(scores.mean()), float(scores.var(ddof=1)), len(scores))


def welch(pairs: Sequence[tuple[Summary, Summary]], alpha: float = 0.05) -> Difference:
    """Mean of the differences of means, one pair of arms per environment, by Student's t; NaN bounds with one seed.

    SE² = Σ s²/n / E², ν = SE⁴ / Σ ((s²/n)/E²)²/(n − 1), over both arms of all E environments (Welch; Satterthwaite).
    """
    value = float(np.mean([x.mean - y.mean for x, y in pairs]))
    arms = [arm for pair in pairs for arm in pair]
    if min(arm.n for arm in arms) < 2:
        return Difference(value, alpha=alpha)
    parts = [arm.variance / arm.n / len(pairs) ** 2 for arm in arms]
    error = math.sqrt(sum(parts))
    if error == 0:
        return Difference(value, value, value, float(value == 0), 0.0, alpha)
    dof = error**4 / sum(part**2 / (arm.n - 1) for part, arm in zip(parts, arms, strict=True))
    half = _student(dof, 1 - alpha) * error
    return Difference(value, value - half, value + half, 2 * float(stats.t.sf(abs(value) / error, dof)), error, alpha)


def probability_of_improvement(arm: np.ndarray, baseline: np.ndarray, alpha: float = 0.05) -> Interval:
    """P(X > Y) + ½ P(X = Y) over all pairs of seeds, with Newcombe's score interval; NaN bounds for a single seed.

    All θ with |θ̂ − θ| ≤ t · √V(θ), V(θ) = θ(1−θ)/(nm) · [1 + (N−1)((1−θ)/(2−θ) + θ/(1+θ))], N = (n+m)/2 (method 5 of
    Newcombe 2006, Statistics in Medicine 25, 559), here with Student's t with n+m−2 degrees of freedom. Bootstrap
    percentiles would cover 76 % at ten seeds where θ is near 1.
    """
    n, m = len(arm), len(baseline)
    value = float(((arm[:, None] > baseline) + 0.5 * (arm[:, None] == baseline)).mean())
    if min(n, m) < 2:
        return Interval(value)
    theta = np.linspace(0, 1, 2001)
    spread = 1 + ((n + m) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    error = np.sqrt(theta * (1 - theta) / (n * m) * spread)
    inside = theta[np.abs(value - theta) <= _student(n + m - 2, 1 - alpha) * error + 1e-12]
    return Interval(value, float(min(inside[0], value)), float(max(inside[-1], value)))


def _student(dof: float, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t."""
    return float(stats.t.ppf((1 + level) / 2, dof))


def aggregate_iqm(scores: Sequence[np.ndarray]) -> Interval:
    """IQM of the normalised scores of all seeds of all environments, one array per environment.

    Stratified bootstrap, resampling seeds within each environment, with expanded percentiles (Hesterberg 2015, arXiv
    1411.5279): a resample of n has a deviation too small by √((n−1)/n), and Student's t is wider than the normal, so
    the percentiles are the normal's at √(n/(n−1)) · t, n the fewest seeds of any environment. Covers 92 % from five
    seeds per environment, 90 % at three. NaN bounds if an environment has a single seed.
    """
    return Interval(*(float(x[0]) for x in aggregate_band([x[None] for x in scores])))


def aggregate_band(scores: Sequence[np.ndarray]) -> Band:
    """`aggregate_iqm` at every point of a curve: scores (points, n) per environment; n may differ between them."""
    pooled, sizes = np.concatenate(scores, -1), [x.shape[-1] for x in scores]
    value, total = iqm(pooled), sum(sizes)
    if min(sizes) < 2:
        return Band(value, np.full(len(value), np.nan), np.full(len(value), np.nan))
    starts = np.cumsum([0, *sizes[:-1]])
    drawn = np.concatenate([start + redraws(n, k) for k, (start, n) in enumerate(zip(starts, sizes, strict=True))], 1)
    tail = stats.norm.sf(math.sqrt(min(sizes) / (min(sizes) - 1)) * _student(total - len(sizes)))
    middle = slice(total // 4, total - total // 4)
    ranks, ends = np.empty(total, np.int16 if total < 2**15 else np.int64), np.empty((len(value), 2))
    for k, point in enumerate(pooled):
        order = np.argsort(point)
        ranks[order] = np.arange(total)
        chosen = np.sort(ranks[drawn], -1)[:, middle]  # small integers: sorted four times as fast as the scores
        ends[k] = np.quantile(point[order][chosen].mean(-1), [tail, 1 - tail])
    return Band(value, ends[:, 0], ends[:, 1])


def profile(scores: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Performance profile: fraction of seeds with a normalised score above τ, averaged over environments (τ,)."""
    return np.mean([(x[:, None] > thresholds).mean(0) for x in scores], axis=0)
