"""Curves as `compare` and the tuner read them."""

import numpy as np
import pytest
from helpers import train
from numpy.testing import assert_array_equal
from runs import write_run

from rlexp.study.runs import Run, StudyError, read_curves

HEADER = "seed,step,wall_time,episodic_return,row_return,evaluation_return,evaluation_return_sampled,episodes,loss"


def read(folder, *lines, **record):
    (folder / "metrics.csv").write_text("\r\n".join(lines) + "\r\n", newline="")
    run = Run(folder, record, {})
    read_curves(run)
    return run.curves


def test_a_curve_has_a_value_for_each_row(tmp_path):
    rows = ("3,10,1.5,,,,,0,.1", "4,11,1.5,7,7,,,2,.1", "3,20,3.0,5,5,6,4,1,.1", "4,21,3.0,8,9,8.5,,4,.1")
    curves = read(tmp_path, HEADER, *rows, seeds=[3, 4], agents_together=4)
    assert sorted(curves) == [3, 4]
    nan = np.nan
    expected = {
        "steps": [10, 20],
        "seconds": [0.75, 1.5],  # half of the batch's
        "returns": [nan, 5],
        "episodes": [0, 1],
        "row_returns": [nan, 5],
        "evaluated": [nan, 6],
        "evaluated_sampled": [nan, 4],
    }
    for name, values in expected.items():
        assert_array_equal(getattr(curves[3], name), values, name)
    assert_array_equal(curves[4].row_returns, [7, 9])
    assert_array_equal(curves[4].evaluated, [nan, 8.5])
    assert_array_equal(curves[4].evaluated_sampled, [nan, nan])


def test_columns_that_a_run_of_an_earlier_version_lacks_are_nan(tmp_path):
    write_run(tmp_path / "a" / "run", seeds=[0])
    run = Run(tmp_path / "a" / "run", {"seeds": [0]}, {})
    read_curves(run)
    curve = run.curves[0]
    assert_array_equal(curve.episodes, [0, 20, 30, 40])
    for name in ("row_returns", "evaluated", "evaluated_sampled"):
        assert_array_equal(getattr(curve, name), [np.nan] * 4)


def test_what_training_writes_is_what_is_read(tmp_path):
    words = ("env=cartpole", "env.num_envs=2", "algo.rollout_steps=32", "algo.minibatches=2", "total_steps=256")
    train(tmp_path, *words, "log_every=64", "evaluation.every=128", "evaluation.curve_episodes=2")
    run = Run(tmp_path, {"seeds": [0]}, {})
    read_curves(run)
    assert_array_equal(np.isfinite(run.curves[0].evaluated), [False, True, False, True])
    assert_array_equal(np.isfinite(run.curves[0].evaluated_sampled), [False, True, False, True])
    assert np.isfinite(run.curves[0].row_returns).any()


@pytest.mark.parametrize("row", ["x,1,1,1,1,1,1,1,1", ",1,1,1,1,1,1,1,1", "0,1,1"])
def test_a_damaged_row_is_an_error(tmp_path, row):
    with pytest.raises(StudyError, match=r"metrics\.csv: cannot be read"):
        read(tmp_path, HEADER, row, seeds=[0])


def test_a_file_without_rows_has_no_curves(tmp_path):
    assert read(tmp_path, HEADER, seeds=[0]) == {}
