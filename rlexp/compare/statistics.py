"""Statistics over seeds: point estimates, intervals and tests, as pure functions of arrays of scores.

The unit is the seed: one number per seed, never one per episode. At ten seeds the intervals have their nominal coverage
for skewed scores too, simulated in `tests/compare/test_statistics.py`. Sources: Agarwal et al. 2021 (arXiv 2108.13264)
for the interquartile mean, the probability of improvement and profiles; Tukey and McLaughlin 1963 and Yuen 1974 for
trimmed means; Colas et al. 2018 (arXiv 1806.08295) for Welch's test and its power; Holm 1979.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from rlexp.compare.measures import iqm
from rlexp.text import number

LEVEL = 0.95
RESAMPLES = 2000


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


class Resampler:
    """Bootstrap resamples of seeds, drawn once for each number of seeds and stratum.

    Arms with equally many seeds share them, which makes a hundred intervals cheap and changes none of them.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._indices: dict[tuple[int, int], np.ndarray] = {}

    def indices(self, n: int, stratum: int = 0) -> np.ndarray:
        """Indices of the seeds drawn (RESAMPLES, n)."""
        if (n, stratum) not in self._indices:
            rng = np.random.default_rng([self.seed, n, stratum])
            self._indices[n, stratum] = rng.integers(0, n, (RESAMPLES, n))
        return self._indices[n, stratum]


def iqm_interval(scores: np.ndarray, resampler: Resampler) -> Interval:
    """IQM of one arm's seeds (n,): bootstrap percentiles, below 8 seeds the t-interval of `iqm_band`.

    In simulation at a nominal 95 %, over six distributions of scores, percentiles cover 93–94 % at ten seeds where the
    t-interval covers 92–95 %, but 89–91 % at five and 71–77 % at three, where it covers 89–97 %.
    """
    if len(scores) < 8:
        return Interval(*map(float, iqm_band(scores)))
    drawn = iqm(scores[resampler.indices(len(scores))])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(iqm(scores)), float(low), float(high))


def iqm_band(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM, low and high over the last axis: t-interval from the winsorised deviation (Tukey and McLaughlin 1963).

    With n seeds, g = ⌊n/4⌋ cut at each end, h = n − 2g left, and s_w the standard deviation of the winsorised scores:
    IQM ± t_{h−1} · s_w · √((n − 1) / (h (h − 1))). NaN bounds for a single seed.
    """
    n = scores.shape[-1]
    if n < 2:
        nothing = np.full(scores.shape[:-1], np.nan)
        return iqm(scores), nothing, nothing
    cut = n // 4
    left = n - 2 * cut
    ordered = np.sort(scores, -1)
    winsorised = np.clip(ordered, ordered[..., cut, None], ordered[..., n - cut - 1, None])
    error = np.sqrt((n - 1) * winsorised.var(-1, ddof=1) / (left * (left - 1)))
    half = _student(left - 1) * error
    middle = ordered[..., cut : n - cut].mean(-1)
    return middle, middle - half, middle + half


class Difference(NamedTuple):
    """Difference of two arms' means by Welch's t-test, in units of the score."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan  # two-sided; 1 where both arms are constant and equal
    error: float = np.nan  # standard error of the difference
    dof: float = np.nan

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


def difference(arm: np.ndarray, baseline: np.ndarray) -> Difference:
    """Difference of means of two arms' seeds, (n,) and (m,), by `welch`."""
    return welch(summary(arm), summary(baseline))


def welch(arm: Summary, baseline: Summary) -> Difference:
    """Difference of means, its interval and Welch's p; NaN bounds unless both arms have two seeds.

    Two arms that differ but have no variance get the p of a permutation test.
    """
    value = arm.mean - baseline.mean
    if min(arm.n, baseline.n) < 2:
        return Difference(value)
    parts = np.array([x.variance / x.n for x in (arm, baseline)])
    error = float(np.sqrt(parts.sum()))
    if error == 0:
        chance = 2 / math.comb(arm.n + baseline.n, arm.n)
        return Difference(value, value, value, min(1.0, chance) if value else 1.0, 0.0, np.inf)
    dof = float(parts.sum() ** 2 / (parts[0] ** 2 / (arm.n - 1) + parts[1] ** 2 / (baseline.n - 1)))
    half = _student(dof) * error
    p = 2 * float(stats.t.sf(abs(value) / error, dof))
    return Difference(value, value - half, value + half, p, error, dof)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p_(i) · (m − i), i from 0, made monotone, at most 1. NaN stays NaN, uncounted."""
    values = np.asarray(p, float)
    adjusted = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors)) if len(order) else []
    return adjusted.tolist()


def probability_of_improvement(arm: np.ndarray, baseline: np.ndarray) -> Interval:
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
    inside = theta[np.abs(value - theta) <= _student(n + m - 2) * error + 1e-12]
    return Interval(value, float(min(inside[0], value)), float(max(inside[-1], value)))


def _student(dof: float, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t."""
    return float(stats.t.ppf((1 + level) / 2, dof))


def detectable(n: int, m: int, deviation: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference of means that Welch's test detects at p < alpha with this power.

    Args:
        n: seeds of one arm.
        m: seeds of the other.
        deviation: standard deviation over seeds of either arm, in units of the score.
        alpha: 0.05 / k for k tests corrected together: the level that the smallest p-value has to pass.
        power: probability of detecting it.
    """
    if min(n, m) < 2:
        return np.nan
    dof = n + m - 2
    quantiles = stats.t.ppf(1 - alpha / 2, dof) + stats.t.ppf(power, dof)
    return float(quantiles * deviation * np.sqrt(1 / n + 1 / m))


def seeds_to_settle(
    value: float, deviation: float, alpha: float = 0.05, power: float = 0.8, most: int = 10_000
) -> int | None:
    """Seeds per arm that detect a true difference of this size, as in `detectable`; None if more than `most`."""
    if not abs(value) > 0:
        return None
    # first guess by the normal distribution; Student's t needs a few more
    quantiles = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    needed = 2 * (quantiles * deviation / value) ** 2
    if needed > most:
        return None
    n = max(2, math.floor(needed))
    while detectable(n, n, deviation, alpha, power) > abs(value):
        n += 1
    return n if n <= most else None


def aggregate_iqm(scores: Sequence[np.ndarray], resampler: Resampler) -> Interval:
    """IQM of the normalised scores of all seeds of all environments, one array per environment.

    Stratified bootstrap, resampling seeds within each environment, with expanded percentiles (Hesterberg 2015, arXiv
    1411.5279): a resample of n has a deviation too small by √((n−1)/n), and Student's t is wider than the normal, so
    the percentiles are the normal's at √(n/(n−1)) · t, n the fewest seeds of any environment. Covers 92 % from five
    seeds per environment, 90 % at three. NaN bounds if an environment has a single seed.
    """
    value = float(iqm(np.concatenate(scores)))
    fewest = min(map(len, scores))
    if fewest < 2:
        return Interval(value)
    drawn = [x[resampler.indices(len(x), stratum)] for stratum, x in enumerate(scores)]
    tail = stats.norm.sf(math.sqrt(fewest / (fewest - 1)) * _student(sum(len(x) - 1 for x in scores)))
    low, high = np.quantile(iqm(np.concatenate(drawn, 1)), [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def profile(scores: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Performance profile: fraction of seeds with a normalised score above τ, averaged over environments (τ,)."""
    return np.mean([(x[:, None] > thresholds).mean(0) for x in scores], axis=0)


def overall(differences: Sequence[Difference], scales: Sequence[float]) -> Difference:
    """Mean of the normalised differences over environments, by Welch-Satterthwaite from each environment's error."""
    shares = [1 / (len(differences) * scale) for scale in scales]
    value = float(sum(d.value * share for d, share in zip(differences, shares, strict=True)))
    parts = np.array([(d.error * share) ** 2 for d, share in zip(differences, shares, strict=True)])
    error = float(np.sqrt(parts.sum()))
    if not error > 0:
        return Difference(value, value, value, max(d.p for d in differences), error, np.inf)  # the weakest p
    dof = float(parts.sum() ** 2 / sum(part**2 / d.dof for part, d in zip(parts, differences, strict=True)))
    half = _student(dof) * error
    return Difference(value, value - half, value + half, 2 * float(stats.t.sf(abs(value) / error, dof)), error, dof)
