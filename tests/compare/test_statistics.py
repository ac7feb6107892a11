"""Estimates against rliable's figures, tests by hand, and intervals that keep their promise in simulation."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rlexp.compare import measures, statistics
from rlexp.compare.statistics import Difference

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


def test_difference_is_welchs():
    # means 3 and 6; variances 1 and 4, n = 3: error √(1/3 + 4/3) = 1.29099; dof (5/3)² / ((1/3)²/2 + (4/3)²/2) = 2.9412
    d = statistics.difference(np.array([2.0, 3, 4]), np.array([4.0, 6, 8]))
    assert d.value == -3
    assert d.error == pytest.approx(1.29099, rel=1e-5)
    assert d.dof == pytest.approx(2.9412, rel=1e-4)
    assert d.p == pytest.approx(0.10448, rel=1e-3)
    assert d.low < -3 < d.high


def test_difference_of_arms_without_spread():
    same, other = np.full(4, 500.0), np.full(4, 400.0)
    assert statistics.difference(same, same).p == 1
    d = statistics.difference(same, other)
    assert d.p == pytest.approx(2 / math.comb(8, 4))  # both ways of falling apart, of 70
    assert math.isnan(statistics.difference(same[:1], other).p)
    tenths = [np.full(3, 0.1), np.full(3, 0.2)]  # whose computed variance is not quite 0
    assert statistics.difference(*tenths).p == pytest.approx(2 / math.comb(6, 3))
    both = statistics.overall([statistics.difference(*tenths)] * 2, [1.0, 1.0])
    assert both.p == pytest.approx(2 / math.comb(6, 3))  # two of them are no proof either


def test_holm():
    # sorted .01 .02 .04: ×3 .03, ×2 .04, ×1 .04
    assert_allclose(statistics.holm([0.04, 0.01, math.nan, 0.02]), [0.04, 0.03, math.nan, 0.04])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]  # never above 1


def test_power():
    # n = 10 each, deviation 1: (t_.975 + t_.8 at 18) √.2 = (2.1009 + .8620) · .4472
    assert statistics.detectable(10, 10, 1.0) == pytest.approx(1.3251, abs=1e-3)
    n = statistics.seeds_to_settle(0.5, 1.0)
    assert n == 64  # the textbook's 63 or 64 for half a deviation
    assert statistics.detectable(n, n, 1.0) <= 0.5 < statistics.detectable(n - 1, n - 1, 1.0)
    assert statistics.seeds_to_settle(0.0, 1.0) is None
    assert statistics.seeds_to_settle(1e-6, 1.0) is None


def test_overall_weighs_every_environment_alike():
    parts = [Difference(10.0, 0, 0, 0.5, 3.0, 18.0), Difference(0.4, 0, 0, 0.5, 0.04, 18.0)]
    d = statistics.overall(parts, [100.0, 1.0])
    assert d.value == pytest.approx((0.1 + 0.4) / 2)
    assert d.error == pytest.approx(math.hypot(0.03, 0.04) / 2)


def test_measures_of_a_curve():
    steps = np.array([0.0, 10, 20, 40])
    returns = np.array([math.nan, 1.0, 3.0, 2.0])
    assert measures.area_under_curve(steps, returns) == pytest.approx((1 * 10 + 2 * 10 + 2.5 * 20) / 40)
    assert measures.steps_to(2.5, steps, returns) == 20
    assert measures.steps_to(4, steps, returns) == math.inf
    # from 400 on: 400/400, 500/500, 250/500, 500/500
    assert measures.retention(400, np.array([10.0, 400, 500, 250, 500])) == pytest.approx(3.5 / 4)
    assert measures.retention(-100, np.array([-500.0, -100, -300]), floor=-500) == pytest.approx((1 + 200 / 400) / 2)
    assert math.isnan(measures.retention(600, np.array([10.0, 400])))


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
def test_arms_that_are_the_same_are_seldom_told_apart(shape):
    g = np.random.default_rng(1)
    scores = SHAPES[shape](g, (500, 2, 10))
    found = [statistics.difference(a, b) for a, b in scores]
    assert np.mean([d.p < 0.05 for d in found]) <= 0.07
    assert np.mean([d.low <= 0 <= d.high for d in found]) >= 0.92


@pytest.mark.parametrize("shape", SHAPES)
def test_an_arms_interval_covers_its_iqm(shape):
    g = np.random.default_rng(2)
    ordered = np.sort(SHAPES[shape](g, 400_000))
    truth = ordered[100_000:-100_000].mean()
    found = [statistics.iqm_interval(scores) for scores in SHAPES[shape](g, (1000, 10))]
    assert np.mean([i.low <= truth <= i.high for i in found]) >= 0.92


@pytest.mark.parametrize("shape", SHAPES)
def test_the_difference_covers_a_true_one(shape):
    g = np.random.default_rng(3)
    shift = 0.7 * SHAPES[shape](g, 400_000).std()
    scores = SHAPES[shape](g, (1000, 2, 10))
    found = [statistics.difference(a + shift, b) for a, b in scores]
    assert np.mean([d.low <= shift <= d.high for d in found]) >= 0.92


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


@pytest.mark.parametrize("tests", [1, 6, 16])
def test_what_is_called_detectable_is_found_four_times_in_five(tests):
    g = np.random.default_rng(6)
    size = statistics.detectable(20, 20, 1.0, 0.05 / tests)
    scores = g.normal(0, 1, (1000, 2, 20))
    found = [statistics.difference(a + size, b).p < 0.05 / tests for a, b in scores]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
