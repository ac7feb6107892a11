"""hydra/sweeper=optuna: trials on tuning seeds through any launcher, judged at rungs, gone on with, the best anew."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from helpers import SUPPORT, record, status
from process import Process
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

optuna = pytest.importorskip("optuna", reason="extra tune is not installed")

BASE = ("-m", "hydra/sweeper=optuna", "study=t", "tuned=none", "progress=none", "compile=false", "total_steps=512")
BASE += ("env.num_envs=2", "algo.rollout_steps=32", "algo.epochs=1", "algo.minibatches=1", "evaluation.episodes=1")
LR = "optimizer.lr=tag(log,interval(1e-4,1e-2))"


@pytest.fixture
def tune(cli):
    """A tiny tuning: settings of the sweeper by name, and further words."""

    def call(*words, params=(LR,), **settings):
        given = {"n_trials": 3, "num_seeds": 1, "evaluation_seeds": 1, "n_startup": 2, **settings}
        return cli(*BASE, *params, *(f"hydra.sweeper.{k}={v}" for k, v in given.items()), *words)

    return call


def trials():
    return sorted(path.parent for path in Path("outputs/t/trials").glob("*/run.json"))


def stored(name="tuning"):
    return optuna.load_study(study_name=name, storage="sqlite:///outputs/t/optuna.db")


def states(name="tuning"):
    return [trial.state.name for trial in stored(name).trials]


def test_trials_take_tuning_seeds_and_the_best_is_trained_anew_on_evaluation_seeds(tune):
    result = tune(num_seeds=2, evaluation_seeds=2)
    assert result.code == 0, result.err
    assert [(record(job)["seeds"], status(job)) for job in trials()] == [([1000, 1001], "done")] * 3
    (best,) = [path for path in Path("outputs/t").iterdir() if (path / "run.json").exists()]
    assert record(best)["seeds"] == [0, 1]
    found = stored().best_trial
    assert record(best)["config"]["optimizer"]["lr"] == float(f"{found.params['optimizer.lr']:.6g}")
    returns = record(Path(found.user_attrs["folder"]))["result"]["training_return"]
    assert found.value == pytest.approx(sum(returns) / 2, rel=1e-4)
    assert found.value == max(trial.value for trial in stored().trials)
    assert f"best: trial {found.number}" in result.out
    events = [str(path) for job in trials() for path in job.glob("seed_1000/events.*")]
    tags = [{value.tag for event in EventFileLoader(path).Load() for value in event.summary.value} for path in events]
    assert ["_hparams_/session_start_info" in found for found in tags] == [True] * 3  # TensorBoard's HPARAMS has them
    header, *rows = Path("outputs/t/trials.csv").read_text().splitlines()
    assert header == "tuning,trial,state,final,optimizer.lr"
    assert [float(row.split(",")[3]) for row in rows] == [trial.value for trial in stored().trials]


def test_only_the_best_is_evaluated_during_training(tune):
    assert tune("evaluation.every=256", "evaluation.curve_episodes=1", n_trials=2).code == 0
    (best,) = [path for path in Path("outputs/t").iterdir() if (path / "run.json").exists()]
    columns = [(job / "metrics.csv").read_text().splitlines()[0].split(",") for job in (*trials(), best)]
    assert ["evaluation_return" in found for found in columns] == [False, False, True]


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_stopped(tune):
    assert tune(n_trials=2).code == 0
    assert tune(n_trials=4).code == 0
    assert states() == ["COMPLETE"] * 4
    assert [record(job)["launches"] for job in trials()] == [1] * 4
    assert "is left out" not in tune(n_trials=4).out
    assert len(trials()) == 4
    changed = tune(n_trials=4, params=("optimizer.lr=tag(log,interval(1e-4,1e-1))",))
    assert changed.code == 1
    assert re.search(r"was started with other spaces \(optimizer.lr was .*\); .*study=", changed.err)


@pytest.mark.slow
def test_a_tuning_that_is_killed_goes_on_with_the_trial_that_it_was_at(tmp_path, tune):
    slow = ("total_steps=3200", "checkpoint_every=640")
    few = {"n_trials": 2, "num_seeds": 1, "evaluation_seeds": 0}
    words = [*BASE, LR, *slow, *(f"hydra.sweeper.{key}={value}" for key, value in few.items())]
    process = Process(tmp_path, *words)
    deadline = time.time() + 60
    while not list(tmp_path.glob("outputs/t/trials/*/checkpoint.pt")):
        assert time.time() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert states() == ["RUNNING"]
    process = Process(tmp_path, *words)
    while not (process.output.exists() and "resumed" in process.output.read_text()):
        assert time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "tuning: 0 trials complete" in process.communicate()
    assert len(Path("outputs/t/trials.csv").read_text().splitlines()) == 2
    assert tune(*slow, **few).code == 0
    assert states() == ["COMPLETE"] * 2
    assert sorted(record(job)["launches"] for job in trials()) == [1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_best_is_trained_saves_it_and_the_same_command_finishes(tmp_path, tune, number):
    slow = ("total_steps=6400", "checkpoint_every=640")
    few = {"n_trials": 2, "num_seeds": 1, "evaluation_seeds": 2, "n_startup": 2}
    process = Process(tmp_path, *BASE, LR, *slow, *(f"hydra.sweeper.{k}={v}" for k, v in few.items()))
    deadline = time.time() + 60
    while not list(tmp_path.glob("outputs/t/[!.]*/checkpoint.pt")):
        assert time.time() < deadline
        assert process.returncode is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, number)
    assert process.wait() == 128 + number
    (best,) = tmp_path.glob("outputs/t/*/run.json")
    assert record(best.parent)["error"] == f"interrupted by {number.name}"
    assert states() == ["COMPLETE"] * 2
    result = tune(*slow, **few)
    assert result.code == 0, result.err
    assert "resumed at" in result.out
    assert (status(best.parent), record(best.parent)["launches"]) == ("done", 2)
    assert list(tmp_path.glob("outputs/t/*/run.json")) == [best]
    assert [record(job)["launches"] for job in trials()] == [1] * 2


def test_bad_trials_are_pruned_at_a_rung_and_say_so(tune):
    result = tune(
        n_trials=6, pruner="halving", rungs="[0.5]", prune_after=1, keep=0.3, params=(LR, "algo.clip_coef=0.1,0.2")
    )
    assert result.code == 0, result.err
    pruned = [trial for trial in stored().trials if trial.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        job = Path(trial.user_attrs["folder"])
        assert status(job) == "pruned"
        assert record(job)["error"].startswith("pruned at 50% with")
        assert record(job)["paused_at"] == 256
        last = (job / "metrics.csv").read_text().splitlines()[-1].split(",")
        assert int(last[1]) <= 256
        assert list(trial.intermediate_values) == [1]
    assert f"{len(pruned)} pruned" in result.out
    rows = list(csv.DictReader(Path("outputs/t/trials.csv").read_text().splitlines()))
    assert [row["final"] == "" for row in rows] == [row["state"] == "pruned" for row in rows]
    whole = [trial for trial in stored().trials if trial.state.name == "COMPLETE"]
    for trial in whole:
        job = Path(trial.user_attrs["folder"])
        assert (status(job), record(job)["launches"]) == ("done", 2)


def test_what_another_command_tuned_in_the_study_stays_in_the_list_of_trials(tune):
    for clip in (0.3, 0.2, 0.3):
        assert tune(f"hydra.sweeper.grids=[['algo.clip_coef={clip}']]", n_trials=1, evaluation_seeds=0).code == 0
    rows = list(csv.DictReader(Path("outputs/t/trials.csv").read_text().splitlines()))
    assert [(row["tuning"], row["trial"]) for row in rows] == [("algo.clip_coef=0.2", "0"), ("algo.clip_coef=0.3", "0")]


def test_a_tuning_none_of_whose_trials_comes_to_its_end_does_not_stop_the_others(tune, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    grids = "hydra.sweeper.grids=[['env.id=poison:Raises-v0'],['env.id=CartPole-v1']]"
    result = tune(grids, n_trials=1)
    assert result.code == 1
    assert "Raises-v0: no trial completed" in result.err
    assert states("env.id=CartPole-v1") == ["COMPLETE"]
    assert len([path for path in Path("outputs/t").iterdir() if (path / "run.json").exists()]) == 1


@pytest.mark.slow
def test_a_trial_drawn_twice_is_trained_once_and_goes_on_where_its_twin_was_pruned(tune):
    judged = {"sampler": "random", "pruner": "halving", "rungs": "[0.5]", "prune_after": 1, "keep": 0.5}
    result = tune(n_trials=6, evaluation_seeds=0, params=("algo.clip_coef=0.1,0.3",), **judged)
    assert result.code == 0, result.err
    assert "FAIL" not in states()
    assert len(trials()) == 2
    assert "(as trial 0)" in result.out


def test_a_rung_comes_after_a_whole_update_of_each_trials_own_size(tune):
    judged = {"sampler": "grid", "pruner": "percentile", "rungs": "[0.5]"}
    result = tune("total_steps=576", n_trials=2, evaluation_seeds=0, params=("env.num_envs=2,3",), **judged)
    assert result.code == 0, result.err
    assert states() == ["COMPLETE"] * 2
    assert sorted(record(job)["paused_at"] for job in trials()) == [256, 288]  # of 64 and of 96 rows


@pytest.mark.slow
def test_trials_that_fail_count_and_are_tried_again_on_request(tune):
    params = ("optimizer.lr=1e-3,1e30",)
    result = tune(sampler="grid", params=params)
    assert result.code == 0, result.err
    assert sorted(states()) == ["COMPLETE", "FAIL"]
    (failed,) = [trial for trial in stored().trials if trial.state.name == "FAIL"]
    assert "DivergedError" in failed.user_attrs["error"]
    assert "1 failed" in result.out
    assert sorted(status(job) for job in trials()) == ["done", "failed"]
    again = tune("retry_failed=true", sampler="grid", params=params)
    assert again.code == 0
    assert sorted(states()) == ["COMPLETE", "FAIL", "FAIL"]
    assert "tuning [3/3] trial 2: failed" in again.out
    assert "2 failed (1 of them retried)" in again.out
    assert tune(sampler="grid", params=params).code == 0
    assert len(states()) == 3
    shutil.rmtree(next(job for job in trials() if status(job) == "failed"))  # as `rlexp.study clean` does
    assert tune(sampler="grid", params=params).code == 0
    assert states()[2:] == ["FAIL", "FAIL"]


@pytest.mark.slow
@pytest.mark.parametrize("judged", [{}, {"pruner": "median", "rungs": "[0.5]"}])
def test_a_trial_does_not_win_by_the_seeds_that_did_not_diverge(tune, judged):
    params = ("algo.victim=5,1001",)  # a seed that no trial has, and one of two
    settings = {"sampler": "grid", "num_seeds": 2, "evaluation_seeds": 0, **judged}
    words = ("algo._target_=diverging.SpoilsPPO",)
    result = tune(*words, params=params, **settings)
    assert result.code == 0, result.err
    assert sorted(states()) == ["COMPLETE", "FAIL"]
    (failed,) = [trial for trial in stored().trials if trial.state.name == "FAIL"]
    assert failed.params == {"algo.victim": 1001}
    assert failed.user_attrs["error"] == "DivergedError: update 3: loss of seed 1001 is nan"
    job = Path(failed.user_attrs["folder"])
    assert (status(job), record(job)["ended"], list(record(job)["diverged"])) == ("failed", "diverged", ["1001"])
    assert tune("retry_failed=true", *words, params=params, **settings).code == 0
    assert sorted(states()) == ["COMPLETE", "FAIL", "FAIL"]


@pytest.mark.slow
def test_a_failed_job_that_trials_share_runs_again_once(tune):
    settings = {"sampler": "random", "evaluation_seeds": 0, "params": ("algo.clip_coef=0.1,0.3", "optimizer.lr=1e30")}
    assert tune(**settings).code == 1
    assert tune("retry_failed=true", **settings).code == 1
    assert states() == ["FAIL"] * 6
    assert [record(job)["launches"] for job in trials()] == [2] * len({str(t.params) for t in stored().trials})
    assert len(trials()) < 3


def test_a_trial_that_failed_by_chance_is_trained_again_on_request(tune, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    words = ("env.id=poison:FailsOnce-v0",)
    assert tune(*words, n_trials=1).code == 1
    assert states() == ["FAIL"]
    result = tune(*words, "retry_failed=true", n_trials=1)
    assert result.code == 0, result.err
    assert states() == ["FAIL", "COMPLETE"]
    assert [(status(job), record(job)["launches"]) for job in trials()] == [("done", 2)]
    assert "1 trials complete, 0 pruned, 1 failed (1 of them retried)" in result.out


def test_values_that_cannot_be_together_are_a_failed_trial(tune):
    result = tune(sampler="grid", n_trials=4, evaluation_seeds=0, params=("env.num_envs=1,2", "algo.minibatches=32,1"))
    assert result.code == 0, result.err
    assert sorted(states()) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
    assert re.search(r"failed: algo.minibatches=32: .*env.num_envs=1 algo.minibatches=32", result.out)


@pytest.mark.slow
def test_what_was_the_best_before_further_trials_is_not_compared(tune):
    from rlexp.compare.arms import compare_runs
    from rlexp.study.runs import find_runs

    def known(lr, value):
        """A trial that somebody else has made."""
        return optuna.trial.create_trial(
            params={"optimizer.lr": lr}, distributions=stored().trials[0].distributions, value=value
        )

    def superseded():
        folders = [path for path in Path("outputs/t").iterdir() if (path / "run.json").exists()]
        names = json.loads(Path("outputs/t/superseded.json").read_text())
        return {record(job)["config"]["optimizer"]["lr"]: job.name in names for job in folders}

    assert tune(n_trials=1).code == 0
    (first,) = superseded()
    stored().add_trial(known(5e-3, 1e6))
    assert tune(n_trials=2, evaluation_seeds=0).code == 0
    assert superseded() == {first: True}
    assert tune(n_trials=2).code == 0
    assert superseded() == {first: True, 5e-3: False}
    comparison = compare_runs(find_runs(["outputs/t"]))
    assert comparison.arm_names == ["ppo"]
    assert any("left out, as the tuning has since found a better one" in remark for remark in comparison.remarks)
    stored().add_trial(known(stored().trials[0].params["optimizer.lr"], 1e7))
    assert tune(n_trials=3).code == 0
    assert superseded() == {first: False, 5e-3: True}
    assert tune("hydra.sweeper.grids=[['algo.clip_coef=0.3']]", n_trials=1, evaluation_seeds=0).code == 0
    assert superseded() == {first: False, 5e-3: True}  # though that tuning knows nothing of them


@pytest.mark.parametrize("launcher", [pytest.param("joblib", marks=pytest.mark.slow), "batched"])
def test_trials_run_at_a_time_through_launchers(tune, launcher):
    judged = {"pruner": "percentile", "rungs": "[0.5]"}
    result = tune(f"hydra/launcher={launcher}", n_trials=4, n_jobs=4, evaluation_seeds=0, **judged)
    assert result.code == 0, result.err
    assert "paused at 256 steps: " in result.out
    assert states() == ["COMPLETE"] * 4
    together = {record(job)["agents_together"] for job in trials()}
    assert together == ({4} if launcher == "batched" else {1})


def test_each_job_of_the_grids_is_tuned_for_itself_on_the_same_budget(tune):
    searched = "'algo.anchor_coef=tag(log,interval(0.1,10))','algo.top_k=tag(search,choice(1,2))'"
    grids = f"['algo=ppo','env=cartpole,pendulum'],['algo=apo',{searched}]"
    result = tune(f"hydra.sweeper.grids=[{grids}]", "env=cartpole", n_trials=1)  # the latter holds for all
    assert result.code == 0, result.err
    assert states("algo=ppo") == states("algo=apo") == ["COMPLETE"]
    assert len(optuna.get_all_study_names("sqlite:///outputs/t/optuna.db")) == 2
    assert set(stored("algo=apo").trials[0].params) == {"optimizer.lr", "algo.anchor_coef", "algo.top_k"}
    assert set(stored("algo=ppo").trials[0].params) == {"optimizer.lr"}
    best = [record(path)["choices"]["algo"] for path in Path("outputs/t").iterdir() if (path / "run.json").exists()]
    assert sorted(best) == ["apo", "ppo"]
    assert result.out.endswith("python -m rlexp.compare outputs/t allow=optimizer.lr\n")


def test_several_measures_keep_what_none_beats_in_all(tune):
    result = tune(sampler="nsga2", measure="[final,area]", n_trials=3, evaluation_seeds=1)
    assert result.code == 0, result.err
    front = stored().best_trials
    best = [path for path in Path("outputs/t").iterdir() if (path / "run.json").exists()]
    assert len(best) == len(front) >= 1


@pytest.mark.few(10)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("seed=3",), "tuning seeds start at 1000"),
        (("hydra.sweeper.sampler=bayes",), "choose from tpe, cmaes"),
        (("hydra.sweeper.measure=best",), "choose from final, area"),
        (("hydra.sweeper.measure=[]",), "hydra.sweeper.measure=[]: empty; choose from final, area"),
        (("hydra.sweeper.measure=null",), "hydra.sweeper.measure=[]: empty"),
        (("hydra.sweeper.n_trials=0",), "at least 1"),
        (("hydra.sweeper.pruner=median", "hydra.sweeper.rungs=[1.5]"), "between 0 and 1"),
        (("hydra.sweeper.n_trials=abc",), "hydra.sweeper.n_trials=abc: must be a whole number, at least 1"),
        (("hydra.sweeper.aggregate=median",), "choose from mean, iqm"),
        (("hydra.sweeper.measure=evaluation", "hydra.sweeper.pruner=median"), "judge rungs by final or area"),
        (("hydra.sweeper.measure=evaluation", "evaluation.episodes=0"), "evaluation.episodes=0"),
        (("hydra.sweeper.measure=seconds", "hydra/launcher=batched"), "use another launcher"),
        (("primary=evaluation_sampled",), "primary=evaluation_sampled: is the last evaluation"),
        (("resume=never",), "name another study"),
        (("resume=auto,never",), "name another study"),
        (("+hydra.sweeper.params.resume=never",), "name another study"),
        (("hydra.sweeper.grids=[['resume=never']]",), "name another study"),
        (("study=t,u",), "give one name"),
        (("hydra.sweeper.grids=[['study=u']]",), "give one name"),
        (("hydra.sweeper.grids=[['algo=ppo','seed=3,4']]",), "seed=3,4: tuning seeds start at 1000"),
        (("algo.clp_coef=interval(0,1)",), "did you mean algo.clip_coef"),
        (("algo.clip_coef=0.1,0.2,-1",), "algo.clip_coef=-1"),
        (("gae.gamma=interval(0.5,1.1)",), "gae.gamma=1.1: must lie in [0, 1]"),
        (("algo=interval(0,1)",), "list the names, as in algo=a,b"),
        (("hydra.sweeper.pruner=median", "hydra.sweeper.rungs=[0.5,0.51]"), "8 updates of 64 steps are too few"),
        (("hydra.sweeper.grids=[['algo=ppo'],['algo=ppo','algo.ent_coef=interval(0,1)']]",), "algo=ppo occurs twice"),
        (("hydra.sweeper.grids=[['algo=ppo'],['algo=apo','algo.anchor_coeff=interval(0,1)']]",), "algo.anchor_coef?"),
        (("hydra.sweeper.grids=[['env=cartpole,pendulum']]", "env=cartpole", "algo.clip_coef=-1,0.1"), "clip_coef=-1"),
        (("hydra.sweeper.n_trialss=3",), "did you mean hydra.sweeper.n_trials?"),
        (("algo.clip_coef=interval(0.1,)",), "write interval(1e-4,1e-2)"),
        (("hydra.sweeper.grids=[[algo=ppo],[algo=apo]]",), """'[["algo=ppo"],["algo=apo"]]'"""),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(tune, words, told):
    result = tune(*words)
    assert result.code == 1
    assert re.fullmatch(r"rlexp: [^\n]+\n", result.err)
    assert told in result.err
    assert not Path("outputs/t").exists()


def test_tuning_and_evaluation_seeds_are_kept_apart(cli):
    words = ("tuned=none", "total_steps=1024", "evaluation.episodes=0", "progress=none")
    result = cli(*words, "seed=998", "num_seeds=4")
    assert result.code == 1
    assert "use at most 2 with seed=998" in result.err
    from rlexp.compare.arms import compare_runs
    from rlexp.study.runs import StudyError, find_runs

    assert cli(*words, "seed=1000").code == 0
    with pytest.raises(StudyError, match="1 runs on tuning seeds"):
        compare_runs(find_runs(["outputs"]))


@pytest.mark.slow
def test_optuna_dashboard_shows_the_study(tune):
    pytest.importorskip("optuna_dashboard", reason="extra tune is not installed")
    assert tune(n_trials=2, evaluation_seeds=0).code == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("optuna-dashboard"), "sqlite:///outputs/t/optuna.db", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.time() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    studies = json.load(answer)
                break
            except OSError:
                assert time.time() < deadline
                time.sleep(0.1)
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    assert "tuning" in json.dumps(studies)


@pytest.mark.parametrize("name", ["optuna.db", "trials.csv"])
def test_a_tuning_writes_nothing_through_a_link(tune, tmp_path, name):
    Path("outputs/t").mkdir(parents=True)
    Path("outputs/t", name).symlink_to(tmp_path / "outside")
    result = tune()
    assert result.code == 1
    assert f"outputs/t/{name}: is a symbolic link" in result.err
    assert not (tmp_path / "outside").exists()
