"""Jobs that a sweep leaves on a Ray cluster outlive it, are stopped by a file, and are not submitted twice."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers import jobs, record
from sweeps import start

from rlexp.study.status import read_study

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def processes_of(folder):
    """Processes of the cluster that keeps its files in the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.encode() in (path / "cmdline").read_bytes() + (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


@pytest.fixture
def cluster():
    """A cluster of one core: words that choose it, and the variables that its users need."""
    pytest.importorskip("ray", reason="extra ray is not installed")
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: sockets lie in it
    port = free_port()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32, "RAY_TEST_HOME": folder}
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    command += [f"--ray-client-server-port={free_port()}", "--include-dashboard=false", "--disable-usage-stats"]
    command += [f"--temp-dir={folder}"]
    with open(f"{folder}/log", "w") as log:
        head = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.time() + 90
        while not (address := re.search(r"--address='(\S+)'", Path(f"{folder}/log").read_text())):
            assert head.poll() is None, Path(f"{folder}/log").read_text()
            assert time.time() < deadline
            time.sleep(0.1)
        words = ("hydra/launcher=ray", f"hydra.launcher.address={address[1]}", "hydra.launcher.wait=false")
        yield words, environment
    finally:
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(30)
        for pid in processes_of(folder):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def statuses(folder):
    return {re.search(r"seed=(\d)", job.folder.name)[1]: job.status for job in read_study(folder / "outputs/s")}


def wait_for(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)


def test_jobs_that_a_sweep_leaves_on_ray_outlive_it(tmp_path, cluster):
    left, environment = cluster
    words = ("seed=0,1,2", "total_steps=40000", "env.num_envs=2", "algo.rollout_steps=32", *left)

    def sweep():
        process = start(tmp_path, *words, **environment)
        printed = process.communicate(120)
        assert process.returncode == 0, printed
        return printed

    out = sweep()
    assert re.search(r"^3 jobs are on the Ray cluster \S+, kept by rlexp-\w{8}$", out, re.MULTILINE)
    wait_for(lambda: "running" in statuses(tmp_path).values())
    assert sorted(statuses(tmp_path).values()) == ["queued", "queued", "running"]
    stop = tmp_path / re.search(r"to stop: touch (\S+)", out)[1]
    again = sweep()
    assert "to run" not in again
    assert "still in Ray's queue: not submitted again" in again

    stop.touch()
    wait_for(lambda: not stop.exists())  # once all have ended
    assert not stop.parent.exists()
    assert "running" not in statuses(tmp_path).values()
    third = sweep()
    assert "interrupted by SIGTERM: " in third
    assert re.search(r"waiting: .*\(Ray job rlexp-\w{8}_2, submitted \S+ on \S+: no longer in the queue\)", third)
    assert "still in" not in third
    wait_for(lambda: set(statuses(tmp_path).values()) == {"done"})
    last = sweep()
    assert "3 jobs: 3 done" in last
    assert re.search(r"^\[\d/\d\] done: \S+seed=2\S+, return ", last, re.MULTILINE)
    assert not list(tmp_path.glob("outputs/s/*/queued.json"))
    assert sum(record(job)["launches"] for job in jobs(tmp_path)) <= 5  # one was saved, and at most one had ended


def test_a_cluster_that_wants_a_token_is_told_so(tmp_path, cluster):
    left, _ = cluster
    process = start(tmp_path, "seed=0", *left, RAY_AUTH_MODE="disabled")
    printed = process.communicate(120)
    assert process.returncode == 1
    assert "it wants a token: RAY_AUTH_MODE=token" in printed.splitlines()[-1]
