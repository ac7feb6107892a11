"""Jobs that a sweep leaves on a cluster are trained, shown, and neither lost nor submitted twice."""

import contextlib
import json
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import jobs, record, status
from process import wait_until
from slurm import Slurm
from sweeps import QUICK, TINY, named, start

from rlexp.errors import StorageError
from rlexp.files import write_atomically
from rlexp.run import queued
from rlexp.run.lock import is_held
from rlexp.study import __main__ as study
from rlexp.study.status import read_study
from rlexp.sweep import queue
from rlexp.sweep.launchers.ray import Ray

LEAVE = ("hydra/launcher=submitit_slurm", "hydra.launcher.wait=false")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster on which nothing begins until its `at_once` says so."""
    pytest.importorskip("submitit", reason="extra slurm is not installed")
    monkeypatch.chdir(tmp_path)
    cluster = Slurm(tmp_path / "slurm", at_once=0)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.close()


def statuses():
    return {re.search(r"seed=(\d)", job.folder.name)[1]: job.status for job in read_study(Path("outputs/s"))}


def wait_for(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, statuses()
        time.sleep(0.05)


def marks():
    return sorted(Path("outputs/s").glob("*/queued.json"))


@pytest.mark.slow
def test_a_sweep_leaves_its_jobs_to_slurm_and_the_next_one_goes_on_from_there(sweep, slurm, capsys):
    words = ("seed=0,1,2", "total_steps=6000", *LEAVE)
    result = sweep(*words)
    assert result.code == 0, result.err
    for told in (
        "3 jobs are in Slurm's queue (1001_0 to 1001_2), logs in outputs/s/.submitit\n",
        "to look: python -m rlexp.study status outputs/s; squeue --jobs=1001\n",
        "to stop: scancel 1001\n",
        "3 queued\n",
    ):
        assert told in result.out
    study.main(["status", "outputs/s"])
    assert len(re.findall(r"queued .* Slurm job 1001_\d, submitted \S+ on \S+: pending", capsys.readouterr().out)) == 3

    again = sweep(*words)
    assert (again.code, "3 jobs: 3 queued" in again.out) == (0, True)
    assert "still in Slurm's queue: not submitted again" in again.out
    assert len(slurm.states()) == 3

    slurm.call("scancel", "1001_2")
    (slurm.folder / "at_once").write_text("1")
    wait_for(lambda: "running" in statuses().values())
    wait_for(lambda: "done" in statuses().values())
    assert statuses()["2"] == "waiting"
    result = sweep(*words)
    assert result.code == 0, result.err
    assert re.search(r"^\[1/2\] done: \S+seed=0\S+, return \d", result.out, re.MULTILINE)
    assert re.search(r"^\[2/2\] waiting: .*seed=2\S+ \(Slurm job 1001_2, .*: no longer in", result.out, re.MULTILINE)
    assert "1 jobs are in Slurm's queue (1002)" in result.out
    assert len(slurm.states()) == 4
    wait_for(lambda: set(statuses().values()) == {"done"})
    result = sweep(*words)
    assert (result.code, "3 jobs: 3 done" in result.out) == (0, True)
    assert len(re.findall(r"^\[\d/2\] done: ", result.out, re.MULTILINE)) == 2
    assert marks() == []
    assert all("launches" in record(job) and record(job)["launches"] == 1 for job in jobs() if job.parent.name == "s")


def test_two_sweeps_at_once_submit_each_job_once(tmp_path, slurm):
    two = [start(tmp_path, "seed=0,1,2", *LEAVE, **slurm.environment) for _ in range(2)]
    printed = [process.communicate() for process in two]
    assert [process.returncode for process in two] == [0, 0], printed
    assert len(slurm.states()) == 3
    assert len({queued.read(job).id for job in jobs(tmp_path)}) == 3


def test_a_sweep_that_waits_submits_no_job_of_one_that_leaves(tmp_path, slurm):
    sbatch = slurm.folder / "bin" / "sbatch"
    real = sbatch.rename(sbatch.with_name("real"))
    sbatch.write_text(f'#!/bin/sh\nsleep 2\nexec {real} "$@"\n')
    sbatch.chmod(0o755)
    ways = ((LEAVE[0],), LEAVE)
    two = [start(tmp_path, "seed=0,1,2", *way, **slurm.environment) for way in ways]
    wait_for(lambda: two[1].returncode is not None)
    wait_for(lambda: two[0].returncode is not None or "Ctrl-C stops waiting" in two[0].output.read_text())
    assert len(slurm.states()) == 3
    two[0].kill()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "submitit_slurm"])
def test_a_sweep_that_waits_says_at_last_that_it_waits_for_no_queued_job(sweep, slurm, launcher):
    assert sweep("seed=0,1", *LEAVE).code == 0
    result = sweep("seed=0,1", f"hydra/launcher={launcher}")
    assert result.code == 1
    assert result.err == "rlexp: 2 of 2 jobs are still queued on a cluster; this command waits for none\n"
    assert len(slurm.states()) == 2


@pytest.mark.slow
def test_a_job_that_paused_as_asked_is_told_so_and_not_submitted_again(sweep, slurm):
    words = ("seed=0", "stop_at=128", *LEAVE)
    assert sweep(*words).code == 0
    (slurm.folder / "at_once").write_text("1")
    wait_for(lambda: set(slurm.states().values()) == {"COMPLETED"})
    (slurm.folder / "at_once").write_text("0")
    result = sweep(*words)
    assert result.code == 0
    assert re.search(r"^\[1/1\] paused at 128 steps: \S+, return \S+$", result.out, re.MULTILINE)
    assert "paused" not in sweep(*words).out.partition("\n")[0]
    assert (marks(), len(slurm.states())) == ([], 1)
    assert sweep("seed=0", *LEAVE).code == 0
    assert len(slurm.states()) == 2


@pytest.mark.slow
def test_a_failed_job_that_is_still_in_the_queue_is_not_submitted_again(sweep, slurm):
    words = ("seed=0", "retry_failed=true", *LEAVE)
    assert sweep("seed=0", "stop_at=128").code == 0
    assert sweep("seed=0", *LEAVE).code == 0
    (job,) = jobs()
    (job / "run.json").write_text(json.dumps(record(job) | {"status": "failed", "error": "E: x"}))
    for again in (words, words[:1] + words[2:], words):
        assert re.search(r"^\[1/1\] failed: \S+: E: x \(Slurm job 1001, .*: still in the queue\)", sweep(*again).out)
    assert len(slurm.states()) == 1
    slurm.call("scancel", "1001")
    sweep(*words)
    assert len(slurm.states()) == 2


def test_of_another_ray_cluster_or_a_keeper_that_does_not_answer_nothing_is_concluded(monkeypatch):
    ray = pytest.importorskip("ray", reason="extra ray is not installed")
    answers = {
        "rlexp-00000000": [1],
        "rlexp-11111111": ray.exceptions.ActorDiedError(),
        "rlexp-22222222": ray.exceptions.ActorUnavailableError("lost", None),
        "rlexp-33333333": ray.exceptions.GetTimeoutError(),
        "rlexp-44444444": ValueError("no such actor"),
    }

    def get(answer, timeout):
        if isinstance(answer, Exception):
            raise answer
        return answer

    def actor(name, namespace):
        return SimpleNamespace(indices_left=SimpleNamespace(remote=lambda: answers[name]))

    here = SimpleNamespace(gcs_address="10.0.0.1:6379")
    fake = SimpleNamespace(get=get, get_actor=actor, get_runtime_context=lambda: here, exceptions=ray.exceptions)
    monkeypatch.setattr(Ray, "_connected", lambda self: contextlib.nullcontext(fake))
    ids = ["rlexp-00000000_0", *(f"{name}_1" for name in answers)]
    marks = [queued.entry("ray", id, None, controller=here.gcs_address) for id in ids]
    marks += [queued.entry("ray", ids[0], None, controller=other) for other in ("10.0.0.2:6379", None)]
    found = Ray(address="auto").still_queued(marks)
    assert found == {marks[0]: False, marks[1]: True, marks[2]: False, marks[5]: False}
    assert Ray().still_queued(marks) == {}


def test_while_a_queue_is_asked_no_other_command_submits(sweep, slurm, monkeypatch):
    assert sweep("seed=0", *LEAVE).code == 0
    held, plain = [], queue.slurm.states_of

    def states_of(marks):
        held.append(is_held(Path("outputs/s")))
        return plain(marks)

    monkeypatch.setattr(queue.slurm, "states_of", states_of)
    assert sweep("seed=0", *LEAVE).code == 0
    assert held == [True]


def test_a_single_run_is_not_left(cli, slurm):
    result = cli(*TINY[1:], *QUICK, "seed=0", *LEAVE)
    assert (result.code, slurm.states()) == (1, {})
    assert result.err == "rlexp: hydra.launcher.wait=false: a single run is trained here; add -m to leave it queued\n"
    assert not list(Path().glob("outputs/s/*"))


def test_of_new_folders_the_same_command_tells_nothing(sweep, slurm):
    result = sweep("seed=0", "resume=never", *LEAVE)
    assert "to stop: scancel 1001\n" in result.out
    assert "the same command" not in result.out


@pytest.mark.slow
def test_what_fails_on_the_node_before_it_trains_is_told(sweep, slurm):
    assert sweep("seed=0", "resume=must", *LEAVE).code == 0
    (slurm.folder / "at_once").write_text("1")
    wait_for(lambda: set(statuses().values()) == {"failed"})
    result = sweep("seed=0", "resume=must", *LEAVE)
    assert result.code == 1
    assert re.search(r"^\[1/1\] failed: .*resume=must: there is no checkpoint", result.out, re.MULTILINE)
    assert len(slurm.states()) == 1


@pytest.mark.slow
def test_a_logger_that_cannot_start_on_the_node_is_told_and_not_submitted_again(tmp_path, sweep, slurm):
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "lines.yaml").write_text("lines:\n  _target_: own_logger.Lines\n  fail_in: open\n")
    words = ("seed=0", "logger=lines", *LEAVE)
    assert sweep(*words).code == 0
    (slurm.folder / "at_once").write_text("1")
    wait_for(lambda: set(statuses().values()) == {"failed"})
    result = sweep(*words)
    assert re.search(r"^\[1/1\] failed: .*logger=lines: cannot start", result.out, re.MULTILINE)
    assert len(slurm.states()) == 1


@pytest.mark.slow
def test_a_job_that_waits_for_the_second_time_is_queued_until_it_has_begun(sweep, slurm):
    words = ("seed=0", *LEAVE)
    assert sweep("seed=0", "stop_at=128").code == 0
    assert sweep(*words).code == 0
    assert statuses() == {"0": "queued"}
    (job,) = jobs()
    for again in (
        "failed",
        "interrupted",
        "running",
    ):  # run.json as it was before the job was submitted, or is preempted
        (job / "run.json").write_text(json.dumps(record(job) | {"status": again}))
        mark = json.loads((job / "queued.json").read_text()) | {"record": queued.digest(job)}
        (job / "queued.json").write_text(json.dumps(mark))
        assert statuses() == {"0": "queued"}
        assert "1 jobs: 1 queued" in sweep(*words).out
    (job / "run.json").write_text(json.dumps(record(job) | {"status": "failed", "error": "E: x"}))  # since
    assert statuses() == {"0": "failed"}
    slurm.call("scancel", queued.read(job).id)
    assert re.search(r"\[1/1\] failed: \S+: E: x\n", sweep(*words).out)
    assert (marks(), len(slurm.states())) == ([], 1)
    assert sweep(*words, "retry_failed=true").code == 0
    assert (statuses(), len(slurm.states())) == ({"0": "queued"}, 2)
    (job / "run.json").write_text(json.dumps(record(job) | {"status": "interrupted", "error": ""}))  # by scancel
    assert statuses() == {"0": "queued"}
    slurm.call("scancel", queued.read(job).id)
    assert statuses() == {"0": "interrupted"}
    result = sweep(*words)
    assert re.search(
        r"\[1/1\] interrupted: \S+, return \S+ \(Slurm job 1002, .*; logs in outputs/s/.submitit\)", result.out
    )
    assert "1 jobs: 1 to resume" in result.out
    assert (statuses(), len(slurm.states())) == ({"0": "queued"}, 3)


def test_where_slurm_cannot_be_asked_nothing_is_submitted_until_the_user_says_so(sweep, slurm, capsys):
    words = ("seed=0,1", *LEAVE)
    assert sweep(*words).code == 0
    (slurm.folder / "bin" / "squeue").unlink()
    result = sweep(*words)
    assert result.code == 0
    assert re.search(
        r"^2 jobs may still be queued \(Slurm job 1001_0, .*\) and are left: .*"
        r"python -m rlexp.study clean outputs/s what=queued lets",
        result.out,
        re.MULTILINE,
    )
    assert len(slurm.states()) == 2
    study.main(["status", "outputs/s"])
    assert len(re.findall(r"queued .* Slurm job 1001_\d, submitted \S+ on", capsys.readouterr().out)) == 2
    study.main(["clean", "outputs/s", "what=queued", "yes=true"])
    assert "removed 2 of 2" in capsys.readouterr().out
    assert sweep(*words).code == 0
    assert len(slurm.states()) == 4


def test_another_cluster_is_not_taken_for_the_one_that_has_the_jobs(sweep, slurm, monkeypatch):
    assert sweep("seed=0", *LEAVE).code == 0
    slurm.call("scancel", "1001")
    with monkeypatch.context() as there:
        there.setenv("SLURM_CONF", "there")
        assert re.search(r"^1 jobs may still be queued .*another cluster", sweep("seed=0", *LEAVE).out, re.MULTILINE)
        assert (statuses(), len(slurm.states())) == ({"0": "queued"}, 1)
    parameters = "hydra.launcher.parameters={additional_parameters: {clusters: far}}"
    result = sweep("seed=0", *LEAVE, parameters)
    assert "squeue --clusters=far --jobs=1002\n  to stop: scancel --clusters=far 1002\n" in result.out
    assert queued.read(jobs()[0]).clusters == "far"


def test_jobs_that_a_waiting_sweep_leaves_behind_are_known_too(tmp_path, slurm):
    words = ("seed=0,1", "hydra/launcher=submitit_slurm")
    process = start(tmp_path, *words, **slurm.environment)
    wait_until(lambda: len([mark for mark in marks() if queued.read(mark.parent).id]) == 2, process)
    process.kill()
    process.wait()
    again = start(tmp_path, *words, **slurm.environment)
    assert "2 jobs: 2 queued" in again.communicate()
    assert len(slurm.states()) == 2


@pytest.mark.slow
def test_a_waiting_sweep_leaves_no_mark(sweep, slurm):
    (slurm.folder / "at_once").write_text("1")
    result = sweep("seed=0", "hydra/launcher=submitit_slurm")
    assert result.code == 0, result.err
    assert "[1/1] done: " in result.out
    assert (status(named("seed=0")), marks()) == ("done", [])


def test_what_sbatch_refuses_is_told_in_one_line(sweep, slurm):
    (slurm.folder / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    result = sweep("seed=0,1", *LEAVE)
    assert result.code == 1
    assert result.err.count("\n") == 2  # sbatch's line is the other
    assert re.search(r"\nrlexp: hydra/launcher: could not start any job .*invalid partition.*\n", result.err)
    assert marks() == []


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "says",
    [
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "slurm_receive_msg: Zero Bytes were transmitted or received",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (receive failure)",
        "",
        None,
    ],
)
def test_what_may_have_been_submitted_is_not_submitted_again(tmp_path, sweep, slurm, says):
    sbatch = slurm.folder / "bin" / "sbatch"
    real = sbatch.rename(sbatch.with_name("real"))
    answer = f"printf '%s' '{says}' >&2; exit 1" if says is not None else "echo Thank you"
    sbatch.write_text(f'#!/bin/sh\n{real} "$@" > /dev/null\n{answer}\n')
    sbatch.chmod(0o755)
    words = ("seed=0,1", *LEAVE)
    result = sweep(*words)
    assert result.code == 1
    unsure = (
        r"2 jobs may have been submitted or not, which cannot be known, and are left: .*squeue --me\).*"
        r"python -m rlexp.study clean outputs/s what=queued lets them"
    )
    assert re.search(rf"^rlexp: hydra/launcher: {unsure}", result.err, re.MULTILINE)
    real.rename(sbatch)
    result = sweep(*words)
    assert re.search(rf"^{unsure}", result.out, re.MULTILINE)
    assert statuses() == {"0": "queued", "1": "queued"}
    assert len(slurm.states()) == 2
    study.main(["clean", "outputs/s", "what=queued", "yes=true"])
    assert sweep(*words).code == 0
    assert len(slurm.states()) == 4


def test_a_sweep_that_is_killed_while_it_submits_is_not_repeated_unawares(tmp_path, sweep, slurm):
    sbatch = slurm.folder / "bin" / "sbatch"
    real = sbatch.rename(sbatch.with_name("real"))
    sbatch.write_text(f'#!/bin/sh\n{real} "$@"\nkill -9 $PPID\n')
    sbatch.chmod(0o755)
    assert start(tmp_path, *QUICK, "seed=0,1", *LEAVE, **slurm.environment).wait() == -9
    real.rename(sbatch)
    result = sweep("seed=0,1", *LEAVE)
    assert "2 jobs may have been submitted or not" in result.out
    assert len(slurm.states()) == 2


def test_what_cannot_be_marked_is_not_submitted(sweep, slurm, monkeypatch):
    written = []

    def write(path, data):
        written.append(path)
        if len(written) == 2:
            raise StorageError(f"{path}: cannot be written (No space left on device)")
        write_atomically(path, data)

    monkeypatch.setattr(queued, "write_atomically", write)
    result = sweep("seed=0,1,2", *LEAVE)
    assert result.code == 1
    assert re.fullmatch(r"rlexp: \S+queued.json: cannot be written .*\n", result.err)
    assert (marks(), slurm.states()) == ([], {})


def test_ctrl_c_while_ids_are_written_waits_for_them(sweep, slurm, monkeypatch):
    plain = queued.write

    def write(folder, mark):
        if mark.id:
            signal.raise_signal(signal.SIGINT)
        plain(folder, mark)

    monkeypatch.setattr(queued, "write", write)
    with contextlib.suppress(KeyboardInterrupt):
        assert sweep("seed=0,1,2", *LEAVE).code == 130
    assert [queued.read(mark.parent).id for mark in marks()] == ["1001_0", "1001_1", "1001_2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("submitit_slurm", "hydra.launcher.wait=false", "outputs=50%a"), "outputs=50%a: Slurm reads %a as a code"),
        (("submitit_slurm", "hydra.launcher.wait=maybe"), "hydra.launcher.wait=maybe: must be true or false"),
        (("ray", "hydra.launcher.wait=false"), "without hydra.launcher.address the Ray cluster ends with this command"),
        (("submitit_local", "hydra.launcher.wait=false"), "hydra/launcher=submitit_local has no setting wait, unlike"),
        (("submitit_local", "+hydra.launcher.wait=false"), "the processes of submitit_local end with this command"),
        (
            ("joblib", "hydra.launcher.wait=false"),
            "hydra/launcher=joblib has no setting wait, unlike ray and submitit_",
        ),
        (("basic", "hydra.launcher.wait=false"), "hydra/launcher=basic has no setting wait, unlike ray and submitit_"),
        (
            ("submitit_slurm", "hydra.launcher.wait=false", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)"),
            "hydra.launcher.wait=false: a tuning waits for its trials",
        ),
    ],
)
def test_what_cannot_be_left_is_told_in_one_line(sweep, words, told):
    if words[0] in ("ray", "submitit_slurm", "submitit_local"):
        pytest.importorskip(words[0].partition("_")[0], reason="extra")
    result = sweep(
        *(() if "hydra/sweeper=optuna" in words else ("seed=0,1",)), f"hydra/launcher={words[0]}", *words[1:]
    )
    assert result.code == 1
    assert re.fullmatch(r"rlexp: [^\n]+\n", result.err)
    assert told in result.err
    assert not Path("outputs").exists()
