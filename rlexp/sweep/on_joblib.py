"""The launcher on joblib's pool of processes."""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlexp.sweep.launchers import JobLauncher, Result, execute, require, require_whole, share_out
from rlexp.sweep.plan import Planned
from rlexp.sweep.workers import follow, heeding, prepare, stoppable

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # who heeds which differs by build


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
    with heeding(stop), contextlib.redirect_stdout(io.StringIO()):
        try:
            return execute(context, task_function, config)
        except (SystemExit, KeyboardInterrupt):
            return None


class Joblib(JobLauncher):
    """Several processes on this machine, which share its cores.

    Args:
        n_jobs: processes, no more than there are cores; negative: that many less, plus one, so that −1 is all.
        threads: of each; null: the cores, shared out.
    """

    def __init__(self, n_jobs: int = -1, threads: int | None = None) -> None:
        self.n_jobs = require_whole("n_jobs", n_jobs)
        self.threads = None if threads is None else require_whole("threads", threads, least=1)

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        joblib = require("joblib", "joblib")
        loky = require("joblib.externals.loky", "joblib")  # its pool, as `Parallel` runs a single job in this process
        cores = joblib.cpu_count()
        asked = self.n_jobs if self.n_jobs > 0 else max(1, cores + 1 + self.n_jobs)
        if asked > cores:
            print(f"hydra.launcher.n_jobs={asked}: {cores} jobs at a time, one for each core", flush=True)
        processes = min(len(jobs), asked, cores)
        threads = share_out(cores, processes, self.threads, jobs)
        results: list[Result] = [None] * len(jobs)
        with stoppable() as stop:
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
