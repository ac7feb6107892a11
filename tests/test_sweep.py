"""Sweeps that finish: what is done is left alone, what is broken does not break the rest, whoever runs the jobs."""

import ast
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
import yaml
from helpers import jobs, last_metrics, record, status
from process import Process

import rlexp.build
import rlexp.sweep.plan
from rlexp.config.identity import config_hash
from rlexp.config.schema import CONF_DIR
from rlexp.run.lock import FolderLock
from rlexp.run.names import job_name
from rlexp.signals import StopSignal, forward_signal
from rlexp.sweep.launchers.worker import SweepSignal, stop_on_file
from rlexp.training.trainer import Trainer

TINY = (
    "-m",
    "study=s",
    "tuned=none",
    "progress=none",
    "evaluation.episodes=0",
    "compile=false",
    "network.torso.hidden=[8]",
)
QUICK = ("total_steps=256", "env.num_envs=2", "algo.rollout_steps=32")
TESTS = str(Path(__file__).parent)


@pytest.fixture
def sweep(cli, monkeypatch):
    """A tiny sweep, in this process."""
    monkeypatch.setenv("PYTHONPATH", TESTS)
    return lambda *words: cli(*TINY, *QUICK, *words)


def start(folder, *words, **environment):
    return Process(folder, *TINY, *words, PYTHONPATH=TESTS, **environment)


def named(part, folder="."):
    (job,) = [job for job in jobs(folder) if part in job.name]
    return job


def wait_until(condition, process, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert process.returncode is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.05)


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


@pytest.mark.parametrize("environment", [{}, {"NO_LOCKS": "ENOTSUP"}], ids=["locks", "no locks"])
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


def test_names_are_cut_to_what_file_systems_take():
    few = [f"algo.key_{k}=0.123456789" for k in range(7)]
    assert job_name(few, {}).startswith(",".join(few) + "-")
    many = job_name([f"algo.key_{k}=0.123456789" for k in range(40)], {"a": 1})
    assert 200 < len(many.encode()) < 240
    assert many[-9:] == "-" + config_hash({"a": 1})
    assert len(job_name(["env.id=" + "é" * 300], {}).encode()) < 240


def test_a_bad_setting_of_any_job_is_told_before_the_first_starts(sweep):
    result = sweep("algo.minibatches=4,7")
    assert result.code == 1
    assert re.fullmatch(r"rlexp: algo.minibatches=7: .* \(in the job .*algo.minibatches=7.*\)\n", result.err)
    assert jobs() == []
    assert sweep("seed=0,1", "tuned=ppo_cartpol").code == 1


def test_resume_never_trains_all_jobs_anew_beside_those_before(sweep):
    assert sweep("seed=0,1").code == 0
    for suffix in ("_2", "_3"):
        assert sweep("seed=0,1", "resume=never").code == 0
        assert [job.name[-2:] for job in jobs()].count(suffix) == 2
    assert [record(job)["launches"] for job in jobs()] == [1] * 6


@pytest.fixture
def faster(monkeypatch):
    """As if another sweep took the new folders between this one's plan and its start."""
    plan = rlexp.sweep.plan.plan
    taken = []

    def planned(*args):
        found = plan(*args)
        for job in found:
            job.job.folder.mkdir(parents=True)
            taken.append(job.job.folder)
        return found

    monkeypatch.setattr(rlexp.sweep.plan, "plan", planned)
    return taken


THEIR_OWN = "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # Hydra's, not ours


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


@pytest.mark.parametrize("env", ["env=cartpole", "env.id=poison:Raises-v0", "env.id=poison:RaisesAtReset-v0"])
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


def test_a_damaged_checkpoint_is_the_trouble_of_its_own_job(sweep):
    assert sweep("seed=0,1,2,3", "stop_at=128").code == 0
    for job in (jobs()[0], jobs()[3]):
        (job / "checkpoint.pt").write_bytes(b"junk")
    assert re.search(r"\[1/1\] failed: \S+seed=3\S+: .* is damaged", sweep("seed=3").out)
    result = sweep("seed=0,1,2", "hydra/launcher=batched")
    assert result.code == 1
    assert [status(job) for job in jobs()] == ["failed", "done", "done", "failed"]
    assert "is damaged" in record(jobs()[0])["error"]


def test_a_launcher_that_cannot_start_blames_no_job(sweep):
    pytest.importorskip("submitit", reason="extra slurm is not installed")
    result = sweep("seed=0,1", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=abc")
    assert result.code == 1
    assert "could not start any job" in result.err
    assert jobs() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("hydra/launcher=joblib", "hydra.launcher.n_jobs=0"),
            "hydra.launcher.n_jobs=0: must be a whole number, not 0",
        ),
        (("hydra/launcher=batched", "hydra.launcher.max_agents=all"), "hydra.launcher.max_agents=all: must be a whole"),
        (("study=s", "hydra.sweep.dir="), "hydra.sweep.dir"),
    ],
)
def test_what_a_launcher_cannot_do_is_told_in_one_line(sweep, words, told):
    result = sweep("seed=0,1", *words)
    assert result.code == 1
    assert re.fullmatch(r"rlexp: [^\n]+\n", result.err)
    assert told in result.err
    assert not Path("outputs").exists()


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
        ("joblib", signal.SIGINT),
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_is_told_which_signal_stops_it_and_hands_on_its_own_alone(tmp_path, number, monkeypatch):
    announced = []  # as submitit waits for SIGUSR2, to put the job into the queue again
    before = signal.signal(signal.SIGUSR2, lambda *_: announced.append("heard"))
    try:
        stop = SweepSignal(tmp_path / "stop")
        with stop_on_file(stop.path):
            with StopSignal() as run:
                stop.receive(number)
                deadline = time.time() + 10
                while run.received is None:
                    assert time.time() < deadline
                    time.sleep(0.01)
            assert run.received == number
            forward_signal(run.received)
        assert announced == []
        with stop_on_file(tmp_path / "none"):
            with StopSignal() as run:
                signal.raise_signal(signal.SIGUSR2)
            forward_signal(run.received)
        assert announced == ["heard"]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_worker_that_its_launcher_ends_tells_the_signal_that_stopped_the_sweep(tmp_path):
    stop = SweepSignal(tmp_path / "stop")
    with stop_on_file(stop.path), StopSignal() as run:
        stop.receive(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # before it has looked at the file
        assert run.received == signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_workers_that_still_start_up_heed_a_signal_too(tmp_path, launcher):
    pytest.importorskip({"submitit_local": "submitit"}.get(launcher, launcher), reason="extra")
    words = ("seed=0,1", "total_steps=1e7", "env.num_envs=2", "algo.rollout_steps=32", f"hydra/launcher={launcher}")
    process = start(tmp_path, *words)
    wait_until(lambda: jobs(tmp_path), process)  # which a worker makes before it imports torch
    process.send_signal(signal.SIGUSR1)  # as a batch system sends to the sweep alone
    out = process.communicate()
    assert process.returncode == 128 + signal.SIGUSR1, out
    assert {status(job) for job in jobs(tmp_path) if (job / "run.json").exists()} <= {"interrupted"}


def test_workers_whose_sweep_is_killed_save_what_they_run_and_end(tmp_path):
    words = ("seed=0,1", "total_steps=200000", "env.num_envs=2", "algo.rollout_steps=32", "checkpoint_every=640")
    process = start(tmp_path, *words, "hydra/launcher=joblib")
    wait_until(lambda: len(list(tmp_path.glob("outputs/s/*/checkpoint.pt"))) == 2, process)
    process.kill()
    process.wait()
    deadline = time.time() + 30
    while {status(job) for job in jobs(tmp_path)} != {"interrupted"} or list(tmp_path.glob("outputs/s/*/.lock")):
        assert time.time() < deadline
        time.sleep(0.1)


def test_a_cluster_that_takes_the_machine_gets_a_saved_job_that_goes_on_when_it_is_begun_again(sweep):
    pytest.importorskip("submitit", reason="extra slurm is not installed")
    result = sweep("env.id=poison:Announced-v0", "total_steps=512", "hydra/launcher=submitit_local")
    (job,) = jobs()
    assert result.code == 0, (job / "train.log").read_text()
    assert (status(job), record(job)["launches"]) == ("done", 2)
    log = (job / "train.log").read_text()
    assert "interrupted by SIGUSR2: saved" in log
    assert re.search(r"resumed at (128|64|192) of 512", log)


# Launchers ------------------------------------------------------------------------------------------------------------


def same_as_alone(job):
    """Whether a job left what the same job, run alone, left in the study `alone`."""
    twin = Path("outputs/alone") / job.name
    left, wanted = ({re.sub(r"(tfevents).*", r"\1", str(p.relative_to(f))) for p in f.rglob("*")} for f in (job, twin))
    assert left == wanted
    ours, theirs = (last_metrics(folder, record(job)["seeds"][0]) for folder in (job, twin))
    for name in ("wall_time", "steps_per_second"):
        del ours[name], theirs[name]
    return ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow), "ray", "batched"]
)
def test_launchers_leave_what_a_single_run_leaves_and_survive_what_befalls_a_job(sweep, launcher):
    pytest.importorskip({"submitit_local": "submitit", "batched": "torch"}.get(launcher, launcher), reason="extra")
    assert sweep("algo=apo", "study=alone", "env.id=CartPole-v1").code == 0
    deadly = [] if launcher == "batched" else ["poison:Killed-v0"]  # which runs in the sweep's own process
    ids = ",".join([*deadly, "poison:Raises-v0", "CartPole-v1"])
    result = sweep("algo=apo", f"env.id={ids}", f"hydra/launcher={launcher}")
    assert result.code == 1
    assert status(named("Raises")) == "failed"
    assert "poison.py" in record(named("Raises"))["traceback"]
    (job,) = [job for job in Path("outputs/s").iterdir() if "CartPole-v1" in job.name]
    assert same_as_alone(job)
    if deadly:
        assert status(named("Killed")) == "failed"
        assert "its process was killed or ran out of memory" in record(named("Killed"))["error"]


@pytest.mark.slow
def test_processes_share_the_cores(sweep, monkeypatch):
    joblib = pytest.importorskip("joblib", reason="extra joblib is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    words = ("seed=0,1", "env.id=poison:Tells-v0", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert sweep(*words).code == 0
    assert {int(line) for line in Path("threads").read_text().split()} == {max(1, joblib.cpu_count() // 2)}
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert sweep(*words).code == 0  # not by the processes that work in the first folder


def test_batches_in_processes_leave_what_single_runs_leave_and_survive_what_befalls_one(sweep, monkeypatch):
    joblib = pytest.importorskip("joblib", reason="extra joblib is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    words = ("algo=apo", "env.id=poison:Tells-v0")
    assert sweep(*words, "seed=3", "study=alone").code == 0
    Path("threads").unlink()
    in_two = ("hydra/launcher=batched", "hydra.launcher.n_jobs=2")
    result = sweep(*words, "seed=0,1,2,3", *in_two)
    assert result.code == 0, result.err
    assert result.out.count("2 jobs (2 agents) side by side: seed differ") == 2
    assert "2 batches: at most 2 agents in one (max_agents, n_jobs)" in result.out
    assert re.search(r"\[4/4\] done: \S+seed=\d\S+, return ", result.out)
    left = [job for job in jobs() if job.parent.name == "s"]
    assert [record(job)["agents_together"] for job in left] == [2] * 4
    assert [same_as_alone(job) for job in left if record(job)["seeds"] == [3]] == [True]
    assert {int(line) for line in Path("threads").read_text().split()} == {max(1, joblib.cpu_count() // 2)}

    result = sweep("algo=apo", "env.id=poison:Killed-v0", *in_two)  # nor does it train in this process
    assert result.code == 1
    assert "its process was killed" in record(named("Killed"))["error"]


@pytest.mark.parametrize("words", [("joblib",), ("batched", "hydra.launcher.n_jobs=2"), ("ray",), ("submitit_local",)])
def test_what_is_not_installed_is_told_before_anything_starts(sweep, monkeypatch, words):
    for module in ("joblib", "ray", "submitit"):
        monkeypatch.setitem(sys.modules, module, None)
    result = sweep("seed=0,1", f"hydra/launcher={words[0]}", *words[1:])
    assert result.code == 1
    assert re.fullmatch(r"rlexp: hydra/launcher: .* is not installed: pip install 'rlexp\[\w+\]'\n", result.err)
    assert not Path("outputs").exists()


def test_more_threads_than_cores_are_refused(sweep):
    pytest.importorskip("joblib", reason="extra joblib is not installed")
    result = sweep("seed=0,1", "torch_threads=64", "hydra/launcher=joblib")
    assert result.code == 1
    assert re.search(r"torch_threads=64 with 2 jobs at a time is 128 threads on \d+ cores", result.err)
    assert jobs() == []


def test_settings_that_are_named_to_the_user_are_there():
    known = {
        kind: {key for path in (CONF_DIR / "hydra" / kind).glob("*.yaml") for key in yaml.safe_load(path.read_text())}
        for kind in ("sweeper", "launcher")
    }
    for path in Path(rlexp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            for kind, key in re.findall(r"hydra\.(sweeper|launcher)\.(\w+)", text):
                assert key in known[kind], f"{path}:{node.lineno} names hydra.{kind}.{key}"
