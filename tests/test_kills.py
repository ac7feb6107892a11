"""Sweeps that are killed again and again at random moments end as if nothing had happened, whoever runs their jobs."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from helpers import curves, jobs, record, status
from process import Process

KILLS = 10
SWEEP = ("-m", "study=s", "tuned=none", "progress=none", "evaluation.episodes=2", "evaluation.max_steps=50")
SWEEP += ("compile=false", "network.torso.hidden=[8]", "env.num_envs=2", "algo.rollout_steps=32", "env=cartpole")
SWEEP += ("total_steps=1280", "checkpoint_every=320", "log_every=64", "torch_threads=1")
SWEEP += ("seed=range(0,20)", "optimizer.lr=1e-3,3e-3")
APART = {"basic": 0.0, "joblib": 0.0, "submitit_local": 0.0, "ray": 0.0, "batched": 2e-3}  # batches are made up anew
MOMENTS = {"ray": (8.0, 20.0)}  # seconds from the start within which a kill comes: Ray takes eight until a job begins


def running(sessions):
    """Command lines of processes that live in these sessions: of sweeps and whatever they have started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            if int(session) in sessions and state != "Z":
                found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same sweep, left alone."""
    folder = tmp_path_factory.mktemp("whole")
    process = Process(folder, *SWEEP)
    assert process.wait(600) == 0, process.communicate()
    return curves(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", APART)
def test_forty_jobs_killed_ten_times_are_done_once_each(tmp_path, whole, launcher):
    if launcher in ("joblib", "submitit_local", "ray"):
        pytest.importorskip({"submitit_local": "submitit"}.get(launcher, launcher), reason="extra")
    seed = int(os.environ.get("KILLS_SEED", time.time_ns() % 10**6))
    print(f"KILLS_SEED={seed}")  # which repeats the moments
    moments = random.Random(seed)
    words = (*SWEEP, f"hydra/launcher={launcher}")
    sessions = set()
    for _ in range(KILLS):
        process = Process(tmp_path, *words)
        sessions.add(process.pid)
        time.sleep(moments.uniform(*MOMENTS.get(launcher, (0.2, 6.0))))
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.time() + 300
    while (process := Process(tmp_path, *words)).wait(300) and time.time() < deadline:
        sessions.add(process.pid)
        time.sleep(1.0)  # workers of a killed sweep may still be at work
    assert process.returncode == 0, process.communicate()
    sessions.add(process.pid)
    while (left := running(sessions)) and time.time() < deadline:
        time.sleep(0.5)
    assert not left
    assert len(jobs(tmp_path)) == 40
    assert {status(job) for job in jobs(tmp_path)} == {"done"}
    launches = [record(job)["launches"] for job in jobs(tmp_path)]
    print("launches:", sorted(launches))
    assert max(launches) <= KILLS + 1
    ends = curves(tmp_path)
    assert ends.keys() == whole.keys()
    for name, rows in whole.items():
        assert [row["step"] for row in ends[name]] == [row["step"] for row in rows], name
        for ours, theirs in zip(ends[name], rows, strict=True):
            if not APART[launcher]:
                assert ours == theirs, name
            for key in theirs:
                assert float(ours[key] or 0) == pytest.approx(float(theirs[key] or 0), rel=0.05, abs=APART[launcher])
