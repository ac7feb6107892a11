"""Faults of environments and signals at awkward moments: what runs is saved, what failed says so in its own folder."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import SUPPORT, curves, jobs, last_metrics, record, status
from process import Process, wait_until

from rlexp.signals import Interrupted, StopSignal
from rlexp.watch import Watch

TINY = ("tuned=none", "progress=none", "compile=false", "network.torso.hidden=[8]", "study=s")
TINY += ("env.num_envs=2", "algo.rollout_steps=32")
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def train(cli, monkeypatch):
    """A tiny run, in this process."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    return lambda *words: cli(*in_order(words))


def in_order(words):
    return (*(word for word in words if word == "-m"), *TINY, *(word for word in words if word != "-m"))


def start(folder, *words):
    return Process(folder, *in_order(words), PYTHONPATH=SUPPORT)


def the_job(folder="."):
    (job,) = jobs(folder)
    return job


def is_training(folder):
    return any((job / "metrics.csv").exists() for job in jobs(folder))


# Signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("number", STOPS)
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, number):
    process = start(tmp_path, "total_steps=1e7")
    wait_until(lambda: is_training(tmp_path), process)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert record(the_job(tmp_path))["error"] == f"interrupted by {number.name}"
    assert (the_job(tmp_path) / "checkpoint.pt").exists()


def test_what_the_shell_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.few(1)
@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1,2")])
def test_a_signal_in_the_final_evaluation_is_heard_and_the_same_command_finishes_it(tmp_path, train, words):
    command = (*words, "total_steps=64", "env.id=poison:PlaysLong-v0", "evaluation.episodes=1", "log_every=1")
    process = start(tmp_path, *command)
    wait_until(lambda: is_training(tmp_path), process)
    (tmp_path / "evaluating").touch()
    wait_until(lambda: any((job / "checkpoint.pt").exists() for job in jobs(tmp_path)), process)
    time.sleep(0.3)
    assert process.returncode is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert [status(job) for job in jobs(tmp_path) if (job / "run.json").exists()] == ["interrupted"]
    assert not list(tmp_path.glob("outputs/*/*/evaluation.json"))

    (tmp_path / "evaluating").unlink()
    assert train(*command).code == 0
    assert {status(job) for job in jobs()} == {"done"}
    assert all((job / "evaluation.json").exists() for job in jobs())
    assert record(jobs()[0])["launches"] == 2


def test_a_second_signal_in_the_final_evaluation_ends_it_at_once(tmp_path):
    process = start(tmp_path, "total_steps=64", "env.id=poison:HangsLate-v0", "evaluation.episodes=1")
    wait_until(lambda: any((job / "checkpoint.pt").exists() for job in jobs(tmp_path)), process)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)  # two within a second count as one
    assert process.returncode is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(3) == 130


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_whole_group_saves_a_run_whose_environments_have_processes(tmp_path, number):
    process = start(tmp_path, "total_steps=1e7", "env.vectorization=async", "env.id=probes:Endless-v0")
    wait_until(lambda: is_training(tmp_path), process)
    os.killpg(process.pid, number)
    assert process.wait(30) == 128 + number
    assert record(the_job(tmp_path))["error"] == f"interrupted by {number.name}"
    assert (the_job(tmp_path) / "checkpoint.pt").exists()


def test_processes_of_environments_end_when_their_run_is_killed(tmp_path):
    process = start(tmp_path, "total_steps=1e7", "env.vectorization=async", "env.id=probes:Endless-v0")
    wait_until(lambda: is_training(tmp_path), process)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) >= 2
    process.kill()
    deadline = time.time() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers) and time.time() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers)


def test_what_may_be_given_up_ends_at_once_and_outlasts_any_time_limit():
    def work(seconds):
        with contextlib.suppress(Exception):  # as compilers do
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(0.01)
        return seconds

    watch = Watch(timeout=0.5)
    with StopSignal() as watch.stop, watch.on():
        assert watch.call_or_stop(work, 1.5) == 1.5
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        with pytest.raises(Interrupted) as stop:
            watch.call_or_stop(work, 60)
        assert time.monotonic() - began < 3
        assert (stop.value.signum, stop.value.saved) == (signal.SIGTERM, True)
        with pytest.raises(Interrupted):
            watch.call_or_stop(pytest.fail, "begun though the run is to stop")


class Destructor:
    """Whose end takes a while, in which nothing can be raised."""

    def __del__(self):
        deadline = time.monotonic() + 1.2
        while time.monotonic() < deadline:
            time.sleep(0.01)


def test_a_stop_in_a_destructor_is_not_printed_and_not_lost(capsys):
    def work():
        Destructor()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.01)

    watch = Watch()
    with StopSignal() as watch.stop, watch.on():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            watch.call_or_stop(work)
        assert time.monotonic() - began < 4  # and not the five seconds after which a stop is tried again
    assert "ignored" not in capsys.readouterr().err


COMPILED = ("compile=true", "env=cartpole", "env.backend=gymnasium", "total_steps=640", "log_every=64")
COMPILED += ("checkpoint_every=256", "torch_threads=1", "evaluation.episodes=0")


def start_compiled(folder, cache):
    words = [word for word in in_order(COMPILED) if word != "compile=false"]
    return Process(folder, *words, PYTHONPATH=SUPPORT, RLEXP_CACHE=str(cache))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compiled run, left alone: its folder, and that of its libraries."""
    folder, cache = tmp_path_factory.mktemp("compiled"), tmp_path_factory.mktemp("cache")
    process = start_compiled(folder, cache)
    assert process.wait(300) == 0, process.communicate()
    return folder, cache


def wait_for_libraries(cache):
    """Until whoever compiles beside a run that has ended is done; the names of what is there then."""
    deadline = time.time() + 200
    while any(path.is_dir() for path in cache.iterdir()) and time.time() < deadline:
        time.sleep(0.2)
    return {path.name for path in cache.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("to", [os.kill, os.killpg])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_graphs_compile_is_heard_at_once_and_nothing_is_lost(tmp_path, compiled, number, to):
    whole, libraries = compiled
    cache = tmp_path / "cache"
    process = start_compiled(tmp_path, cache)
    wait_until(lambda: cache.exists() and len(list(cache.iterdir())) == 2, process)  # both are being made
    time.sleep(1.0)
    to(process.pid, number)
    began = time.monotonic()
    assert process.wait(30) == (-number if number == signal.SIGKILL else 128 + number)
    assert time.monotonic() - began < 8  # and not the twenty seconds that compiling takes
    job = the_job(tmp_path)
    assert (job / "checkpoint.pt").exists()
    if number != signal.SIGKILL:
        assert record(job)["error"] == f"interrupted by {number.name}"
        assert wait_for_libraries(cache) < {path.name for path in libraries.iterdir()}  # one, made beside
    process = start_compiled(tmp_path, libraries)
    assert process.wait() == 0, process.communicate()
    assert record(job)["launches"] == 2
    assert "uncompiled" not in (job / "train.log").read_text()
    assert "resumed at" in (job / "train.log").read_text()
    assert curves(tmp_path) == curves(whole)


# Environments that come to grief --------------------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("env", "error"),
    [
        ("Raises", "RuntimeError: poisoned on two lines"),
        ("RaisesOddly", "OddError: poisoned: 7"),
        ("Exits", "Exits.step: sys.exit(3) was called during the run"),
    ],
)
def test_an_environment_that_raises_is_recorded_by_its_own_error(train, env, error, vectorization):
    result = train("total_steps=64", f"env.id=poison:{env}-v0", f"env.vectorization={vectorization}")
    assert re.fullmatch(rf"rlexp: env\.id=poison:{env}-v0: poison\.py:\d+: {env}\.step: .*\n", result.err)
    assert status(the_job()) == "failed"
    assert record(the_job())["error"].endswith(error)
    assert "poison.py" in record(the_job())["traceback"]


def test_an_environment_that_exits_ends_neither_the_sweep_nor_says_it_is_done(train):
    result = train("-m", "total_steps=64", "env.id=poison:Exits-v0,probes:Endless-v0", "evaluation.episodes=0")
    assert result.code == 1
    assert sorted(status(job) for job in jobs()) == ["done", "failed"]
    assert "sys.exit(3) was called" in result.out


def test_an_environment_whose_process_dies_is_told(train):
    result = train("total_steps=64", "env.id=poison:Killed-v0", "env.vectorization=async")
    assert result.code == 1
    assert re.search(r"an environment subprocess died \(.* exited with -9", result.err)
    assert status(the_job()) == "failed"


def test_an_environment_that_raises_in_its_first_reset_is_told_in_one_line_and_recorded(train):
    result = train("total_steps=64", "env.id=poison:RaisesAtReset-v0")
    assert result.code == 1
    line = r"poison\.py:\d+: RaisesAtReset\.reset: ValueError: no maze could be made"
    assert re.fullmatch(rf"rlexp: env\.id=poison:RaisesAtReset-v0: {line}\n", result.err)
    assert status(the_job()) == "failed"
    assert "no maze" in record(the_job())["traceback"]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_hangs_fails_after_its_time_limit(train, vectorization):
    began = time.monotonic()
    result = train("total_steps=64", "env.id=poison:Hangs-v0", f"env.vectorization={vectorization}", "env.timeout=1.5")
    assert time.monotonic() - began < 20
    assert result.code == 1
    assert "env.timeout=1.5: a call of poison:Hangs-v0 did not return" in result.err
    assert status(the_job()) == "failed"


@pytest.mark.slow
def test_slow_steps_within_the_time_limit_are_left_alone(train):
    words = ("total_steps=64", "env.num_envs=2", "algo.rollout_steps=32", "algo.minibatches=2", "evaluation.episodes=0")
    assert train(*words, "env.id=poison:Slow-v0", "env.timeout=0.5").code == 0


def test_time_in_which_a_process_is_stopped_is_not_its_environments(monkeypatch):
    ahead = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr("rlexp.watch.time", clock)

    def step():
        time.sleep(0.7)
        ahead[0] += 1000.0  # as after Ctrl-Z, a long break and fg
        time.sleep(1.2)
        return "made"

    watch = Watch(timeout=30.0)
    with watch.on():
        assert watch.call(step) == "made"


@pytest.mark.parametrize("vectorization", [pytest.param("sync", marks=pytest.mark.slow), "async"])
def test_a_signal_is_heard_though_an_environment_hangs(tmp_path, vectorization):
    words = ("total_steps=1e7", "checkpoint_every=64", "env.id=poison:Hangs-v0", "+env.kwargs.when=hang")
    process = start(tmp_path, *words, f"env.vectorization={vectorization}")
    wait_until(lambda: any((job / "checkpoint.pt").exists() for job in jobs(tmp_path)), process)
    (tmp_path / "hang").touch()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 143
    assert record(the_job(tmp_path))["error"].startswith("interrupted by SIGTERM while an environment did not answer")
    (tmp_path / "hang").unlink()
    process = start(tmp_path, *words, f"env.vectorization={vectorization}", "stop_at=2000")
    assert "resumed at" in process.communicate()
    assert last_metrics(the_job(tmp_path))["step"] > 0


@pytest.mark.slow
def test_a_signal_is_heard_though_an_environment_hangs_in_a_reset_and_catches_everything(tmp_path):
    process = start(tmp_path, "total_steps=1e7", "env.id=poison:HangsAtReset-v0", "checkpoint_every=64")
    wait_until(lambda: any((job / "checkpoint.pt").exists() for job in jobs(tmp_path)), process)
    (tmp_path / "hang").touch()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 143
    assert status(the_job(tmp_path)) == "interrupted"


def test_a_terminal_that_closes_saves_what_runs(tmp_path):
    terminal, end = pty.openpty()
    words = [sys.executable, "-m", "rlexp.train", *in_order(("total_steps=1e7", "progress=bar"))]
    words.remove("progress=none")
    with subprocess.Popen(words, cwd=tmp_path, stdin=end, stdout=end, stderr=end, start_new_session=True) as process:
        os.close(end)
        deadline = time.time() + 60
        while not is_training(tmp_path) and time.time() < deadline:
            os.read(terminal, 1 << 16)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)  # as the shell hands it on
        assert process.wait(30) == 129
    assert record(the_job(tmp_path))["error"] == "interrupted by SIGHUP"


def test_a_time_limit_changes_no_result_and_so_no_folder(train):
    words = ("total_steps=64", "env.id=probes:Endless-v0", "evaluation.episodes=0")
    assert train(*words).code == 0
    assert "already done" in train(*words, "env.timeout=60").out
