"""Processes that jobs run in hear of signals, whoever sends them to whom."""

import re
import signal
import time

import pytest
from helpers import jobs, record, status
from process import wait_until
from sweeps import start

from rlexp.signals import StopSignal, forward_signal
from rlexp.sweep.launchers.worker import SweepSignal, stop_on_file


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_cluster_that_takes_the_machine_gets_a_saved_job_that_goes_on_when_it_is_begun_again(sweep):
    pytest.importorskip("submitit", reason="extra slurm is not installed")
    result = sweep("env.id=poison:Announced-v0", "total_steps=512", "hydra/launcher=submitit_local")
    (job,) = jobs()
    assert result.code == 0, (job / "train.log").read_text()
    assert (status(job), record(job)["launches"]) == ("done", 2)
    log = (job / "train.log").read_text()
    assert "interrupted by SIGUSR2: saved" in log
    assert re.search(r"resumed at (128|64|192) of 512", log)
