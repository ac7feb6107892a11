"""Support for launchers that run jobs in worker processes: set up a worker, and stop it with its sweep."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from hydra import version
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig

from rlexp.files import write_atomically
from rlexp.jobs.job import settings_of
from rlexp.jobs.log import same_command
from rlexp.run.lock import holds_any
from rlexp.run.names import register_resolvers
from rlexp.signals import STOPPING, StopSignal

POLL = 0.2  # seconds between checks whether the sweep has been stopped
GRACE = 60.0  # seconds that a worker has to save its run after its sweep has died


def prepare(config: DictConfig) -> None:
    """Set up a new process to run a job of this config."""
    register_resolvers(settings_of)
    version.setbase(config.hydra.runtime.version_base)
    JobRuntime.instance().set("name", config.hydra.job.name)


def exit_with_sweep(sweep: int) -> None:
    """Exit soon after the sweep's process (its pid) ends, however it dies; a running job is saved first."""

    def watch() -> None:
        while os.getppid() == sweep:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while holds_any() and time.monotonic() < deadline:
            time.sleep(0.1)
        os._exit(1)  # a normal exit would block on sending results that nobody reads

    threading.Thread(target=watch, daemon=True).start()


class WorkerSignal(StopSignal):
    """In a worker, receives the signal that stopped the sweep, in the file `path`, whichever the worker itself gets."""

    def __init__(self, path: Path) -> None:
        super().__init__(STOPPING)
        self.path = path

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """Receive a signal, or the sweep's instead."""
        with contextlib.suppress(OSError, ValueError):  # while the sweep runs; empty if made by hand
            signum, frame = int(self.path.read_text(encoding="utf-8")), None
        super().receive(signum, frame)


@contextlib.contextmanager
def stop_on_file(stop: Path) -> Iterator[None]:
    """Within the context, stop this process's job like a signal once the file `stop` exists, even during start-up."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(POLL):
            if stop.exists():
                signals.receive(signal.SIGTERM)  # or the sweep's
                return

    with WorkerSignal(stop) as signals:
        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            left.set()


class SweepSignal(StopSignal):
    """Stops a sweep whose jobs run in other processes: running jobs are saved, no other starts.

    Writes the signal to a file that workers watch (see `stop_on_file`). A second signal stops everything at once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """Receive a signal."""
        first = self.received is None
        super().receive(signum, frame)
        if first:
            write_atomically(self.path, str(int(signum)).encode())
            again = f"{same_command(sys.argv[1:])} resumes them; signal again to stop at once"
            print(f"stopping: saving running jobs, {again}", flush=True)


@contextlib.contextmanager
def stoppable(where: Path | None = None) -> Iterator[SweepSignal]:
    """Within the context, a signal stops the sweep gracefully and raises SystemExit at the end.

    where: a folder on a file system that workers share; None: all are on this machine.
    """
    with tempfile.TemporaryDirectory(prefix=".rlexp-", dir=where) as folder:
        with SweepSignal(Path(folder) / "stop") as stop:
            try:
                yield stop
            except Exception:
                if stop.received is None:
                    raise  # otherwise the signal hit a worker before it could save anything
        if stop.received is not None:
            raise SystemExit(128 + stop.received)
