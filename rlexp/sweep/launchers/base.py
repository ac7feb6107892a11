"""Launchers: where and how the jobs of a sweep run. What became of a job is read from its folder, not from them."""

import importlib
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlexp.errors import ConfigError, UserError
from rlexp.study.status import read_job_status
from rlexp.sweep.plan import Composer, Planned, plan
from rlexp.sweep.reserve import reserving
from rlexp.text import number, one_line

Result = JobReturn | Exception | None  # None: stopped, or not begun


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
    done.cfg = done.hydra_cfg = None  # copies, which would stay until the sweep ends, a third of a megabyte a job
    error = done._return_value
    if isinstance(error, UserError):  # whose frames would keep the job's config, and what it was made of
        error.__traceback__ = error.__cause__ = error.__context__ = None
    elif done.status == JobStatus.FAILED:
        # one of somebody else's class may not travel between processes
        done.return_value = RuntimeError(one_line(error))
    return done


class JobLauncher(Launcher):
    """Base of the launchers here: they take composed jobs."""

    needs: tuple[str, str] | None = None  # a module, and the extra that brings it

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over.

        Raises:
            ConfigError: what the launcher needs is not installed.
        """
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        if self.needs is not None:
            require(*self.needs)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What sweepers of others call."""
        jobs = plan(Composer(self.hydra_context.config_loader, self.config), job_overrides)
        with reserving(jobs):
            results = list(self.launch_jobs(jobs))
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

    def ended(self, job: Planned, place: int, total: int, result: Result) -> None:
        """Tell what came of a job: what it left in its folder, or the error that kept it from leaving anything."""
        now = read_job_status(job.job.folder)
        status, more = now.status, "" if now.score is None else f", return {number(now.score)}"
        error = result._return_value if isinstance(result, JobReturn) and result.status == JobStatus.FAILED else None
        if status == "failed" or error is not None:
            status, more = "failed", f": {now.error if status == 'failed' else error}"
        elif status == "interrupted" and now.error:
            status = now.error  # paused at 256 steps
        print(f"[{place}/{total}] {status}: {job.name}{more}", flush=True)


class Basic(JobLauncher):
    """One job after the other in this process."""

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        results = []
        for place, job in enumerate(jobs, 1):
            self.begun(job, place, len(jobs))
            results.append(execute(self.hydra_context, self.task_function, job.config))
            if results[-1].status == JobStatus.FAILED:  # one that is done has said so itself
                self.ended(job, place, len(jobs), results[-1])
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
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"hydra/launcher: this one needs {error.name}, which is not installed: pip install 'rlexp[{extra}]'"
        ) from None


def require_whole(name: str, value: Any, least: int | None = None) -> int:
    """A launcher's setting as a whole number.

    Raises:
        ConfigError: it is none, or less than `least`; without `least`, it is 0.
    """
    good = isinstance(value, int) and not isinstance(value, bool) and (value != 0 if least is None else value >= least)
    if not good:
        wanted = "not 0" if least is None else f"at least {least}"
        raise ConfigError(f"hydra.launcher.{name}={value}: must be a whole number, {wanted}")
    return int(value)
