"""Studentised permutation test of a difference of means over seeds, and the interval obtained by inverting it.

Of two arms with scores x (n,) and y (m,) the statistic is Welch's, for a hypothetical difference θ:

    T(θ) = (x̄ − ȳ − θ) / SE        SE² = s_x²/n + s_y²/m

If the arms differ by θ and nothing else, every assignment of the N = n + m scores x − θ and y to groups of n and m is
equally likely, so p(θ), the share of assignments with |T| at least as large, is exact at every n and for every shape of
scores. Studentised, it is also valid asymptotically where variances differ (Janssen 1997; Chung and Romano 2013, Annals
of Statistics 41, 484). The interval at level 1 − α holds all θ with p(θ) > α: it excludes 0 if and only if the test
rejects. Over several environments T is that of the mean of their differences, and assignments are within environments.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from rlexp.compare.statistics import Difference, summary, welch

MOST_EXACT = 50_000  # assignments; up to as many all are used, else DRAWN random ones and the actual one
DRAWN = 20_000
PER_LEVEL = 60  # random assignments for each 1/α: enough for a stable p near a small α
MOST_DRAWN = 100_000
LARGE = 120  # scores; beyond, and where arms are BALANCED, Student's t is used: the two agree, and it takes no memory
BALANCED = 0.75  # of the larger arm; of 5 skewed scores against 116, Student's t calls identical arms different in 59 %
MOST_HELD = 12_000_000  # numbers of an environment's random assignments
SEED = 20130410  # of random assignments; fixed: the same runs give the same numbers to the last digit
RESOLUTION = 1e-9  # relative: statistics closer than that are equal, deviations smaller than that are rounding errors
SAME = 1e-13  # relative: scores closer than that are the same
NO_T = 1e-12  # squares of T up to that are 0


def smallest_p(sizes: Sequence[tuple[int, int]], alpha: float = 0.05) -> float:
    """The smallest p that the test can give for pairs of n and m scores, one per environment.

    With n = m, exchanging the arms gives the same |T|: 2 assignments of C(2n, n).
    """
    if _by_t(sizes):
        return 0.0
    count = math.prod(math.comb(n + m, n) for n, m in sizes)
    extreme = 2 if all(n == m for n, m in sizes) else 1
    return extreme / count if count <= MOST_EXACT else 1 / _drawn(alpha, sizes)


def permutation_test(pairs: Sequence[tuple[np.ndarray, np.ndarray]], alpha: float = 0.05) -> Difference:
    """Mean over environments of the difference of means, its interval at level 1 − α, and p of no difference.

    pairs: scores (n,), (m,) of the arm and the baseline on each environment, on scales that may be averaged.
    """
    pairs = [_without_rounding(x, y) for x, y in pairs]
    value = float(np.mean([x.mean() - y.mean() for x, y in pairs]))
    sizes = [(len(x), len(y)) for x, y in pairs]
    if min(map(min, sizes)) < 2:
        return Difference(value, alpha=alpha)
    if _by_t(sizes):
        return welch([(summary(x), summary(y)) for x, y in pairs], alpha)
    if smallest_p(sizes, alpha) > alpha:
        return welch([(summary(x), summary(y)) for x, y in pairs], alpha)._replace(p=np.nan)
    return _Permuted(pairs, alpha).difference()


def permutation_p(pairs: Sequence[tuple[np.ndarray, np.ndarray]], alpha: float = 0.05) -> float:
    """The p of `permutation_test` alone; NaN if it cannot reach α."""
    pairs = [_without_rounding(x, y) for x, y in pairs]
    sizes = [(len(x), len(y)) for x, y in pairs]
    if min(map(min, sizes)) < 2 or smallest_p(sizes, alpha) > alpha:
        return math.nan
    if _by_t(sizes):
        return welch([(summary(x), summary(y)) for x, y in pairs], alpha).p
    return _Permuted(pairs, alpha).p(0.0)


def _without_rounding(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores; or zeros, whose difference is 0, if they differ by nothing but rounding errors."""
    pool = np.concatenate([x, y])
    same = np.ptp(pool) <= SAME * np.abs(pool).max()
    return (np.zeros(len(x)), np.zeros(len(y))) if same else (x, y)


class _Permuted:
    """The statistic of every assignment as a function of θ; see the module.

    Scores are centred and divided by their range. Of an assignment (B,), with k of x in the first group, sums of both
    groups are linear in θ and sums of squares quadratic, so that with five coefficients each

        x̄ − ȳ of the assignment = a + b θ        SE² = c + d θ + e θ²
    """

    def __init__(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], alpha: float) -> None:
        everything = np.concatenate([scores for pair in pairs for scores in pair])
        self.alpha, self.value = alpha, float(np.mean([x.mean() - y.mean() for x, y in pairs]))
        self.scale = float(np.ptp(everything)) or 1.0
        exact = len(pairs) == 1
        drawn = _drawn(alpha, [(len(x), len(y)) for x, y in pairs])
        self.linear: list[np.ndarray | float] = [0.0, 0.0]  # a, b
        self.quadratic: list[np.ndarray | float] = [0.0, 0.0, 0.0]  # c, d, e
        for stratum, (x, y) in enumerate(pairs):
            n, m = len(x), len(y)
            middle = float(np.concatenate([x, y]).mean())
            x, y = (x - middle) / self.scale, (y - middle) / self.scale
            groups = assignments(n, m) if exact and math.comb(n + m, n) <= MOST_EXACT else None
            if groups is None:
                groups = random_assignments(n, m, drawn, stratum)
            linear, quadratic = _coefficients(x, y, groups)
            self.linear = [old + new / len(pairs) for old, new in zip(self.linear, linear, strict=True)]
            self.quadratic = [old + new / len(pairs) ** 2 for old, new in zip(self.quadratic, quadratic, strict=True)]

    def statistics(self, theta: float) -> tuple[np.ndarray, np.ndarray]:
        """Difference of means and squared standard error of every assignment (B,), the actual one first."""
        a, b = self.linear
        c, d, e = self.quadratic
        return np.asarray(a + b * theta), np.asarray(np.maximum(0, c + theta * (d + e * theta)))

    def p(self, theta: float) -> float:
        """Share of assignments as extreme as the actual one, for a difference θ in units of the score."""
        at = theta / self.scale
        difference, error = self.statistics(at)
        none = (1 + at * at) * RESOLUTION**1.5  # squared errors up to this are rounding errors
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.where(error > none, difference**2 / error, np.where(difference**2 > none, np.inf, 0.0))
        extreme = size >= size[0] * (1 - RESOLUTION) - NO_T if np.isfinite(size[0]) else np.isinf(size)
        return float(extreme.mean())

    def difference(self) -> Difference:
        """The difference with its interval."""
        _, error = self.statistics(self.value / self.scale)
        se = math.sqrt(float(error[0])) * self.scale
        if error[0] <= RESOLUTION**1.5:  # neither arm has any spread
            se = 0.0
        low, high = (self._end(side, se) for side in (-1, 1))
        p = self.p(0.0)
        if low <= 0 <= high:  # p need not fall monotonically on the way out: the interval decides
            p = max(p, np.nextafter(self.alpha, 1))
        elif p > self.alpha:  # nor may it exclude what the test does not reject
            low, high = min(low, 0.0), max(high, 0.0)
        return Difference(self.value, low, high, p, se, self.alpha)

    def _end(self, side: int, se: float) -> float:
        """The end of the interval below (side −1) or above: the farthest θ with p(θ) > α."""
        unit = se or self.scale * 1e-6
        inside, outside = 0.0, 2.0  # in standard errors from the difference
        for _ in range(60):
            far = [outside * factor for factor in (1.0, 1.6, 3.0)]
            kept = [s for s in far if self.p(self.value + side * s * unit) > self.alpha]
            if not kept:
                break
            inside = max(kept)
            outside = inside * 1.4
        else:
            return side * math.inf
        while outside - inside > 1e-3 * max(outside, 1e-3):
            middle = (inside + outside) / 2
            if self.p(self.value + side * middle * unit) > self.alpha:
                inside = middle
            else:
                outside = middle
        return self.value + side * outside * unit if se else self.value


def _coefficients(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of an environment's assignments: a, b and c, d, e of `_Permuted`, each (B,)."""
    n, m = len(x), len(y)
    pool, of_x = np.concatenate([x, y]), np.repeat([1.0, 0.0], [n, m])
    # of the first group: how many of x, their sum, the sum of all at θ = 0 and that of squares; in one pass
    k, sum_x, one, squares = np.ascontiguousarray((groups @ np.stack([of_x, of_x * pool, pool, pool**2], 1)).T)
    two = x.sum() + y.sum() - one
    others = (x**2).sum() + (y**2).sum() - squares
    left, rest = n - k, x.sum() - sum_x
    of_one, of_two = 1 / (n * (n - 1)), 1 / (m * (m - 1))
    constant = of_one * (squares - one**2 / n) + of_two * (others - two**2 / m)
    slope = of_one * (2 * k * one / n - 2 * sum_x) + of_two * (2 * left * two / m - 2 * rest)
    curvature = of_one * (k - k**2 / n) + of_two * (left - left**2 / m)
    return [one / n - two / m, left / m - k / n], [constant, slope, curvature]


def _by_t(sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether arms are so large, and so much alike in size, that Student's t does."""
    return sum(map(sum, sizes)) > LARGE and all(min(pair) >= BALANCED * max(pair) for pair in sizes)


def _drawn(alpha: float, sizes: Sequence[tuple[int, int]]) -> int:
    """Number of random assignments."""
    most = min(MOST_DRAWN, MOST_HELD // max(map(sum, sizes)))
    return int(min(most, max(DRAWN, PER_LEVEL / alpha)))


@functools.lru_cache(maxsize=16)
def assignments(n: int, m: int) -> np.ndarray:
    """All C(n + m, n) assignments of n + m scores to the first group (1) or the second (0), the actual one first."""
    chosen = np.array(list(itertools.combinations(range(n + m), n)))
    groups = np.zeros((len(chosen), n + m))
    np.put_along_axis(groups, chosen, 1.0, 1)
    return groups


@functools.lru_cache(maxsize=16)
def random_assignments(n: int, m: int, count: int, stratum: int = 0) -> np.ndarray:
    """The actual assignment and count − 1 random ones, as in `assignments`."""
    g = np.random.default_rng([SEED, n, m, count, stratum])
    groups = np.tile(np.repeat([1.0, 0.0], [n, m]), (count, 1))
    g.permuted(groups[1:], axis=1, out=groups[1:])
    return groups
