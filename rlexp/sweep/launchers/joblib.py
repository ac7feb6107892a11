"""The joblib launcher: one job at a time in each process of a pool; other launchers can use the pool too."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlexp.sweep.launchers.base import JobLauncher, Result, execute, require_whole, threads_per_process
from rlexp.sweep.launchers.worker import exit_with_sweep, prepare, stop_on_file, stoppable
from rlexp.sweep.plan import Planned

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # which one applies depends on the build


def processes_of(n_jobs: int) -> int:
    """Processes for `n_jobs`, at most one per core; −1: one per core, −2: one fewer, and so on."""
    asked = n_jobs if n_jobs > 0 else max(1, cores() + 1 + n_jobs)
    if asked > cores():
        print(f"hydra.launcher.n_jobs={asked}: limited to {cores()} jobs at a time, one per core", flush=True)
    return min(asked, cores())


def cores() -> int:
    """Number of cores that this process may use."""
    import joblib

    return int(joblib.cpu_count())


def run_in_pool(
    work: Callable[[Any], Any], items: Sequence[Any], config: DictConfig, processes: int, threads: int
) -> Iterator[tuple[int, Any]]:
    """Map `work` over the items in a pool of processes; yields index and result of each as it ends, in any order.

    Items that a signal stopped or kept from starting are left out.

    Args:
        work: called with stdout silenced; must be picklable.
        items: begun in this order.
        config: of any job, with Hydra's settings.
        processes: number of processes.
        threads: of each.

    Raises:
        SystemExit: a signal stopped the sweep.
        Exception: whatever `work` raises, or the pool when a process dies.
    """
    from joblib.externals import loky  # not `Parallel`, which runs a single item in this process

    with stoppable() as stop:
        environment = {name: str(threads) for name in THREADS}
        here = (os.getpid(), Path.cwd())  # the pool is reused only while these are the same
        pool = loky.get_reusable_executor(processes, env=environment, initializer=_init_worker, initargs=here)
        calls = {pool.submit(_run_in_worker, work, item, config, stop.path): index for index, item in enumerate(items)}
        for call in loky.as_completed(calls):
            if call.result() is not None:
                yield calls[call], call.result()


def _init_worker(sweep: int, folder: Path) -> None:
    os.chdir(folder)
    exit_with_sweep(sweep)


def _run_in_worker(work: Callable[[Any], Any], item: Any, config: DictConfig, stop: Path) -> Any:
    if stop.exists():
        return None
    prepare(config)
    silenced = contextlib.redirect_stdout(io.StringIO())
    with contextlib.suppress(SystemExit, KeyboardInterrupt), stop_on_file(stop), silenced:
        return work(item)
    return None


class Joblib(JobLauncher):
    """Runs jobs in several processes on this machine; its settings are explained in conf/hydra/launcher/joblib.yaml."""

    needs = ("joblib", "joblib")

    def __init__(self, n_jobs: int = -1, threads: int | None = None) -> None:
        self.n_jobs = require_whole("n_jobs", n_jobs)
        self.threads = None if threads is None else require_whole("threads", threads, least=1)

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        processes = min(len(jobs), processes_of(self.n_jobs))
        threads = threads_per_process(cores(), processes, self.threads, jobs)
        run = partial(execute, self.hydra_context, self.task_function)
        return self.collect(jobs, run_in_pool(run, [job.config for job in jobs], jobs[0].config, processes, threads))
