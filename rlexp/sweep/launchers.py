"""Launchers: where and how the jobs of a sweep run. What became of a job is read from its folder, not from them."""

import contextlib
import io
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import version
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlexp.errors import ConfigError
from rlexp.lock import holds_any, is_held
from rlexp.run_folder import RunRecord
from rlexp.signals import ONCE
from rlexp.status import read_standing
from rlexp.sweep.plan import Composer, Planned
from rlexp.wording import number

log = logging.getLogger(__name__)

Result = JobReturn | Exception | None  # None: stopped, or not begun
GRACE = 60.0  # seconds that a worker has to save its run when its sweep is gone
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # who heeds which differs by build


def execute(context: HydraContext, task_function: TaskFunction, config: DictConfig) -> JobReturn:
    """Run one job here and now.

    Raises:
        SystemExit: a signal stopped it.
    """
    setup_globals()
    done = run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        configure_logging=False,
    )
    if done.status == JobStatus.FAILED:  # an error of somebody else's class may not travel between processes
        error = done._return_value
        done.return_value = RuntimeError(" ".join(f"{type(error).__name__}: {error}".split()))
    return done


def prepare(config: DictConfig) -> None:
    """Make a fresh process one in which a job of this config can run."""
    import rlexp.train  # noqa: F401  (registers the resolvers that configs need)

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


def execute_elsewhere(
    context: HydraContext, task_function: TaskFunction, config: DictConfig, stop: Path
) -> JobReturn | None:
    """Run one job in a worker's process, silently; None if the sweep was stopped before or meanwhile.

    Args:
        context: Hydra's.
        task_function: the job.
        config: of the job, with Hydra's settings.
        stop: a file that is there once the sweep has been stopped.
    """
    if stop.exists():
        return None
    prepare(config)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return execute(context, task_function, config)
        except (SystemExit, KeyboardInterrupt):
            return None


class JobLauncher(Launcher):
    """Base of the launchers here: they take composed jobs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What sweepers of others call."""
        from rlexp.sweep.plan import plan

        composer = Composer(self.hydra_context.config_loader, self.config)
        results = list(self.launch_jobs(plan(composer, job_overrides)))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [result or JobReturn() for result in results if not isinstance(result, Exception)]

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs; returns what came of each.

        Raises:
            SystemExit: a signal stopped the sweep.
            Exception: the launcher broke; what became of the jobs is to be seen in their folders.
        """
        raise NotImplementedError

    def begun(self, job: Planned, place: int, total: int) -> None:
        """Tell which job begins."""
        print(f"[{place}/{total}] {job.name}", flush=True)

    def ended(self, job: Planned, place: int, total: int) -> None:
        """Tell what came of a job that ran somewhere else."""
        now = read_standing(job.job.folder)
        score = "" if now.score is None else f", return {number(now.score)}"
        print(f"[{place}/{total}] {now.status}: {job.name}{score}", flush=True)


class Basic(JobLauncher):
    """One job after the other in this process."""

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        results = []
        for place, job in enumerate(jobs, 1):
            self.begun(job, place, len(jobs))
            results.append(execute(self.hydra_context, self.task_function, job.config))
        return results


class Joblib(JobLauncher):
    """Several processes on this machine, which share its cores.

    Args:
        n_jobs: processes; negative: that many less than there are cores, plus one, so that −1 is all.
        threads: of each; null: the cores, shared out.
    """

    def __init__(self, n_jobs: int = -1, threads: int | None = None) -> None:
        self.n_jobs, self.threads = n_jobs, threads

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        joblib = require("joblib", "joblib")
        loky = require("joblib.externals.loky", "joblib")  # its pool, as `Parallel` runs a single job in this process
        cores = joblib.cpu_count()
        processes = min(len(jobs), self.n_jobs if self.n_jobs > 0 else max(1, cores + 1 + self.n_jobs))
        threads = share_out(cores, processes, self.threads, jobs)
        results: list[Result] = [None] * len(jobs)
        with stoppable(jobs) as stop:
            environment = {name: str(threads) for name in THREADS}
            pool = loky.get_reusable_executor(processes, env=environment, initializer=follow, initargs=(os.getpid(),))
            given = (self.hydra_context, self.task_function)
            calls = {
                pool.submit(execute_elsewhere, *given, job.config, stop.path): index for index, job in enumerate(jobs)
            }
            for place, call in enumerate(loky.as_completed(calls), 1):
                results[calls[call]] = result = call.result()
                if result is not None:
                    self.ended(jobs[calls[call]], place, len(jobs))
        return results


def share_out(cores: int, processes: int, threads: int | None, jobs: Sequence[Planned]) -> int:
    """Threads of each process: the cores, shared out, unless it is said.

    Raises:
        ConfigError: more threads in all than there are cores.
    """
    each = threads or max(1, cores // processes)
    asked = max([each, *(int(job.job.cfg.torch_threads or 0) for job in jobs)])
    if asked * processes > cores and asked > 1:
        raise ConfigError(
            f"torch_threads={asked} with {processes} jobs at a time is {asked * processes} threads on {cores} cores, "
            f"which slow one another down; use torch_threads={max(1, cores // processes)}, or a smaller "
            f"hydra.launcher.n_jobs"
        )
    return each


def require(module: str, extra: str) -> Any:
    """Import what an extra brings.

    Raises:
        ConfigError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"needs {error.name}, which is not installed: pip install 'rlexp[{extra}]'") from None


class Stop:
    """A request to stop a sweep whose jobs run in other processes: those that run are saved, no other begins.

    Ctrl-C on a terminal reaches the workers by itself; SIGTERM is handed on to them. A second signal ends all at once.
    """

    def __init__(self, path: Path, jobs: Sequence[Planned]) -> None:
        self.path, self.jobs = path, jobs
        self.received: int | None = None
        self.received_at = 0.0

    def receive(self, signum: int, _: FrameType | None) -> None:
        """Take a signal."""
        if self.received is not None:
            if time.monotonic() - self.received_at > ONCE:
                raise KeyboardInterrupt
            return
        self.received, self.received_at = signum, time.monotonic()
        self.path.touch()
        print("stopping: running jobs are being saved; once more to stop at once", flush=True)
        if signum == signal.SIGTERM:
            for job in self.jobs:
                record = RunRecord(job.job.folder)
                here = record.data.get("host") == os.uname().nodename and is_held(job.job.folder)
                if record.status == "running" and here:  # else the number may be another process's by now
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(record.data["pid"], signum)


@contextlib.contextmanager
def stoppable(jobs: Sequence[Planned]) -> Iterator[Stop]:
    """While entered, signals stop the sweep in an orderly way, by SystemExit at the end."""
    with tempfile.TemporaryDirectory(prefix="rlexp-") as folder:
        stop = Stop(Path(folder) / "stop", jobs)
        with handling((signal.SIGINT, signal.SIGTERM), stop.receive):
            try:
                yield stop
            except Exception:
                if stop.received is None:
                    raise  # else a worker was hit by the signal before it could save anything
        if stop.received is not None:
            raise SystemExit(128 + stop.received)


@contextlib.contextmanager
def handling(signums: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While entered, a handler takes these signals."""
    before = {signum: signal.signal(signum, handler) for signum in signums}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)
