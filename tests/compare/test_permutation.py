"""The studentised permutation test against one in plain Python, and its interval, which never contradicts it."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rlexp.compare import permutation
from rlexp.compare.permutation import permutation_p, permutation_test, smallest_p
from rlexp.compare.planning import study_p

JITTER = (np.array([500.0, 500, 500]), np.array([100.0, 100, 101]))


def plain_p(x, y, theta=0.0):
    """p(θ) by every assignment of x − θ and y to two groups; infinite T where neither group has a spread."""

    def size(first, second):
        n, m = len(first), len(second)
        a, b = math.fsum(first) / n, math.fsum(second) / m
        error = (
            math.fsum((s - a) ** 2 for s in first) / (n - 1) / n + math.fsum((s - b) ** 2 for s in second) / (m - 1) / m
        )
        if error < 1e-18 * max(map(abs, everything)) ** 2:
            return math.inf if abs(a - b) > 1e-9 * max(map(abs, everything)) else 0.0
        return (a - b) ** 2 / error

    everything = [*(float(s) - theta for s in x), *map(float, y)]
    actual = size(everything[: len(x)], everything[len(x) :])
    count = extreme = 0
    for chosen in itertools.combinations(range(len(everything)), len(x)):
        first = [everything[i] for i in chosen]
        second = [everything[i] for i in range(len(everything)) if i not in chosen]
        count, extreme = count + 1, extreme + (size(first, second) >= actual * (1 - 1e-9) - 1e-12)
    return extreme / count


def samples(g, fewest=2, most=6):
    """Scores of an arm in one of many shapes: smooth, lumpy, tied, constant, with one far out."""
    n = int(g.integers(fewest, most + 1))
    shape = int(g.integers(8))
    if shape == 0:
        return g.normal(0, 1, n)
    if shape == 1:
        return np.where(g.random(n) < 0.6, 500.0, 100.0)
    if shape == 2:
        return np.where(g.random(n) < 0.8, 500.0, 100.0) + g.normal(0, 1, n)
    if shape == 3:
        return g.integers(0, 3, n).astype(float)
    if shape == 4:
        return g.lognormal(0, 1.5, n)
    if shape == 5:
        return np.minimum(500, g.normal(490, 30, n))
    if shape == 6:
        return g.standard_t(1.5, n)
    return np.full(n, float(g.integers(0, 3)))


def test_p_by_hand():
    # of C(4, 2) = 6 assignments of 1, 2 | 5, 8: 1 2 | 5 8 and 5 8 | 1 2 have T² = 25/2.5 = 10
    # 1 5 | 2 8: 4/(4 + 9) = .31; 1 8 | 2 5: 1/(12.25 + 2.25) = .07; and so the other way round
    assert permutation_test([(np.array([1.0, 2]), np.array([5.0, 8]))], alpha=0.4).p == pytest.approx(2 / 6)
    assert permutation_test([(np.array([1.0, 8]), np.array([2.0, 5]))], alpha=0.4).p == pytest.approx(1)
    assert permutation_test([(np.array([1.0, 5]), np.array([2.0, 8]))], alpha=0.4).p == pytest.approx(4 / 6)
    # one point of jitter: 500 500 500 | 100 100 101 is one of 20, and its mirror image
    assert permutation_test([JITTER], alpha=0.2).p == pytest.approx(0.1)
    assert math.isnan(permutation_test([JITTER]).p)  # which .05 cannot be
    assert math.isnan(permutation_p([JITTER]))


def test_p_is_that_of_plain_enumeration():
    g = np.random.default_rng(0)
    for _ in range(60):
        x, y = samples(g), samples(g)
        theta = float(g.normal(0, 1)) * float(np.ptp([*x, *y]) or 1)
        found = permutation._Permuted([(x, y)], 0.05)
        assert found.p(0.0) == pytest.approx(plain_p(x, y), abs=1e-12), (x, y)
        assert found.p(theta) == pytest.approx(plain_p(x, y, theta), abs=1e-12), (x, y, theta)
        if smallest_p([(len(x), len(y))]) <= 0.05:
            assert permutation_p([(x, y)]) == pytest.approx(plain_p(x, y), abs=1e-12)


def test_assignments_are_all_there_are_the_actual_one_first():
    groups = permutation.assignments(2, 3)
    assert {tuple(row) for row in groups} == {
        tuple(row) for row in itertools.product((0, 1), repeat=5) if sum(row) == 2
    }
    assert len(groups) == 10
    assert groups[0].tolist() == [1, 1, 0, 0, 0]
    drawn = permutation.random_assignments(7, 9, 500, 3)
    assert drawn[0].tolist() == [1] * 7 + [0] * 9
    assert (drawn.sum(1) == 7).all()
    # each score is in the first group in 7 of 16: 218 of 499, with a deviation of 11
    assert (np.abs(drawn[1:].sum(0) - 499 * 7 / 16) < 45).all()
    assert (drawn == permutation.random_assignments(7, 9, 500, 3)).all()
    assert (drawn != permutation.random_assignments(7, 9, 500, 4)).any()  # environments do not move together


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_interval_is_where_p_is_above_alpha(alpha):
    g = np.random.default_rng(1)
    checked = 0
    while checked < 25:
        x, y = samples(g, 4), samples(g, 4)
        d = permutation_test([(x, y)], alpha)
        if math.isnan(d.p) or d.error == 0:
            continue
        checked += 1
        step = 3e-3 * max(d.error, d.high - d.low)
        for end, outwards in ((d.low, -1), (d.high, 1)):
            assert plain_p(x, y, end - outwards * step) > alpha, (x, y, d)
            assert plain_p(x, y, end + outwards * 1e-6 * step) <= alpha, (x, y, d)
            for far in (0.1, 1, 5, 50):  # and none of what lies farther out is left out
                assert plain_p(x, y, end + outwards * far * d.error) <= alpha, (x, y, d)


def test_test_and_interval_say_the_same():
    g = np.random.default_rng(2)
    said = {True: 0, False: 0}
    for trial in range(500):
        x, y = samples(g, 3, 8), samples(g, 3, 8)
        if trial % 3 == 0:
            x, y = x * 1e-6, y * 1e-6
        if trial % 4 == 0:
            x, y = x + 1e6, y + 1e6
        alpha = (0.05, 0.0125, 0.3)[trial % 3]
        d = permutation_test([(x, y)], alpha)
        if math.isnan(d.p):
            continue
        excludes = d.low > 0 or d.high < 0
        assert excludes == (d.p <= alpha), (x, y, d)
        assert d.low <= d.value <= d.high
        assert d.p >= smallest_p([(len(x), len(y))], alpha)
        said[excludes] += 1
        if excludes:  # and it never says what the test itself does not
            assert permutation_p([(x, y)], alpha) <= alpha
    assert min(said.values()) > 50


def test_smallest_p():
    assert smallest_p([(3, 3)]) == 2 / 20
    assert smallest_p([(5, 5)]) == 2 / 252
    assert smallest_p([(5, 6)]) == 1 / 462  # its mirror image is no assignment of 5 and 6
    assert smallest_p([(3, 3), (3, 3)]) == 2 / 400
    assert smallest_p([(3, 3), (3, 4)]) == 1 / 700
    assert smallest_p([(10, 10)]) == 1 / 20_000  # 184,756 assignments, of which so many are drawn
    assert smallest_p([(10, 10)], 0.05 / 50) == 1 / 60_000
    assert smallest_p([(10, 10)], 1e-9) == 1 / 100_000
    assert smallest_p([(100, 100)]) == 0
    assert smallest_p([(5, 116)]) > 0
    for n, m in ((3, 3), (4, 4), (4, 5), (5, 5), (6, 7)):  # reached by the clearest of differences
        x, y = np.arange(n) + 1000.0, np.arange(m) * 1.0
        assert permutation_test([(x, y)], 0.5).p == pytest.approx(smallest_p([(n, m)]))


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 7), (12, 12)])
def test_it_moves_with_the_scores(n, m):
    g = np.random.default_rng(3)
    x, y = g.normal(0.8, 1, n), g.lognormal(0, 1, m)
    d = permutation_test([(x, y)])
    near = 3e-3 * d.error
    for factor, offset in ((1e-6, 0), (1e4, 0), (1, 1e6), (64, -2e3)):
        moved = permutation_test([(factor * x + offset, factor * y + offset)])
        assert moved.p == pytest.approx(d.p, abs=2e-4)
        assert moved[:3] == pytest.approx([factor * v for v in d[:3]], abs=factor * near)
        assert moved.error == pytest.approx(factor * d.error)
    shifted = permutation_test([(x + 7, y)])
    assert shifted[:3] == pytest.approx([v + 7 for v in d[:3]], abs=near)


def test_exchanged_arms_mirror_the_interval():
    g = np.random.default_rng(4)
    for _ in range(40):
        x, y = samples(g, 5, 7), samples(g, 5, 7)
        one, other = permutation_test([(x, y)]), permutation_test([(y, x)])
        assert one.p == pytest.approx(other.p, abs=1e-12)
        near = 3e-3 * max(one.error, one.high - one.low) + 1e-9
        assert one[:3] == pytest.approx([-other.value, -other.high, -other.low], abs=near), (x, y)
    x, y = g.normal(0, 1, 14), g.normal(1, 2, 12)  # of random assignments, nearly
    one, other = permutation_test([(x, y)]), permutation_test([(y, x)])
    assert one[:3] == pytest.approx([-other.value, -other.high, -other.low], abs=0.05 * one.error)


def test_arms_without_spread():
    same, other = np.full(5, 500.0), np.full(5, 400.0)
    assert permutation_test([(same, same)])[:4] == (0, 0, 0, 1)
    d = permutation_test([(same, other)])
    assert d[:3] == pytest.approx((100, 100, 100))
    assert d.p == pytest.approx(2 / math.comb(10, 5))  # both ways of falling apart
    tenths = np.full(5, 0.1), np.full(5, 0.1 + 1e-17)
    assert tenths[0][0] != tenths[1][0]
    assert permutation_test([tenths])[:4] == (0, 0, 0, 1)  # by a rounding error
    assert permutation_p([tenths]) == 1
    assert permutation_test([(np.full(5, 0.1), np.full(7, 0.1))])[:4] == (0, 0, 0, 1)
    one = permutation_test([(same, np.array([500.0, 500, 500, 500, 100]))])
    # C(10, 5) assignments: 100 is in either group with four of 500, so that all have the same T
    assert (one.value, one.p) == (80, 1)
    assert one.low < 0 < one.high


def test_random_assignments_come_near_all_of_them(monkeypatch):
    g = np.random.default_rng(5)
    samples = [(g.normal(1, 1, 9), g.normal(0, 2, 8)) for _ in range(5)]  # 24,310 assignments: all are used
    exact = [permutation_p([pair]) for pair in samples]
    monkeypatch.setattr(permutation, "MOST_EXACT", 20_000)
    for pair, p in zip(samples, exact, strict=True):
        assert permutation_p([pair]) == pytest.approx(p, abs=4 * math.sqrt(p / 20_000) + 1e-4)
        assert permutation_p([pair]) != p


def test_several_environments_by_hand():
    # two environments of 3 and 3, drawn from 20 · 20 assignments: T of the mean of both differences
    g = np.random.default_rng(6)
    pairs = [(g.normal(1.2, 1, 3), g.normal(0, 1, 3)), (g.normal(2, 3, 3), g.normal(0, 3, 3))]

    def size(groups):
        parts = [(a.mean() - b.mean(), a.var(ddof=1) / 3 + b.var(ddof=1) / 3) for a, b in groups]
        return sum(d for d, _ in parts) ** 2 / sum(e for _, e in parts)

    every = []
    for x, y in pairs:
        pool = np.concatenate([x, y])
        chosen = [list(c) for c in itertools.combinations(range(6), 3)]
        every.append([(pool[c], np.delete(pool, c)) for c in chosen])
    sizes = np.array([size(groups) for groups in itertools.product(*every)])
    exact = (sizes >= sizes[0] * (1 - 1e-9)).mean()
    d = permutation_test(pairs)
    assert d.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))
    assert d.value == pytest.approx(np.mean([x.mean() - y.mean() for x, y in pairs]))
    assert d.error == pytest.approx(math.sqrt(sum(x.var(ddof=1) + y.var(ddof=1) for x, y in pairs) / 3) / 2)


def test_environments_together_find_what_none_does_alone():
    g = np.random.default_rng(7)
    pairs = [(g.normal(1, 1, 5), g.normal(0, 1, 5)) for _ in range(6)]
    alone = [permutation_test([pair]).p for pair in pairs]
    d = permutation_test(pairs)
    assert d.p < min(alone)
    assert d.low > 0
    assert (d.low > 0) == (d.p <= 0.05)
    other = permutation_test([(y, x) for x, y in pairs])
    assert other.value == -d.value
    assert other.low == pytest.approx(-d.high, abs=0.1 * d.error)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 5), (4, 6), (7, 7)])
def test_many_studies_at_once_have_the_same_p(n, m):
    g = np.random.default_rng(8)
    x = np.concatenate([g.normal(0, 1, (20, n)), g.integers(0, 3, (20, n)), np.full((2, n), 5.0)])
    y = np.concatenate([g.normal(1, 1, (20, m)), g.integers(0, 3, (20, m)), np.full((1, m), 5.0), np.full((1, m), 3.0)])
    for theta in (0.0, 0.7):
        found = study_p(x, y, theta, 0.05)
        each = [permutation._Permuted([pair], 0.05).p(theta) for pair in zip(x, y, strict=True)]
        assert found == pytest.approx(each, abs=1e-12)
    big, other = g.normal(0.7, 1, (5, 15)), g.normal(0, 1, (5, 15))  # of other random assignments
    each = [permutation_p([pair]) for pair in zip(big, other, strict=True)]
    assert study_p(big, other, 0.0, 0.05) == pytest.approx(each, abs=0.03)


def test_large_arms_of_like_sizes_are_told_apart_by_students_t():
    g = np.random.default_rng(9)
    x, y = g.lognormal(0.2, 1, 61), g.lognormal(0, 1, 61)
    d = permutation_test([(x, y)])
    t = stats.ttest_ind(x, y, equal_var=False)
    assert d.p == pytest.approx(t.pvalue)
    assert (d.low, d.high) == pytest.approx(t.confidence_interval(0.95))
    assert permutation_p([(x, y)]) == d.p
    one_less = permutation_test([(x[:60], y[:60])])  # by assignments: nearly the same
    t = stats.ttest_ind(x[:60], y[:60], equal_var=False)
    assert one_less.p == pytest.approx(t.pvalue, abs=0.02)
    assert one_less[1:3] == pytest.approx(t.confidence_interval(0.95), abs=0.15 * d.error)


def test_a_small_arm_against_a_large_one_is_not():
    # 490 ± 5, and one seed in ten far below: Student's t calls five against 116 of the same different in 59 %
    g = np.random.default_rng(10)
    scores = np.where(g.random((250, 121)) < 0.9, g.normal(490, 5, (250, 121)), g.uniform(0, 200, (250, 121)))
    by_t = stats.ttest_ind(scores[:, :5], scores[:, 5:], axis=1, equal_var=False).pvalue
    assert (by_t <= 0.05).mean() > 0.4
    found = np.array([permutation_p([(row[:5], row[5:])]) for row in scores])
    assert (found <= 0.05).mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 250)


def test_single_seeds_have_a_difference_and_nothing_else():
    d = permutation_test([(np.array([3.0]), np.array([1.0, 2, 3]))])
    assert d.value == 1
    assert np.isnan([d.low, d.high, d.p, d.error]).all()
    assert math.isnan(permutation_p([(np.array([3.0]), np.array([1.0, 2, 3]))]))


def test_too_few_seeds_for_any_p_have_the_interval_of_students_t():
    x, y = np.array([1.0, 2, 4]), np.array([2.0, 2, 7])
    d = permutation_test([(x, y)])
    assert math.isnan(d.p)
    assert (d.low, d.high) == pytest.approx(stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95))
