"""A Slurm of this machine: commands that really run what is submitted, in processes of their own.

`Slurm(folder)` makes the commands in folder/bin. Run as one of them, this file is that command.
"""

import contextlib
import fcntl
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sacct", "scontrol")
LIVE = ("PENDING", "RUNNING")
KILL_WAIT = 20.0  # seconds from SIGTERM to SIGKILL


class Slurm:
    """The cluster, seen from a test; at_once: jobs that run at a time."""

    def __init__(self, folder, at_once=1):
        self.folder = folder.resolve()
        (self.folder / "bin").mkdir(parents=True)
        (self.folder / "at_once").write_text(str(at_once))
        for name in COMMANDS:
            path = self.folder / "bin" / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).resolve()} {name} "$@"\n')
            path.chmod(0o755)

    @property
    def environment(self):
        return {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "FAKE_SLURM": str(self.folder)}

    def states(self):
        """Of every job that was ever submitted."""
        return {path.name: path.read_text() for path in sorted((self.folder / "jobs").glob("*"))}

    def call(self, *words):
        return subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, check=False)

    def close(self):
        """Kill whatever runs; waits for the end of all."""
        deadline = time.time() + 60
        for name, state in self.states().items():
            if state in LIVE:
                self.call("scancel", name)
                with contextlib.suppress(OSError, ValueError):
                    os.killpg(int((self.folder / "pids" / name).read_text()), signal.SIGKILL)
        while list((self.folder / "runners").glob("*")):
            assert time.time() < deadline
            time.sleep(0.05)


def home():
    return Path(os.environ["FAKE_SLURM"])


@contextlib.contextmanager
def locked():
    with open(home() / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def put(kind, name, text):
    (home() / kind).mkdir(exist_ok=True)
    temporary = home() / f"{kind}.{name}.{os.getpid()}"
    temporary.write_text(text)
    os.replace(temporary, home() / kind / name)


def state(name):
    return (home() / "jobs" / name).read_text()


def swap(name, before, after):
    """Whether the job was in one of the states before, and is now in another."""
    with locked():
        if state(name) not in before:
            return False
        put("jobs", name, after)
        return True


def sbatch(script):
    text = Path(script).read_text()
    array = re.search(r"#SBATCH --array=0-(\d+)", text)
    with locked():
        number = 1001 + len({path.name.partition("_")[0] for path in (home() / "jobs").glob("*")})
        names = [f"{number}_{k}" for k in range(int(array[1]) + 1)] if array else [str(number)]
        for name in names:
            put("jobs", name, "PENDING")
            put("scripts", name, text)
            put("runners", name, "")
    for name in names:
        subprocess.Popen(
            [sys.executable, "-S", __file__, "run", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    print(f"Submitted batch job {number}")


def in_order(name):
    return [int(part) for part in name.split("_")]


def run(name):
    """The node: runs a job once its turn has come."""
    try:
        while True:
            with locked():
                if state(name) != "PENDING":
                    return
                states = {path.name: path.read_text() for path in (home() / "jobs").glob("*")}
                first = min((other for other in states if states[other] == "PENDING"), key=in_order)
                running = list(states.values()).count("RUNNING")
                if name == first and running < int((home() / "at_once").read_text()):
                    put("jobs", name, "RUNNING")
                    break
            time.sleep(0.05)
        array, _, task = name.partition("_")
        environment = os.environ | {"SLURM_JOB_ID": array, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
        environment |= {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        environment |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {}
        process = subprocess.Popen(["bash", home() / "scripts" / name], env=environment, start_new_session=True)
        put("pids", name, str(process.pid))
        cancelled = None
        while process.poll() is None:
            if cancelled is None and state(name) == "CANCELLED":
                cancelled = time.time()
                os.killpg(process.pid, signal.SIGTERM)
            if cancelled is not None and time.time() > cancelled + KILL_WAIT:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        swap(name, ("RUNNING",), "COMPLETED" if process.returncode == 0 else "FAILED")
    finally:
        (home() / "runners" / name).unlink()


def srun(*words):
    paths = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID", "%t": "SLURM_PROCID"}
    words = list(words)
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            path = re.sub("%[Aajt]", lambda match: os.environ[paths[match[0]]], words.pop(0))
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1 if option == "--output" else 2)
    os.execvp(words[0], words)


def chosen(ids):
    for path in sorted((home() / "jobs").glob("*")):
        if {path.name, path.name.partition("_")[0]} & set(ids):
            yield path.name


def squeue(*words):
    (ids,) = [word.removeprefix("--jobs=").split(",") for word in words if word.startswith("--jobs=")]
    assert set(words) >= {"--noheader", "--array", "--format=%i %T"}
    assert not [name for name in os.environ if name.startswith("SQUEUE_")]
    found = [name for name in chosen(ids) if state(name) in LIVE]
    if len(ids) == 1 and not found:  # Slurm forgets jobs minutes after they ended; this one at once
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(*(f"{name} {state(name)}" for name in found), sep="\n")


def scontrol(*words):
    assert words == ("show", "config")
    print(
        f"Configuration data\nClusterName             = {os.environ.get('SLURM_CONF', 'here')}\nCommunication = (null)"
    )


def scancel(*ids):
    for name in chosen(ids):
        swap(name, LIVE, "CANCELLED")


def sacct(*words):
    ids = [id for option, id in itertools.pairwise(words) if option == "-j"]
    print("JobID|State|NodeList", *(f"{name}|{state(name)}|here" for name in chosen(ids)), sep="\n")


if __name__ == "__main__":
    {**{name: globals()[name] for name in COMMANDS}, "run": run}[sys.argv[1]](*sys.argv[2:])
