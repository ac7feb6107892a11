"""Jobs in processes of their own: how such a process is made ready, and how a sweep that is stopped stops them."""

import contextlib
import os
import signal
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
from rlexp.run.lock import holds_any
from rlexp.run.names import register_resolvers
from rlexp.signals import STOPPING, StopSignal

LOOK = 0.2  # seconds between looks at whether the sweep has been stopped
GRACE = 60.0  # seconds that a worker has to save its run when its sweep is gone


def prepare(config: DictConfig) -> None:
    """Make a fresh process one in which a job of this config can run."""
    register_resolvers(settings_of)
    version.setbase(config.hydra.runtime.version_base)
    JobRuntime.instance().set("name", config.hydra.job.name)


def follow(sweep: int) -> None:
    """Let this process end soon after that of its sweep, however it dies: what runs is saved first."""

    def watch() -> None:
        while os.getppid() == sweep:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while holds_any() and time.monotonic() < deadline:
            time.sleep(0.1)
        os._exit(1)  # to write results that nobody reads would take for ever

    threading.Thread(target=watch, daemon=True).start()


class StopOfSweep(StopSignal):
    """In a worker: whatever stops it, once its sweep has been stopped it is the signal that stopped the sweep.

    Args:
        path: of the file that holds that signal.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(STOPPING)
        self.path = path

    def of_sweep(self) -> int | None:
        """The signal that stopped the sweep; None: it goes on."""
        try:
            return int(self.path.read_text(encoding="utf-8"))
        except OSError:
            return None

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """Take a signal, or the sweep's."""
        stopped = self.of_sweep()
        super().receive(*((signum, frame) if stopped is None else (stopped, None)))


@contextlib.contextmanager
def heeding(stop: Path) -> Iterator[None]:
    """While entered, a file that appears stops the job of this process like a signal, also while it still starts up."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(LOOK):
            stopped = signals.of_sweep()
            if stopped is not None:
                signals.receive(stopped)
                return

    with StopOfSweep(stop) as signals:
        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            left.set()


class Stop(StopSignal):
    """A request to stop a sweep whose jobs run in other processes: those that run are saved, no other begins.

    They see it by a file that holds the signal (see `heeding`). A second signal ends all at once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """Take a signal."""
        first = self.received is None
        super().receive(signum, frame)
        if first:
            write_atomically(self.path, str(int(signum)).encode())
            print(
                "stopping: running jobs are being saved, the same command goes on; once more to stop at once",
                flush=True,
            )


@contextlib.contextmanager
def stoppable(where: Path | None = None) -> Iterator[Stop]:
    """While entered, signals stop the sweep in an orderly way, by SystemExit at the end.

    Args:
        where: a folder that the workers see, too; None: they are on this machine.
    """
    with tempfile.TemporaryDirectory(prefix=".rlexp-", dir=where) as folder:
        with Stop(Path(folder) / "stop") as stop:
            try:
                yield stop
            except Exception:
                if stop.received is None:
                    raise  # else a worker was hit by the signal before it could save anything
        if stop.received is not None:
            raise SystemExit(128 + stop.received)
