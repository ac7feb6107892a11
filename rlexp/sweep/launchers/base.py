"""Base class of the launchers, and the one that runs jobs in this process; a job's folder tells how it ended."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlexp.errors import ConfigError, LoggerError, UserError
from rlexp.extras import require
from rlexp.run.declared import declare
from rlexp.run.queued import Queued
from rlexp.run.record import RunRecord
from rlexp.study.status import read_job_status
from rlexp.sweep.compose import Composer
from rlexp.sweep.plan import UNFINISHED, Planned, plan
from rlexp.sweep.reserve import reserving
from rlexp.text import number, one_line

Result = JobReturn | Exception | None  # None: stopped, or not started


def execute(context: HydraContext, task_function: TaskFunction, config: DictConfig) -> JobReturn:
    """Run one job in this process; raises SystemExit if a signal stops it."""
    setup_globals()
    done = run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        configure_logging=False,
    )
    done.cfg = done.hydra_cfg = None  # copies that would live until the sweep ends, .3 MB per job
    error = done._return_value
    if isinstance(error, UserError):  # its frames would keep the job's config and environments alive
        error.__traceback__ = error.__cause__ = error.__context__ = None
    elif done.status == JobStatus.FAILED:
        done.return_value = RuntimeError(one_line(error))  # those of third-party classes may not be picklable
    return done


class JobDied(Exception):
    """The process of a job was killed or ran out of memory."""


def note(job: Planned, result: Result, alone: bool = False) -> None:
    """Record a failure that the job itself did not record in its folder.

    alone: nobody else tells of it, as the sweep may have left.
    """
    status = job.own_status()
    if isinstance(result, Exception) and status in ("waiting", "killed"):
        error: Exception = JobDied(f"its process was killed or ran out of memory ({one_line(result, 300)})")
    elif isinstance(result, JobReturn) and result.status == JobStatus.FAILED and status in UNFINISHED:
        error = result._return_value
        if isinstance(error, LoggerError) and not alone:  # the job itself is not to blame, and trains without
            return
    else:
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    record = RunRecord(job.folder)
    declare(record, job.declared)
    record.fail(error, job.settings, job.seeds)


def ending(job: Planned, result: Result) -> str:
    """How a job ended, in one line: the status in its folder, or the error that kept it from writing one."""
    now = read_job_status(job.folder)
    status, more = now.status, "" if now.score is None else f", return {number(now.score)}"
    error = result._return_value if isinstance(result, JobReturn) and result.status == JobStatus.FAILED else None
    if status == "failed" or error is not None:
        status, more = "failed", f": {now.error if status == 'failed' else error}"
    elif status == "interrupted" and now.error:
        status = now.error  # paused at 256 steps
    return f"{status}: {job.name}{more}"


class JobLauncher(Launcher):
    """Base class of the launchers; takes composed jobs."""

    needs: tuple[str, str] | None = None  # a module, and the extra that installs it
    wait = True  # for the jobs to end; False: `launch_jobs` leaves them in a queue, see `queue.leave`

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes to its plugins; raises ConfigError if a package that is needed is not installed."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        if self.needs is not None:
            module, extra = self.needs
            require(module, extra, "hydra/launcher")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's interface, for third-party sweepers."""
        jobs = plan(Composer(self.hydra_context.config_loader, self.config), job_overrides)
        with reserving(jobs):
            results = self.launch_jobs(jobs)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [result or JobReturn() for result in results if not isinstance(result, Exception)]

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs; returns a result for each.

        Raises:
            SystemExit: a signal stopped the sweep.
            Exception: the launcher broke; the jobs' folders tell how each ended.
        """
        raise NotImplementedError

    def collect(self, jobs: Sequence[Planned], ended: Iterable[tuple[int, Result]]) -> list[Result]:
        """Print how each job ended, as its index and result come in; returns all results, None for the others."""
        results: list[Result] = [None] * len(jobs)
        for position, (index, result) in enumerate(ended, 1):
            results[index] = result
            self.print_end(jobs[index], position, len(jobs), result)
        return results

    def print_end(self, job: Planned, position: int, total: int, result: Result) -> None:
        """Print how a job ended."""
        print(f"[{position}/{total}] {ending(job, result)}", flush=True)

    def still_queued(self, marks: Collection[Queued]) -> Mapping[Queued, bool]:
        """Whether each job is in its queue or runs; without those of which this launcher cannot know."""
        return {}


class Basic(JobLauncher):
    """Runs jobs one after the other in this process."""

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        results = []
        for position, job in enumerate(jobs, 1):
            print(f"[{position}/{len(jobs)}] {job.name}", flush=True)
            results.append(execute(self.hydra_context, self.task_function, job.config))
            if results[-1].status == JobStatus.FAILED:  # a finished job has printed its result
                self.print_end(job, position, len(jobs), results[-1])
        return results


def threads_per_process(cores: int, processes: int, threads: int | None, jobs: Sequence[Planned]) -> int:
    """Threads of each process, else an equal share of the cores; more in total than cores are refused."""
    each = threads or max(1, cores // processes)
    asked = max([each, *(int(job.cfg.torch_threads or 0) for job in jobs)])
    if asked * processes > cores and asked > 1:
        raise ConfigError(
            f"torch_threads={asked} with {processes} jobs at a time is {asked * processes} threads on {cores} cores, "
            f"which slow each other down; use torch_threads={max(1, cores // processes)}, or a smaller "
            f"hydra.launcher.n_jobs"
        )
    return each


def require_flag(name: str, value: Any) -> bool:
    """Refuse a launcher's setting unless it is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"hydra.launcher.{name}={value}: must be true or false")
    return value


def require_whole(name: str, value: Any, least: int | None = None) -> int:
    """Refuse a launcher's setting unless it is an integer of at least `least`, or not 0 if that is None."""
    good = isinstance(value, int) and not isinstance(value, bool) and (value != 0 if least is None else value >= least)
    if not good:
        wanted = "not 0" if least is None else f"at least {least}"
        raise ConfigError(f"hydra.launcher.{name}={value}: must be a whole number, {wanted}")
    return int(value)
