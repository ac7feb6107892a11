"""Sweeps that finish: what is done is left alone, what is broken does not break the rest, whoever runs the jobs."""

import gc
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import jobs, last_metrics, record, state_of, status
from process import wait_until
from sweeps import QUICK, TINY, named, start

import rlexp.build
import rlexp.sweep.grids
from rlexp.run.lock import FolderLock
from rlexp.training.trainer import Trainer

# Resumable ------------------------------------------------------------------------------------------------------------


def test_the_same_command_runs_only_what_is_missing(sweep):
    assert sweep("seed=0,1,2").code == 0
    shutil.rmtree(jobs()[1])
    result = sweep("seed=0,1,2")
    assert result.code == 0
    assert "3 jobs: 2 done, 1 to run" in result.out
    assert [(status(job), record(job)["launches"]) for job in jobs()] == [("done", 1)] * 3
    assert "3 jobs: 3 done\n" in sweep("seed=0,1,2").out
    plan = json.loads(Path("outputs/s/sweep.json").read_text())
    assert sorted(plan["jobs"]) == [job.name for job in jobs()]
    assert len(plan["launches"]) == 3


def test_a_sweep_that_is_killed_loses_only_what_came_after_the_checkpoint(tmp_path, sweep):
    words = ("seed=0,1,2", "total_steps=1280", "env.num_envs=2", "algo.rollout_steps=32", "checkpoint_every=320")
    process = start(tmp_path, *words)
    wait_until(lambda: list(tmp_path.glob("outputs/s/*seed=1*/checkpoint.pt")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first, second, third = (f"seed={k}" for k in range(3))
    assert (status(named(first, tmp_path)), status(named(second, tmp_path))) == ("done", "running")
    assert len(jobs(tmp_path)) == 2

    result = sweep(*words)
    assert result.code == 0, result.err
    assert "3 jobs: 1 done, 1 killed, to resume last, 1 to run" in result.out
    assert [record(named(part))["launches"] for part in (first, second, third)] == [1, 2, 1]
    assert int(re.search(r"resumed at (\d+) of 1280", result.out)[1]) >= 320


@pytest.mark.parametrize(
    "environment", [pytest.param({}, marks=pytest.mark.slow), {"NO_LOCKS": "ENOTSUP"}], ids=["locks", "no locks"]
)
def test_two_sweeps_at_once_run_no_job_twice(tmp_path, environment):
    words = ("seed=0,1,2,3", "total_steps=1280", "env.num_envs=2", "algo.rollout_steps=32", "log_every=64")
    processes = [start(tmp_path, *words, **environment) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [(status(job), record(job)["launches"]) for job in jobs(tmp_path)] == [("done", 1)] * 4
    for job in jobs(tmp_path):
        steps = [row.split(",")[1] for row in (job / "metrics.csv").read_text().splitlines()[1:]]
        assert len(set(steps)) == len(steps) == record(job)["result"]["rows"][0] == 20  # 1280 rows, 64 an update
    assert not list(tmp_path.rglob(".lock*"))
    assert sum(output.count("resumed at") for output in outputs) == 0
    assert len(json.loads((tmp_path / "outputs/s/sweep.json").read_text())["jobs"]) == 4


def test_a_job_that_another_process_runs_is_left_to_it(sweep):
    assert sweep("seed=0,1").code == 0
    job = jobs()[0]
    (job / "run.json").unlink()
    with FolderLock(job):
        result = sweep("seed=0,1")
        assert result.code == 0
        assert "1 run by another process" in result.out
    assert not (job / "run.json").exists()


def test_a_change_of_code_or_config_is_told(sweep):
    assert sweep("seed=0,1").code == 0
    for job in jobs():
        (job / "run.json").write_text(json.dumps(record(job) | {"code": "0123abcd", "commit": "feedbeefcafe"}))
    result = sweep("seed=0,1")
    assert "rlexp's training code has changed since 2 of these jobs ran (commit feedbeefca)" in result.out
    moved = jobs()[0].rename(jobs()[0].with_name(jobs()[0].name[:-8] + "00000000"))
    older = record(moved)
    older["config"]["gae"]["lam"] = 0.5
    (moved / "run.json").write_text(json.dumps(older))
    result = sweep("seed=0,1")
    assert re.search(r"has changed since \S+00000000 \(gae.lam 0.5 → 0.95\): it gets a new folder", result.out)


def test_two_configs_never_share_a_folder(sweep):
    assert sweep("seed=0").code == 0
    other = record(jobs()[0])
    other["config"]["gae"]["lam"] = 0.5
    (jobs()[0] / "run.json").write_text(json.dumps(other | {"status": "interrupted"}))
    result = sweep("seed=0")
    assert result.code == 1
    assert "has a run of another config" in result.err


def test_a_bad_setting_of_any_job_is_told_before_the_first_starts(sweep):
    result = sweep("algo.minibatches=4,7")
    assert result.code == 1
    assert re.fullmatch(r"rlexp: algo.minibatches=7: .* \(in the job .*algo.minibatches=7.*\)\n", result.err)
    assert jobs() == []
    assert sweep("seed=0,1", "tuned=ppo_cartpol").code == 1


@pytest.mark.slow
def test_resume_never_trains_all_jobs_anew_beside_those_before(sweep):
    assert sweep("seed=0,1").code == 0
    for suffix in ("_2", "_3"):
        assert sweep("seed=0,1", "resume=never").code == 0
        assert [job.name[-2:] for job in jobs()].count(suffix) == 2
    assert [record(job)["launches"] for job in jobs()] == [1] * 6


@pytest.fixture
def faster(monkeypatch):
    """As if another sweep took the new folders between this one's plan and its start."""
    plan = rlexp.sweep.grids.plan
    taken = []

    def planned(*args):
        found = plan(*args)
        for job in found:
            job.folder.mkdir(parents=True)
            taken.append(job.folder)
        return found

    monkeypatch.setattr(rlexp.sweep.grids, "plan", planned)
    return taken


THEIR_OWN = "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # Hydra's, not ours


@pytest.mark.few(1)
@pytest.mark.parametrize("words", [(), ("hydra/launcher=batched",), (THEIR_OWN,)])
def test_of_two_sweeps_at_once_each_makes_new_folders_of_its_own(sweep, faster, words):
    for first, second in (("", "_2"), ("_3", "_4")):
        result = sweep("seed=0,1", "resume=never", *words)
        assert result.code == 0, result.err
        theirs, ours = faster[-2:], [job for job in jobs() if re.search(f"-[0-9a-f]{{8}}{second}$", job.name)]
        assert [job.name[-2:] if first else "" for job in theirs] == [first] * 2
        assert [list(job.iterdir()) for job in theirs] == [[], []]
        assert [status(job) for job in ours] == ["done"] * 2
        planned = json.loads(Path("outputs/s/sweep.json").read_text())["jobs"]
        assert [job.name in planned for job in (*theirs, *ours)] == [False, False, True, True]
        assert all(job.name in result.out for job in ours)


def test_a_single_run_leaves_alone_what_a_sweep_is_to_begin(sweep, cli):
    assert sweep("seed=0").code == 0
    (first,) = jobs()
    reserved = first.with_name(f"{first.name}_2")
    reserved.mkdir()
    assert cli(*TINY[1:], *QUICK, "seed=0", "resume=never").code == 0
    assert list(reserved.iterdir()) == []
    assert status(first.with_name(f"{first.name}_3")) == "done"


@pytest.mark.parametrize(
    "words",
    [
        ("algo.minibatches=4,7",),
        ("torch_threads=64", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=abc"),
    ],
)
def test_a_sweep_that_is_refused_leaves_no_new_folder(sweep, words):
    for module in ("joblib", "submitit"):
        pytest.importorskip(module)
    result = sweep("seed=0,1", "resume=never", *words)
    assert result.code == 1
    assert re.fullmatch(r"rlexp: [^\n]+\n", result.err)
    assert jobs() == []


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_each_job(monkeypatch):
    """at_each_job(measure) -> a list of what `measure` says when each job begins."""
    build = rlexp.build.build_trainer

    def record(measure):
        seen = []
        monkeypatch.setattr(rlexp.build, "build_trainer", lambda *a: seen.append(measure()) or build(*a))
        return seen

    return record


@pytest.mark.parametrize(
    "env",
    [
        "env=cartpole",
        pytest.param("env.id=poison:Raises-v0", marks=pytest.mark.slow),
        pytest.param("env.id=poison:RaisesAtReset-v0", marks=pytest.mark.slow),
    ],
)
def test_a_job_leaves_no_objects_to_the_next(sweep, at_each_job, env):
    blocks = at_each_job(sys.getallocatedblocks)
    sweep("seed=0,1,2,3,4,5,6,7", env)
    assert len(blocks) == 8
    assert blocks[7] - blocks[2] < 2000  # configs in cycles were kept: 4000 blocks a job


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_sweep_of_many_jobs_does_not_grow(sweep, at_each_job):
    resident = at_each_job(lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert sweep("seed=range(0,50)", "num_seeds=1,2", "total_steps=64", "torch_threads=1").code == 0
    assert len(resident) == 100
    assert resident[99] - resident[39] < 5e6  # bytes; it was .4 MB a job


# Failures -------------------------------------------------------------------------------------------------------------


def trainers():
    return [thing for thing in gc.get_objects() if type(thing) is Trainer]


def test_a_job_that_fails_tells_its_folder_and_the_others_go_on(sweep):
    before = trainers()
    result = sweep("env.id=poison:Raises-v0,poison:OutOfMemory-v0,CartPole-v1")
    assert result.code == 1
    assert result.err == "rlexp: 2 of 3 jobs failed; retry_failed=true reruns them\n"
    raised, memory, fine = named("Raises"), named("OutOfMemory"), named("CartPole")
    assert [status(job) for job in (raised, memory, fine)] == ["failed", "failed", "done"]
    assert record(raised)["error"].endswith("Raises.step: RuntimeError: poisoned on two lines")
    assert "OutOfMemory.step: MemoryError" in record(memory)["error"]
    for job in (raised, memory):
        assert "poison.py" in record(job)["traceback"]
        assert record(job)["traceback"] in (job / "train.log").read_text()
    assert [thing for thing in trainers() if all(thing is not old for old in before)] == []  # nor their memory
    whole = r"EnvironmentFault: env\.id=poison:Raises-v0: \S+: Raises\.step: RuntimeError: poisoned on two lines$"
    assert re.search(rf"^\[\d/3\] failed: .*Raises-v0.*: {whole}", result.out, re.MULTILINE)
    assert re.search(r"failed +0% .*EnvironmentFault: env\.id=poison:Raises-v0", result.out)
    assert re.search(rf"^  {whole}", result.out, re.MULTILINE)


def test_what_failed_runs_again_on_request_only(sweep):
    words = ("env.id=CartPole-v1,poison:Raises-v0",)
    assert sweep(*words).code == 1
    result = sweep(*words)
    assert result.code == 1
    assert "1 failed before (retry_failed=true reruns them)" in result.out
    assert record(named("Raises"))["launches"] == 1
    assert "1 to rerun" in sweep(*words, "retry_failed=true").out
    assert record(named("Raises"))["launches"] == 2
    assert record(named("CartPole"))["launches"] == 1


def test_a_job_that_kills_the_sweep_comes_last_and_is_given_up_in_the_end(tmp_path, sweep):
    ids = "env.id=poison:Killed-v0,CartPole-v1"
    process = start(tmp_path, *QUICK, ids)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = named("Killed")
    assert status(killed) == "running"
    assert [job for job in jobs() if "CartPole" in job.name] == []
    process = start(tmp_path, *QUICK, ids)
    out = process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "2 jobs: 1 killed, to restart last, 1 to run" in out
    assert status(named("CartPole")) == "done"
    assert record(killed)["deaths"] == 1
    (killed / "run.json").write_text(json.dumps(record(killed) | {"deaths": 2}))
    result = sweep(ids)
    assert result.code == 1
    assert "1 died 3 times (retry_failed=true reruns them), 1 done" in result.out


RATES = "optimizer.lr=1e-3,3e-2"


@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "metric"), [("OfManyKinds", "kept"), ("OwnNetsSaved", "novelty"), ("Recalls", "c")])
def test_jobs_resume_in_another_batch_with_what_is_their_own(sweep, name, metric):
    words = (f"algo._target_=hooks.{name}", "hydra/launcher=batched", "log_every=64")
    assert sweep(*words, RATES, "study=whole").code == 0
    assert sweep(*words, RATES, "stop_at=128").code == 0
    result = sweep(*words, "optimizer.lr=3e-2,1e-3")
    assert result.code == 0
    assert "the batch stopped" not in result.out

    def found(study):
        folders = [job for job in Path("outputs", study).iterdir() if job.is_dir()]
        rows = {job.name: last_metrics(job) for job in folders}
        return {name[:-8]: (row["step"], row[metric], row["entropy"]) for name, row in rows.items()}

    assert found("s") == found("whole")
    assert len({row[1] for row in found("s").values()}) == 2


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("TimeFirst", "its part history has the shapes (8, 1) and (8, 2) of 1 agent and of 2"),
        ("NetByName", "it has other entries of 1 agent and of 2: net0 and net0, net1"),
        ("TimeMajor", "its part buffer does not begin with the first agent's part, or that depends on how many"),
        ("GrowsLate", "its part late was not there, or was of another kind, when the objective was tried"),
    ],
)
def test_what_cannot_be_divided_among_jobs_is_told_where_it_stands_and_each_runs_alone(sweep, name, told):
    result = sweep(f"algo._target_=hooks.{name}", "hydra/launcher=batched", RATES)
    assert result.code == 0
    assert "the batch stopped (ObjectiveError: hooks.py:" in result.out
    assert f"{name}.state_dict: cannot be divided by agent: {told}" in result.out
    assert [status(job) for job in jobs()] == ["done", "done"]


def test_what_comes_in_the_second_update_is_divided_among_jobs(sweep):
    result = sweep("algo._target_=hooks.FromRewards", "hydra/launcher=batched", RATES)
    assert "the batch stopped" not in result.out
    assert [status(job) for job in jobs()] == ["done", "done"]
    one, other = (state_of(job)["algo"]["best"] for job in jobs())
    assert one.shape == other.shape == (1, 4)
    assert not torch.equal(one, other)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("agents", "told"), [(1, "and differs between"), (None, "shared by all agents, and depends on how many there are")]
)
def test_jobs_that_share_a_value_and_differ_in_it_are_not_resumed_together(sweep, agents, told):
    words = ("algo._target_=hooks.SumsAll", f"+algo.agents={agents or 'null'}", RATES, "seed=0,1")
    assert sweep(*words, "stop_at=128").code == 0  # one by one
    result = sweep(*words, "hydra/launcher=batched")
    assert result.code == 0
    assert told in result.out
    assert [status(job) for job in jobs()] == ["done"] * 4


@pytest.mark.slow
def test_a_damaged_checkpoint_is_the_trouble_of_its_own_job(sweep):
    assert sweep("seed=0,1,2,3", "stop_at=128").code == 0
    for job in (jobs()[0], jobs()[3]):
        (job / "checkpoint.pt").write_bytes(b"junk")
    assert re.search(r"\[1/1\] failed: \S+seed=3\S+: .* is damaged", sweep("seed=3").out)
    result = sweep("seed=0,1,2", "hydra/launcher=batched")
    assert result.code == 1
    assert [status(job) for job in jobs()] == ["failed", "done", "done", "failed"]
    assert "is damaged" in record(jobs()[0])["error"]


def test_damaged_plans_and_places_where_nobody_may_write_are_told_in_one_line(sweep):
    Path("outputs/s").mkdir(parents=True)
    Path("outputs/s/sweep.json").write_text("{")
    result = sweep("seed=0,1")
    assert re.fullmatch(r"rlexp: outputs/s/sweep.json: cannot be read [^\n]+\n", result.err)
    Path("taken").write_text("")
    result = sweep("seed=0,1", "outputs=taken")
    assert re.fullmatch(r"rlexp: taken[^\n]+set outputs=[^\n]+\n", result.err)


# Stopping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("basic", signal.SIGTERM),
        pytest.param("joblib", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_what_runs_and_starts_nothing_more(tmp_path, launcher, number):
    pytest.importorskip({"basic": "torch"}.get(launcher, launcher), reason="extra")
    words = ("seed=0,1,2,3", "total_steps=200000", "env.num_envs=2", "algo.rollout_steps=32", "checkpoint_every=640")
    words += ("log_every=64",)
    process = start(tmp_path, *words, f"hydra/launcher={launcher}")
    wait_until(lambda: list(tmp_path.glob("outputs/s/*/checkpoint.pt")), process)
    time.sleep(0.5)
    process.send_signal(number)
    out = process.communicate()
    assert process.returncode == 128 + number, out
    begun = [record(job) for job in jobs(tmp_path) if (job / "run.json").exists()]
    assert {(run["status"], run["error"]) for run in begun} == {("interrupted", f"interrupted by {number.name}")}
    assert "waiting" in out
    assert last_metrics(jobs(tmp_path)[0])["step"] > 0
