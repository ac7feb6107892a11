"""Measures of one seed by hand, and retention in simulated studies: a later rise is no better memory."""

import math

import numpy as np
import pytest
from forgetting import TOTAL, curves
from scored import curve, sample, task

from rlexp.compare.measures import (
    BLOCKS,
    EXPOSURE,
    MEASURES,
    area_under_curve,
    exposure,
    final_return,
    iqm,
    last,
    retention,
    steps_to,
    window_return,
)
from rlexp.compare.planning import study_p

NAN = math.nan


def by_rows(steps, rows, episodes=None, average=None):
    """A curve by the mean returns of its rows; one episode a row unless told."""
    steps, rows = np.array(steps, float), np.array(rows, float)
    episodes = np.arange(1.0, len(steps) + 1) if episodes is None else np.array(episodes, float)
    return curve(steps, rows if average is None else np.array(average, float), episodes, rows)


def test_area_and_threshold_by_hand():
    steps = np.array([0.0, 10, 20, 40])
    returns = np.array([NAN, 1.0, 3.0, 2.0])
    assert area_under_curve(steps, returns) == pytest.approx((1 * 10 + 2 * 10 + 2.5 * 20) / 40)
    assert math.isnan(area_under_curve(steps, np.full(4, NAN)))
    assert steps_to(2.5, steps, returns) == 20
    assert steps_to(3, steps, returns) == 20
    assert steps_to(4, steps, returns) == math.inf
    assert last(returns) == 2
    assert last(np.array([5.0, NAN])) == 5
    assert math.isnan(last(np.array([NAN])))


def test_iqm_by_hand():
    assert iqm(np.array([1.0, 2, 3])) == 2  # a quarter of three seeds is none
    assert iqm(np.array([100.0, 2, 4, 0])) == 3
    assert iqm(np.array([[9.0, 1, 2, 3, 100], [5, 5, 5, 5, 5]])).tolist() == [14 / 3, 5]


def test_window_return_weighs_rows_by_their_episodes():
    # rows end at 10, 20, 30, 40; they finish 2, 0, 1 and 3 episodes
    c = by_rows([10, 20, 30, 40], [5, NAN, 8, 2], episodes=[2, 2, 3, 6])
    assert window_return(c, 0, 40) == pytest.approx((2 * 5 + 8 + 3 * 2) / 6)
    assert window_return(c, 10, 40) == pytest.approx((8 + 3 * 2) / 4)  # after 10, up to and with 40
    assert window_return(c, 9.9, 30) == pytest.approx((2 * 5 + 8) / 3)
    assert math.isnan(window_return(c, 10, 20))
    assert math.isnan(window_return(c, 40, 50))


def test_final_return_is_of_the_last_tenth_of_steps():
    steps = np.arange(1, 101) * 10.0
    rows = np.where(steps > 900, 7.0, 1.0)
    rows[-1] = 27
    assert final_return(by_rows(steps, rows)) == pytest.approx((9 * 7 + 27) / 10)
    # however many episodes that is: the average of the last 100 would hold all of training
    assert final_return(by_rows(steps, rows, average=np.full(100, 1.5))) == pytest.approx(9)
    assert final_return(curve(steps, np.full(100, 1.5), steps)) == 1.5  # of an older run, without rows
    assert final_return(by_rows(steps, np.append(rows[:90], np.full(10, NAN)), average=np.full(100, 3.0))) == 3


def test_exposure_is_the_same_for_all_who_have_it():
    steps = np.arange(1, 101) * 10.0
    assert exposure(400, by_rows(steps, np.where(steps >= 200, 450, 10))) == (200, 200 + EXPOSURE * 1000)
    assert exposure(400, by_rows(steps, np.where(steps >= 750, 450, 10))) == (750, 1000)
    assert exposure(400, by_rows(steps, np.where(steps >= 760, 450, 10))) is None  # too late
    assert exposure(400, by_rows(steps, np.full(100, 399.0))) is None


def blocks(*means, rows=6, before=4):
    """A curve that crosses 400 at its row `before`, then has blocks of rows with these mean returns."""
    levels = np.append(np.full(before, 400.0), np.repeat(np.array(means, float), rows))
    average = np.append(np.zeros(before - 1), np.full(len(levels) + 2 - before, 400.0))
    steps = np.arange(1.0, len(levels) + 2)
    steps[-1] = rows * len(means) / EXPOSURE  # of which the exposure is that share
    return by_rows(steps, np.append(levels, 1.0), average=average)


def test_retention_by_hand():
    assert BLOCKS == 5
    assert retention(400, blocks(400, 500, 450, 450, 450)) == pytest.approx(450 / 500)
    assert retention(400, blocks(500, 500, 500, 500, 500)) == 1
    assert retention(400, blocks(300, 350, 400, 450, 500)) == 1  # a rise is no forgetting
    assert retention(400, blocks(500, 500, 500, 500, 250), floor=100) == pytest.approx(150 / 400)
    assert retention(400, blocks(500, 200, 500, 500, 500)) == 1  # a dip that it recovers from
    assert math.isnan(retention(600, blocks(500, 500, 500, 500, 500)))  # never reached
    assert math.isnan(retention(400, blocks(500, 500, 500, 500, 500), floor=400))
    assert math.isnan(retention(400, blocks(500, 500, 500, 500, 500, rows=2)))  # no three samples in a block
    assert math.isnan(retention(400, blocks(-1, -2, -3, -4, -5), floor=0))  # no level to keep a share of


def test_retention_takes_peak_and_levels_from_different_episodes():
    # rows of a block go by turns to three samples; the first finds the best block, here the second by a lucky row
    lucky = blocks(450, 450, 450, 450, 450)
    lucky.row_returns[4 + 6] = 500  # first row of the second block: of the first sample
    assert retention(400, lucky) == 1
    lucky.row_returns[4 + 7] = 480  # of the second sample: its level there is (480 + 450)/2
    assert retention(400, lucky) == pytest.approx(450 / 465)
    lucky.row_returns[4 + 8] = 9000  # of the third, which measures the last block alone
    assert retention(400, lucky) == pytest.approx(450 / 465)
    lucky.row_returns[4 + 4 * 6 + 2 + 3] = 420  # its second row there
    assert retention(400, lucky) == pytest.approx(435 / 465)


def test_retention_weighs_rows_by_their_episodes():
    c = blocks(500, 500, 500, 500, 500)
    episodes = np.arange(1.0, len(c.steps) + 1)
    episodes[-2:] += 2  # the last row of the last block has three episodes
    c.row_returns[-2] = 300
    weighed = curve(c.steps, c.returns, episodes, c.row_returns)
    assert retention(400, weighed) == pytest.approx((500 + 3 * 300) / 4 / 500)


def test_measures_of_a_seed():
    held = task({"ppo": [7.0]}, threshold=None)
    (seed,) = held.arms["ppo"]
    values = {name: measure.of(seed, held) for name, measure in MEASURES.items()}
    assert values == pytest.approx(
        {"evaluation": 7, "evaluation_sampled": NAN, "final": 7, "area": 7, "retention": NAN}, nan_ok=True
    )
    assert math.isnan(MEASURES["evaluation"].of(sample(0, NAN, 5.0), held))
    for points, value in (([NAN, 3, NAN, 8], 8), ([NAN, 3, 8, NAN], NAN)):  # an earlier point is not the final policy's
        sampled = curve(*[seed.curve.steps] * 3, sampled=points)
        found = MEASURES["evaluation_sampled"].of(type(seed)(0, sampled, None, seed.run), None)
        assert found == pytest.approx(value, nan_ok=True)
    kept = blocks(500, 500, 500, 500, 250)
    floored = task({}, bounds=(100.0, 500.0), threshold=400.0)
    assert MEASURES["retention"].of(type(seed)(0, kept, None, seed.run), floored) == pytest.approx(150 / 400)


# Simulation: 300 studies of twenty seeds an arm ----------------------------------------------------------------------

STUDIES, SEEDS = 300, 20


def retained(key, **model):
    """Retention of each seed of each study (STUDIES, SEEDS)."""
    g = np.random.default_rng(key)
    found = [retention(400.0, c) for _ in range(6) for c in curves(g, STUDIES * SEEDS // 6, **model)]
    return np.array(found).reshape(STUDIES, SEEDS)


def called_different(x, y):
    """Share of studies whose arms get p <= .05; each is judged by the seeds that have a retention."""
    sizes = [(int((~np.isnan(a)).sum()), int((~np.isnan(b)).sum())) for a, b in zip(x, y, strict=True)]
    found = 0
    for pair in set(sizes):
        here = [k for k, size in enumerate(sizes) if size == pair]
        arms = [np.array([row[~np.isnan(row)] for row in z[here]]) for z in (x, y)]
        found += int((study_p(*arms, 0.0, 0.05) <= 0.05).sum())
    return found / len(x)


@pytest.fixture(scope="module")
def usual():
    return retained(0)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"rise": 200_000},  # twice as late
        {"width": 30_000},  # 2.5 times as slow
        {"rise": 180_000, "width": 30_000},
    ],
    ids=["the same", "later", "slower", "later and slower"],
)
def test_equal_plateaus_with_different_rises_are_not_told_apart(usual, model):
    found = retained(1, **model)
    assert np.isnan(found).mean() < 0.02  # nearly all have the exposure
    assert called_different(found, usual) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / STUDIES)
    assert np.nanmean(found) == pytest.approx(np.nanmean(usual), abs=0.01)


@pytest.mark.parametrize("rise", [100_000, 200_000])
def test_a_true_forgetting_of_a_tenth_is_found(usual, rise):
    found = retained(2, rise=rise, forgets=0.1)
    assert called_different(found, usual) >= 0.8
    assert np.nanmean(found) / np.nanmean(usual) == pytest.approx(0.9, abs=0.04)


def test_a_seed_that_forgets_nothing_keeps_nearly_all():
    g = np.random.default_rng(3)
    kept = np.array([retention(400.0, c) for c in curves(g, 400, fluctuation=0.0)])
    assert kept.mean() == pytest.approx(1, abs=0.01)  # no regression from a lucky peak
    assert curves(g, 1)[0].steps[-1] == TOTAL
