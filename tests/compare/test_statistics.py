"""Estimates against rliable's figures, tests by hand, and intervals that keep their promise in simulation."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from rlexp.compare import statistics

# Three tasks each; what rliable 1.2.0 computes from them stands in the tests below.
ARM = np.array(
    [
        [0.6, 0.422, 0.612, 0.476, 0.621, 0.739, 0.22, 0.553, 0.631, 0.492],
        [0.66, 0.509, 0.868, 0.698, 0.414, 0.331, 0.342, 0.347, 0.563, 0.59],
        [0.545, 0.402, 0.502, 0.671, 0.594, 0.508, 0.232, 0.654, 0.097, 0.623],
    ]
)
OTHER = np.array(
    [
        [0.171, 0.246, 0.362, 0.348, 0.199, 0.17, 0.267, 0.202],
        [0.29, 0.625, 0.572, 0.389, 0.382, 0.565, 1.0, 0.382],
        [0.226, 0.246, 0.275, 0.38, 0.726, 0.391, 0.539, 0.491],
    ]
)


def test_iqm_and_its_aggregate_are_rliables():
    assert_allclose(statistics.iqm(ARM), [0.559, 0.5138333333333334, 0.529])
    assert_allclose(statistics.iqm(OTHER), [0.2285, 0.477, 0.38425])
    assert statistics.aggregate_iqm(list(ARM)).value == pytest.approx(0.539)
    assert statistics.aggregate_iqm(list(OTHER)).value == pytest.approx(0.35025)


def test_probability_of_improvement_is_rliables():
    each = [statistics.probability_of_improvement(a, b).value for a, b in zip(ARM, OTHER, strict=True)]
    assert np.mean(each) == pytest.approx(0.7125)
    ties = statistics.probability_of_improvement(np.array([1.0, 2, 2]), np.array([2.0, 0, 3, 2]))
    assert ties.value == pytest.approx(0.4166666666666667)  # (1 + 2·(1 + ½ + ½)) / 12
    assert ties.low < ties.value < ties.high


def test_profile_is_rliables():
    tau = np.array([0, 0.25, 0.5, 0.75, 1.0])
    assert_allclose(statistics.profile(list(ARM), tau), [1.0, 0.9, 0.6333333333333333, 0.03333333333333333, 0.0])
    assert_allclose(statistics.profile(list(OTHER), tau), [1.0, 0.7083333333333334, 0.25, 0.041666666666666664, 0.0])


def test_draws_of_an_iqm_by_hand():
    # of the weight from .25 to .75 the lowest score has its own beyond .25, the highest its own below .75
    g = np.random.default_rng([statistics.BOOTSTRAP_SEED, 3, 0])
    weights = g.dirichlet(np.ones(3), statistics.WEIGHTINGS)
    first, second = weights[:, 0], weights[:, :2].sum(1)
    of_first, of_last = np.clip(first - 0.25, 0, 0.5), np.clip(0.75 - second, 0, 0.5)
    by_hand = 2 * (of_first * 1 + (0.5 - of_first - of_last) * 3 + of_last * 9)
    assert_allclose(statistics._weighted_iqms(np.array([9.0, 1, 3])), by_hand)
    # n = 3: t_2 = 4.30265, expanded by √(4/2): the normal's tail at 6.0849; 8 and more: z = 1.95996 by √(9/7)
    assert statistics._expanded(3, 2, 0.05) == pytest.approx(stats.norm.sf(2**0.5 * 4.302653))
    assert statistics._expanded(8, 7, 0.05) == pytest.approx(stats.norm.sf((9 / 7) ** 0.5 * 1.959964))


def test_an_iqms_interval_has_a_width_where_the_middle_half_has_none():
    for scores in ([500.0, 500, 500, 500, 100], [500.0] * 9 + [100], [0.0, 500, 500, 500, 500, 900]):
        i = statistics.iqm_interval(np.array(scores))
        assert i.low < i.value
        d = statistics.iqm_difference(np.array(scores), np.array(scores))
        assert d.low < 0 < d.high
    assert statistics.iqm_interval(np.full(5, 500.0)) == (500, 500, 500)
    assert math.isnan(statistics.iqm_interval(np.array([3.0])).low)
    assert math.isnan(statistics.iqm_difference(np.array([3.0]), np.arange(5.0)).low)


def test_a_means_interval_by_hand():
    # 1 2 3 10: mean 4, deviation √(50/3) = 4.08248, t_3 = 3.18245: ± 6.49608; skewness 4/(3 · 2) Σ (d/s)³ with
    # d = -3 -2 -1 6: 180/68.0414 · 2/3 = 1.7636; (1 + 2 · 10.12798) · 4.08248/24 · 1.7636 = 6.37685, on the tail's side
    i = statistics.mean_interval(np.array([1.0, 2, 3, 10]))
    assert (i.value, i.low) == (4, pytest.approx(4 - 6.49608, abs=1e-4))
    assert i.high == pytest.approx(4 + 6.49608 + 6.37685, abs=1e-3)
    mirrored = statistics.mean_interval(-np.array([1.0, 2, 3, 10]))
    assert_allclose(mirrored, [-i.value, -i.high, -i.low])
    assert statistics.mean_interval(np.array([1.0, 2, 3, 10]), (0, 9)) == (4, 0, 9)  # no mean is beyond
    assert statistics.mean_interval(np.array([1.0, 2, 3, 10]), (None, 9)).low == i.low
    for same in ([7.0] * 4, [500, 500, 500 + 1e-10], [0.1 * 3, 0.3, 0.3]):  # rounding errors are no skewness
        assert statistics.mean_interval(np.array(same)) == pytest.approx([same[0]] * 3)


def test_welch_by_hand():
    # means 3 and 6; variances 1 and 4, n = 3: error √(1/3 + 4/3) = 1.29099; dof (5/3)² / ((1/3)²/2 + (4/3)²/2) = 2.9412
    pair = (statistics.summary(np.array([2.0, 3, 4])), statistics.summary(np.array([4.0, 6, 8])))
    d = statistics.welch([pair])
    assert d.value == -3
    assert d.error == pytest.approx(1.29099, rel=1e-5)
    assert d.p == pytest.approx(0.10448, rel=1e-3)
    half = stats.t.ppf(0.975, 2.941176) * 1.29099
    assert_allclose([d.low, d.high], [-3 - half, -3 + half], rtol=1e-4)
    # with another environment, twice the difference and ten times the deviation: the mean of both
    other = tuple(arm._replace(mean=2 * arm.mean, variance=100 * arm.variance) for arm in pair)
    both = statistics.welch([pair, other], alpha=0.01)
    parts = np.array([1, 4, 100, 400]) / 3 / 4
    assert (both.value, both.error, both.alpha) == (-4.5, pytest.approx(np.sqrt(parts.sum())), 0.01)
    half = stats.t.ppf(0.995, parts.sum() ** 2 / (parts**2 / 2).sum()) * both.error
    assert_allclose([both.low, both.high], [-4.5 - half, -4.5 + half])


def test_welch_without_spread_or_of_single_seeds():
    same, other = (statistics.summary(np.full(4, x)) for x in (0.1, 0.2))  # of which a variance would be rounding
    assert statistics.welch([(same, same)])[:4] == (0, 0, 0, 1)
    assert statistics.welch([(other, same)])[:4] == (0.1, 0.1, 0.1, 0)
    alone = statistics.welch([(statistics.summary(np.array([3.0])), same)])
    assert alone.value == pytest.approx(2.9)
    assert np.isnan([alone.low, alone.high, alone.p]).all()


# Simulation: ten seeds an arm, scores of many shapes -----------------------------------------------------------------

SHAPES = {
    "normal": lambda g, size: g.normal(0, 1, size),
    "lognormal": lambda g, size: g.lognormal(0, 1, size),
    "skewed to the left": lambda g, size: -g.lognormal(0, 1, size),
    "heavy tails": lambda g, size: g.standard_t(3, size),
    "at the ceiling": lambda g, size: np.minimum(500, g.normal(470, 60, size)),
    "sometimes failing": lambda g, size: np.where(
        g.random(size) < 0.8, g.normal(490, 5, size), g.uniform(100, 400, size)
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_arms_interval_covers_its_iqm(shape):
    g = np.random.default_rng(2)
    ordered = np.sort(SHAPES[shape](g, 400_000))
    truth = ordered[100_000:-100_000].mean()
    found = [statistics.iqm_interval(scores) for scores in SHAPES[shape](g, (1000, 10))]
    assert np.mean([i.low <= truth <= i.high for i in found]) >= 0.92


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_few_seeds_have_an_interval_of_their_iqm_that_reaches_beyond_them(seeds):
    scores = np.random.default_rng(3).normal(0, 1, (2, 1000, seeds))
    found = [statistics.iqm_interval(x) for x in scores[0]]
    assert np.mean([i.low <= 0 <= i.high for i in found]) >= 0.93
    differences = [statistics.iqm_difference(x, y) for x, y in zip(*scores, strict=True)]
    assert np.mean([i.low <= 0 <= i.high for i in differences]) >= 0.93
    assert statistics.iqm_interval(np.array([480.0, 490, 499]), (0, 500)).high == 500


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_probability_of_improvement_is_covered(seeds, shift):
    g = np.random.default_rng(4)
    truth = 0.5 * (1 + math.erf(shift / 2))  # P(N(shift, 1) > N(0, 1))
    scores = g.normal(0, 1, (1000, 2, seeds))
    found = [statistics.probability_of_improvement(a + shift, b) for a, b in scores]
    assert np.mean([i.low <= truth <= i.high for i in found]) >= 0.92


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_aggregate_over_environments_is_covered(seeds):
    g = np.random.default_rng(5)
    levels = np.array([0.2, 0.5, 0.8])
    everything = np.sort((levels[:, None] + g.normal(0, 0.15, (3, 100_000))).ravel())
    truth = everything[75_000:-75_000].mean()
    found = [statistics.aggregate_iqm(list(x)) for x in levels[:, None] + g.normal(0, 0.15, (1000, 3, seeds))]
    assert np.mean([i.low <= truth <= i.high for i in found]) >= 0.92
