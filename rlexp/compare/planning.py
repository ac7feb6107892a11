"""How many seeds a study needs for its margin, found by simulating its verdicts.

A study of n seeds per arm is simulated many times: scores are drawn, and the same test as in `permutation.py` decides.
Its power is how often a true difference of the margin is found better, and how often a true difference of 0 is found
equivalent. A pilot gives the standard deviation only roughly, so what follows from it is a range: its interval is that
of a χ² with the pilot's degrees of freedom, and the upper limit of a one-sided 80 % interval is planned for (Browne
1995, Statistics in Medicine 14, 1933: planned so, four studies in five have the power that was planned).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from rlexp.compare.permutation import MOST_EXACT, NO_T, RESOLUTION, assignments, random_assignments, smallest_p

POWER = 0.8
ASSURANCE = 0.8
STUDIES = 1000  # simulated: two standard errors are .025 in a power of .8
AIM = POWER + 0.025  # in the simulation: of many numbers of seeds the first that seems to suffice is a lucky one
CHUNK = 4_000_000  # statistics held at a time
LOOKS = (0.5, 0.75, 1.0)  # of the seeds, where a study is looked at
MOST = 40  # seeds per arm proposed

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Power(NamedTuple):
    """Shares of studies."""

    found: float  # a true difference of the margin, called better
    equivalent: float  # a true difference of 0, called equivalent


def study_p(x: np.ndarray, y: np.ndarray, theta: float, alpha: float) -> np.ndarray:
    """The p(θ) of many studies at once, scores (S, n) and (S, m); see `permutation.py`."""
    n, m = x.shape[1], y.shape[1]
    exact = math.comb(n + m, n) <= MOST_EXACT // 5
    groups = assignments(n, m) if exact else random_assignments(n, m, max(2000, round(20 / alpha)))
    p = np.empty(len(x))
    size = max(1, CHUNK // len(groups))
    for first in range(0, len(x), size):
        z = np.concatenate([x[first : first + size] - theta, y[first : first + size]], 1)
        z = z - z.mean(1, keepdims=True)
        z /= np.maximum(np.ptp(z, 1, keepdims=True), 1e-300)
        total, squares = z.sum(1, keepdims=True), (z**2).sum(1, keepdims=True)
        of_first, squares_first = z @ groups.T, z**2 @ groups.T
        of_second, squares_second = total - of_first, squares - squares_first
        error = np.maximum(0, squares_first - of_first**2 / n) / (n * (n - 1))
        error += np.maximum(0, squares_second - of_second**2 / m) / (m * (m - 1))
        difference = (of_first / n - of_second / m) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(error > 1e-14, difference / error, np.where(difference > 1e-14, 1e300, 0.0))
        p[first : first + size] = (t >= t[:, :1] * (1 - RESOLUTION) - NO_T).mean(1)
    return p


def power(draw: Draw, n: int, margin: float, alpha: float, studies: int = STUDIES, seed: int = 0) -> Power:
    """Power of a study with n seeds per arm, both drawn alike, each comparison tested at alpha.

    Args:
        draw: scores of an arm, from a generator and a shape.
        n: seeds of either arm.
        margin: the difference of means to be found, and within which arms are equivalent.
        alpha: level of one comparison: 0.05 divided by the number of comparisons, times the share of the look.
        studies: simulated.
        seed: of the simulation.
    """
    if smallest_p([(n, n)], alpha) > alpha:
        return Power(0.0, 0.0)
    g = np.random.default_rng(seed)
    x, y = draw(g, (studies, n)), draw(g, (studies, n))
    d = x.mean(1) - y.mean(1)
    above, below = study_p(x, y, margin, alpha), study_p(x, y, -margin, alpha)
    found = (d + margin > 0) & (below <= alpha)  # p of −margin for d is p of 0 for d + margin
    equivalent = (np.abs(d) < margin) & (above <= alpha) & (below <= alpha)
    return Power(float(found.mean()), float(equivalent.mean()))


def seeds_for(draw: Draw, margin: float, alpha: float, most: int = MOST) -> int | None:
    """The fewest seeds per arm with a power of POWER both to find the margin and to call equal arms equivalent.

    None if that takes more than `most`.
    """

    def suffices(n: int) -> bool:
        return min(power(draw, n, margin, alpha)) >= AIM

    if not suffices(most):
        return None
    low, high = 4, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def margin_for(draw: Draw, n: int, alpha: float, deviation: float) -> float:
    """The smallest margin for which n seeds per arm have a power of POWER, to 2 %; infinite if none."""
    low, high = 0.0, deviation
    while min(power(draw, n, high, alpha)) < AIM:
        low, high = high, 2 * high
        if high > 1e3 * deviation:
            return math.inf
    while high - low > 0.02 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if min(power(draw, n, middle, alpha)) >= AIM else (middle, high)
    return high


class Spread(NamedTuple):
    """Standard deviation over seeds: of the pilot, and the limits that it leaves."""

    value: float
    low: float  # of a two-sided 80 % interval
    high: float
    planned: float  # upper limit of a one-sided interval at ASSURANCE


def spread(arms: Sequence[np.ndarray]) -> Spread:
    """Standard deviation within arms of a pilot, pooled: s √(ν/χ²) with ν = Σ (n − 1) degrees of freedom."""
    dof = sum(len(x) - 1 for x in arms)
    value = math.sqrt(sum(float(((x - x.mean()) ** 2).sum()) for x in arms) / dof)
    low, high, planned = (value * math.sqrt(dof / float(stats.chi2.ppf(q, dof))) for q in (0.9, 0.1, 1 - ASSURANCE))
    return Spread(value, low, high, planned)


def like(arms: Sequence[np.ndarray], deviation: float) -> Draw:
    """Draws scores of the pilot's shape, its arms centred and pooled, with another standard deviation."""
    pooled = np.concatenate([x - x.mean() for x in arms])
    own = float(pooled.std())
    pooled = pooled * (deviation / own) if own else pooled
    return lambda g, shape: g.choice(pooled, shape) + g.normal(0, 1e-3 * deviation, shape)


def looks_at(seeds: int, pilot: int) -> list[int]:
    """Numbers of seeds at which a study of so many is looked at, later than its pilot."""
    found = sorted({math.ceil(share * seeds) for share in LOOKS})
    return [n for n in found if n > pilot] or [max(seeds, pilot)]
