"""Work in joblib's pool of processes, and the launcher that runs one job at a time in each."""

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlexp.sweep.launchers.base import JobLauncher, Result, execute, require, require_whole, share_out
from rlexp.sweep.launchers.worker import follow, heeding, prepare, stoppable
from rlexp.sweep.plan import Planned

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # who heeds which differs by build


def cores() -> int:
    """How many this process may use.

    Raises:
        ConfigError: joblib is not installed.
    """
    return int(require("joblib", "joblib").cpu_count())


def processes_of(n_jobs: int) -> int:
    """How many `n_jobs` means: no more than there are cores; −1: as many, −2: one less, and so on."""
    asked = n_jobs if n_jobs > 0 else max(1, cores() + 1 + n_jobs)
    if asked > cores():
        print(f"hydra.launcher.n_jobs={asked}: {cores()} jobs at a time, one for each core", flush=True)
    return min(asked, cores())


def run_in_pool(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    config: DictConfig,
    processes: int,
    threads: int,
    ended: Callable[[int, Any], None],
) -> list[Any]:
    """What `work` returns of each item, in processes of their own; None where a signal stopped it, or it did not begin.

    Args:
        work: called silently; it travels between processes, as methods of launchers cannot: Hydra renames their module.
        items: to be worked on, in this order.
        config: of a job, with Hydra's settings.
        processes: how many.
        threads: of each.
        ended: told the index and result of each item as it ends.

    Raises:
        SystemExit: a signal stopped the sweep.
        Exception: whatever `work` raises, or the pool when one of its processes dies.
    """
    loky = require("joblib.externals.loky", "joblib")  # its pool, as `Parallel` runs a single item in this process
    results: list[Any] = [None] * len(items)
    with stoppable() as stop:
        environment = {name: str(threads) for name in THREADS}
        here = (os.getpid(), Path.cwd())  # elsewhere the pool of an earlier call is none to use again
        pool = loky.get_reusable_executor(processes, env=environment, initializer=_begin, initargs=here)
        calls = {pool.submit(_elsewhere, work, item, config, stop.path): index for index, item in enumerate(items)}
        for call in loky.as_completed(calls):
            index = calls[call]
            results[index] = call.result()
            if results[index] is not None:
                ended(index, results[index])
    return results


def _begin(sweep: int, folder: Path) -> None:
    os.chdir(folder)
    follow(sweep)


def _elsewhere(work: Callable[[Any], Any], item: Any, config: DictConfig, stop: Path) -> Any:
    if stop.exists():
        return None
    prepare(config)
    with heeding(stop), contextlib.redirect_stdout(io.StringIO()):
        try:
            return work(item)
        except (SystemExit, KeyboardInterrupt):
            return None


class Joblib(JobLauncher):
    """Several processes on this machine, which share its cores.

    Args:
        n_jobs: processes, no more than there are cores; negative: that many less, plus one, so that −1 is all.
        threads: of each; null: the cores, shared out.
    """

    needs = ("joblib", "joblib")

    def __init__(self, n_jobs: int = -1, threads: int | None = None) -> None:
        self.n_jobs = require_whole("n_jobs", n_jobs)
        self.threads = None if threads is None else require_whole("threads", threads, least=1)

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        processes = min(len(jobs), processes_of(self.n_jobs))
        place = itertools.count(1)
        return run_in_pool(
            partial(execute, self.hydra_context, self.task_function),
            [job.config for job in jobs],
            jobs[0].config,
            processes,
            share_out(cores(), processes, self.threads, jobs),
            lambda index, result: self.ended(jobs[index], next(place), len(jobs), result),
        )
