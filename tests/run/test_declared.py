"""What a run declares is kept from its first launch, however it is trained."""

import json
from pathlib import Path

import pytest
from helpers import jobs, record, status

from rlexp.study.runs import find_runs

TINY = ("study=s", "tuned=none", "progress=none", "compile=false", "evaluation.episodes=1", "network.torso.hidden=[8]")
TINY += ("total_steps=256", "env.num_envs=2", "algo.rollout_steps=32", "algo.epochs=1", "torch_threads=1")
AREA = ("primary=area", "margin=5%")
DECLARED = {"primary": "area", "margin": "5%"}
STAYS = "primary=final, margin=7: the run was declared with primary=area, margin=5%, which stays"


def plan(study="s"):
    return json.loads(Path(f"outputs/{study}/sweep.json").read_text())["jobs"]


def test_a_run_declares_at_its_first_launch_and_later_ones_are_told(cli):
    assert cli(*TINY, *AREA, "stop_at=128", "env.limits=[null,500]").code == 0
    (job,) = jobs()
    first = DECLARED | {"limits": [None, 500.0]}
    assert (status(job), record(job)["declared"]) == ("interrupted", first)  # before any result
    told = STAYS.replace("5%,", "5%, env.limits=[null,500],")
    for again in ("resumed at", "already done"):
        result = cli(*TINY, "primary=final", "margin=7")
        assert again in result.out
        assert told in result.out
        assert record(job)["declared"] == first
    assert told in (job / "train.log").read_text()
    assert [job] == jobs()  # outside of identity and name
    assert "primary" not in job.name
    assert "which stays" not in cli(*TINY, *AREA, "env.limits=[null,500]").out
    (run,) = find_runs(["outputs/s"])
    assert run.declared.entry == first


def test_without_a_word_the_default_is_declared(cli):
    assert cli(*TINY).code == 0
    assert record(jobs()[0])["declared"] == {"primary": "evaluation", "margin": None}


def test_a_run_of_an_older_version_stays_undeclared(cli):
    assert cli(*TINY, "stop_at=128").code == 0
    (job,) = jobs()
    older = record(job)
    del older["declared"]
    (job / "run.json").write_text(json.dumps(older))
    result = cli(*TINY, *AREA)
    assert "primary=area, margin=5%: not recorded, as the run was started without a declaration" in result.out
    assert "declared" not in record(job)
    assert cli("-m", *TINY, *AREA).code == 0
    assert ["declared" in entry for entry in plan().values()] == [False]


@pytest.mark.slow
def test_an_extension_has_the_declaration_of_the_run_that_it_extends(cli):
    assert cli(*TINY, *AREA).code == 0
    result = cli(*TINY, "total_steps=512", "resume=extend", "primary=final", "margin=7")
    assert STAYS in result.out
    assert [record(job)["declared"] for job in jobs()] == [DECLARED] * 2
    assert cli("-m", *TINY, "total_steps=1024", "resume=extend", "primary=final").code == 0
    assert [record(job)["declared"] for job in jobs()] == [DECLARED] * 3
    assert [entry["declared"] for entry in plan().values()] == [DECLARED]


def test_a_run_that_starts_from_another_declares_for_itself(cli):
    assert cli(*TINY, *AREA).code == 0
    (parent,) = jobs()
    assert cli(*TINY, "study=t", f"init_from='{parent}'", "margin=7").code == 0
    (child,) = [job for job in jobs() if job.parent.name == "t"]
    assert record(child)["declared"] == {"primary": "evaluation", "margin": 7}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("joblib", "submitit_local", "ray")]


@pytest.mark.parametrize("launcher", ["basic", "batched", *SLOW])
def test_jobs_of_a_sweep_declare_before_any_starts_whoever_runs_them(cli, launcher):
    module = {"basic": "torch", "batched": "torch", "submitit_local": "submitit"}.get(launcher, launcher)
    pytest.importorskip(module, reason="extra is not installed")
    words = ("-m", *TINY, "seed=0,1", f"hydra/launcher={launcher}")
    assert cli(*words, *AREA).code == 0
    assert [record(job)["declared"] for job in jobs()] == [DECLARED] * 2
    assert [entry["declared"] for entry in plan().values()] == [DECLARED] * 2
    assert [entry["seeds"] for entry in plan().values()] == [[0], [1]]
    assert [entry["config"] for entry in plan().values()] == [record(job)["config"] for job in jobs()]
    result = cli(*words, "seed=0,1,2", "primary=final", "margin=7")
    assert f"{STAYS} (2 of 3 jobs)" in result.out
    assert [record(job)["declared"] for job in jobs()] == [DECLARED, DECLARED, {"primary": "final", "margin": 7}]


def test_a_job_that_waits_keeps_what_its_plan_declared(cli):
    assert cli("-m", *TINY, *AREA, "seed=0,1").code == 0
    first, second = jobs()
    for path in sorted(second.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    second.rmdir()
    result = cli(*TINY, "seed=1", "primary=final", "margin=7")
    assert STAYS in result.out
    assert record(second)["declared"] == record(first)["declared"] == DECLARED


def test_jobs_that_differ_only_in_what_they_declare_share_a_batch(cli):
    grids = "hydra.sweeper.grids=[['seed=0','margin=1'],['seed=1','margin=2']]"
    result = cli("-m", *TINY, "hydra/launcher=batched", grids)
    assert result.code == 0, result.err
    assert "2 jobs (2 agents) side by side" in result.out
    assert [record(job)["declared"]["margin"] for job in jobs()] == [1, 2]


def test_a_job_that_fails_before_it_starts_has_declared(cli, monkeypatch):
    monkeypatch.setattr("rlexp.build.build_trainer", lambda *_: 1 / 0)
    assert cli("-m", *TINY, *AREA, "seed=0,1").code == 1
    assert [(status(job), record(job)["declared"]) for job in jobs()] == [("failed", DECLARED)] * 2
    monkeypatch.undo()


def test_a_study_in_a_yaml_declares_per_environment(cli, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "two.yaml").write_text(
        "# @package _global_\nprimary: final\nmargin: 5%\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    grids:\n"
        "      - [env=cartpole]\n      - [env=acrobot, margin=20]\n"
    )
    result = cli("experiment=two", *TINY)
    assert result.code == 0, result.err
    found = {record(job)["config"]["env"]["id"]: record(job)["declared"] for job in jobs()}
    assert found == {
        "CartPole-v1": {"primary": "final", "margin": "5%"},
        "Acrobot-v1": {"primary": "final", "margin": 20},
    }


@pytest.mark.slow
def test_trials_and_the_best_of_a_tuning_declare(cli):
    pytest.importorskip("optuna", reason="extra tune is not installed")
    words = ("-m", *TINY, *AREA, "hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-4,1e-2))")
    settings = ("n_trials=4", "num_seeds=1", "evaluation_seeds=1", "n_startup=2", "pruner=median", "prune_after=1")
    result = cli(*words, *(f"hydra.sweeper.{setting}" for setting in settings))
    assert result.code == 0, result.err
    runs = find_runs(["outputs/s"])
    assert {run.status for run in runs} >= {"done"}
    assert [run.declared.entry for run in runs] == [DECLARED] * len(runs)
    assert len(runs) >= 4
    assert all("config" not in entry for entry in plan("s/trials").values())  # compare leaves them out
    assert ["config" in entry for entry in plan().values()] == [True]


@pytest.mark.parametrize("word", ["primary=evalution", "margin=-5%", "margin=0"])
def test_what_is_not_valid_is_refused_before_anything_is_made(cli, word):
    for words in (TINY, ("-m", *TINY, "seed=0,1")):
        result = cli(*words, word)
        assert result.code == 1
        assert result.err.startswith(f"rlexp: {word}: must be ")
        assert result.err.count("\n") == 1
    assert not Path("outputs/s").exists()
