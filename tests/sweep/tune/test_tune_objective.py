"""What a trial is worth."""

import json
import math

import numpy as np
import pytest
from searches import refusal

from rlexp.compare import statistics
from rlexp.config.identity import config_hash
from rlexp.sweep.tune.objective import score
from rlexp.sweep.tune.settings import TuningSettings


def write_run(folder, rows, evaluations=None, seeds=(1000, 1001)):
    config = {"seed": 1000, "num_seeds": len(seeds), "env": {"id": "CartPole-v1"}, "algo": {"_target_": "a.PPO"}}
    record = {"status": "running", "config": config, "config_hash": config_hash(config), "seeds": list(seeds)}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record))
    lines = ["seed,step,wall_time,episodic_return,episodes,loss", *(f"{row},0.5" for row in rows)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if evaluations:
        agents = [{"seed": seed, "mean_return": value} for seed, value in evaluations.items()]
        (folder / "evaluation.json").write_text(json.dumps({"agents": agents}))
    return folder


ROWS = [
    *("1000,100,1,,0", "1001,100,1,10,1"),
    *("1000,200,2,20,1", "1001,200,2,,1"),
    *("1000,300,3,30,1", "1001,300,3,30,1"),
]


def test_a_run_is_worth_the_mean_over_its_seeds(tmp_path):
    run = write_run(tmp_path / "run", ROWS, {1000: 7, 1001: 9})
    assert score(run, "final") == 30
    assert score(run, "final", up_to=200) == (20 + 10) / 2  # the second seed's last known value
    assert score(run, "final", up_to=299) == 15
    # first seed: 20 up to step 200, then 20 to 30: (200 · 20 + 100 · 25) / 300; second: 100 · 10 + 200 · 20
    assert score(run, "area") == pytest.approx((6500 + 5000) / 300 / 2)
    assert score(run, "area", up_to=200) == 15
    assert score(run, "evaluation", "iqm") == 8
    assert score(run, "seconds") == 3
    assert score(run, "seconds", up_to=200) == 2


def test_a_rung_is_counted_in_rows_with_those_of_resets(tmp_path):
    # 90 steps and 10 resets are 100 rows, 99 and 11 are 110
    run = write_run(tmp_path / "run", ["1000,90,1,9,10", "1000,99,2,99,11"], seeds=[1000])
    assert score(run, "final", up_to=100) == 9  # as of a trial that paused there
    assert score(run, "final", up_to=110) == 99


def test_the_interquartile_mean_is_that_of_compare(tmp_path):
    rng = np.random.default_rng(0)
    for n in (1, 3, 4, 5, 9):
        values = rng.normal(size=n)
        rows = [f"{k},100,1,{value!r},1" for k, value in enumerate(values.tolist())]
        run = write_run(tmp_path / str(n), rows, seeds=range(n))
        assert score(run, "final", "iqm") == pytest.approx(float(statistics.iqm(values)))


def test_a_seed_without_a_value_leaves_the_run_without_one(tmp_path):
    run = write_run(tmp_path / "run", ROWS, {1000: 7})
    assert math.isnan(score(run, "final", up_to=100))
    assert math.isnan(score(run, "final", "iqm", up_to=100))
    assert math.isnan(score(run, "area", up_to=0))
    assert math.isnan(score(run, "evaluation"))
    assert math.isnan(score(write_run(tmp_path / "silent", []), "seconds"))
    five = write_run(tmp_path / "five", [f"{k},100,1,{k},1" for k in range(4)], seeds=range(5))
    assert math.isnan(score(five, "final", "iqm"))  # the middle three of five would not have noticed


def test_a_measure_that_there_is_not_is_refused():
    told = refusal(TuningSettings, measure="best")
    assert told.startswith("hydra.sweeper.measure=best: no such measure; choose from final")
    assert "choose from mean, iqm" in refusal(TuningSettings, aggregate="median")
    assert "only known after training" in refusal(TuningSettings, measure=["final", "evaluation"], pruner="median")


@pytest.mark.parametrize(("name", "value"), [("seed", "x"), ("seed", -1), ("prune_after", -1), ("n_trials", True)])
def test_a_number_that_is_none_is_refused(name, value):
    told = refusal(TuningSettings, **{name: value})
    assert told.startswith(f"hydra.sweeper.{name}={value}: must be a whole number, at least {int(name == 'n_trials')}")


@pytest.mark.parametrize("rungs", [0.5, 1, ["a"], [1.5]])
def test_rungs_that_are_no_list_of_fractions_are_refused(rungs):
    told = refusal(TuningSettings, pruner="median", rungs=rungs)
    assert told.startswith(f"hydra.sweeper.rungs={rungs}: must be a list of fractions between 0 and 1")
