"""The submitit launcher: runs jobs on a Slurm cluster, or in local processes that imitate one."""

import contextlib
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction

from rlexp.errors import ConfigError, UserError
from rlexp.run import queued
from rlexp.study import slurm
from rlexp.sweep.launchers.base import (
    JobLauncher,
    Result,
    execute,
    note,
    require_flag,
    require_whole,
    threads_per_process,
)
from rlexp.sweep.launchers.worker import prepare, stop_on_file, stoppable
from rlexp.sweep.plan import Planned
from rlexp.sweep.queue import NotSubmittedError, leave, told, unsure_of
from rlexp.text import one_line

SLURM_CODES = re.compile(r"%[0-9]*[A-Za-z]")  # in names of files
POLL = 0.5  # seconds between polls of local jobs; Slurm is polled a tenth as often
# what sbatch says of a controller that did not answer, though it may have got the job
UNSURE = (
    r"timed out|zero bytes|transmi|send/recv|(send|receive|shutdown) failure|connection reset|broken pipe|"
    r"not connected|header length|message length|unexpected (message|missing)|interrupt"
)


@dataclass
class OnNode:
    """Runs one job on its node.

    Before preemption or timeout the cluster sends SIGUSR2: the run is saved, then submitit requeues the job, which
    resumes from its checkpoint.
    """

    context: HydraContext
    task_function: TaskFunction
    job: Planned
    threads: int
    stop: Path | None  # a file that exists once the sweep has been stopped; None on Slurm, where jobs outlive the sweep

    def __call__(self) -> JobReturn | None:
        """Run it; None if the sweep was stopped."""
        os.environ["OMP_NUM_THREADS"] = str(self.threads)  # torch is not imported yet
        prepare(self.job.config)
        try:
            with stop_on_file(self.stop) if self.stop else contextlib.nullcontext():
                result = execute(self.context, self.task_function, self.job.config)
                if self.stop is None:  # the sweep may have left
                    note(self.job, result, alone=True)
                return result
        except SystemExit as stop:
            if self.stop is not None and self.stop.exists():
                return None  # if the process exited instead, submitit would take half a minute to notice
            # The run is saved. Exiting now would look like success to Slurm; instead wait to be killed, and Slurm
            # requeues the job if it was preempted, or not if it was cancelled.
            while stop.code == 128 + signal.SIGTERM and "SLURM_JOB_ID" in os.environ:
                time.sleep(1)
            raise

    def checkpoint(self) -> Any:
        """What submitit requeues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Submitit(JobLauncher):
    """Runs jobs on a Slurm cluster, or in local processes that imitate one.

    The settings: conf/hydra/launcher/submitit_slurm.yaml and submitit_local.yaml.
    """

    needs = ("submitit", "slurm")

    def __init__(
        self,
        cluster: Literal["slurm", "local"],
        wait: bool = True,
        n_jobs: int | None = None,
        timeout_min: float = 60,
        signal_delay_s: int = 120,
        max_num_timeout: int = 100,
        cpus_per_task: int = 1,
        mem_gb: float | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.cluster, self.wait = cluster, require_flag("wait", wait)
        if cluster == "local" and not wait:
            raise ConfigError(
                "hydra.launcher.wait=false: the processes of submitit_local end with this command; submitit_slurm and "
                "ray leave their jobs on a cluster"
            )
        self.n_jobs = None if n_jobs is None else require_whole("n_jobs", n_jobs, least=1)
        self.cpus_per_task = require_whole("cpus_per_task", cpus_per_task, least=1)
        self.max_num_timeout = require_whole("max_num_timeout", max_num_timeout, least=0)
        require_whole("signal_delay_s", signal_delay_s, least=1)
        if cluster == "local":
            options: dict[str, Any] = {"timeout_min": timeout_min, "signal_delay_s": signal_delay_s}
        else:
            options = {"time": math.ceil(timeout_min), "signal_delay_s": signal_delay_s, "cpus_per_task": cpus_per_task}
            options |= {"job_name": "rlexp"}
            options |= {} if n_jobs is None else {"array_parallelism": n_jobs}
            options |= {} if mem_gb is None else {"mem": f"{mem_gb:g}GB"}
        self.parameters = options | dict(parameters or {})

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Submit the jobs and wait for them, or with wait=false leave them in Slurm's queue."""
        if self.cluster == "slurm":
            return self._on_slurm(jobs)
        executor = self._executor(jobs)
        cores = len(os.sched_getaffinity(0))
        at_once = min(self.n_jobs or max(1, cores // self.cpus_per_task), len(jobs))
        threads_per_process(cores, at_once, self.cpus_per_task, jobs)
        with stoppable() as stop:

            def submit(index: int) -> Any:
                return executor.submit(self._on_node(jobs[index], stop.path))

            return self.collect(jobs, self._ended(jobs, submit, at_once, stop.path.exists))

    def _executor(self, jobs: Sequence[Planned]) -> Any:
        import submitit

        kind: Any = submitit.SlurmExecutor if self.cluster == "slurm" else submitit.LocalExecutor
        executor = kind(_logs(jobs), max_num_timeout=self.max_num_timeout)
        executor.update_parameters(**self.parameters)
        return executor

    def _on_node(self, job: Planned, stop: Path | None) -> OnNode:
        return OnNode(self.hydra_context, self.task_function, job, self.cpus_per_task, stop)

    def _on_slurm(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Queue all jobs at once, each with a mark in its folder; they stay queued if this process ends."""
        if code := SLURM_CODES.search(str(_logs(jobs).absolute())):
            raise ConfigError(f"outputs={jobs[0].cfg.outputs}: Slurm reads {code[0]} as a code; choose another folder")
        submitted: list[Any] = []

        def submit(mine: Sequence[Planned]) -> list[str]:
            before = _scripts(mine)
            try:
                executor = self._executor(mine)
                with executor.batch():
                    submitted.extend(executor.submit(self._on_node(job, None)) for job in mine)
            except Exception as error:  # of submitit, or of sbatch
                if _scripts(mine) == before or _is_refusal(error):
                    raise NotSubmittedError(f"hydra/launcher: could not start any job ({one_line(error)})") from error
                raise UserError(f"hydra/launcher: {unsure_of(mine)} ({one_line(error)})") from error
            return [str(job.job_id) for job in submitted]

        clusters = _clusters(self.parameters)
        controller = None if clusters else slurm.cluster_name()
        mine = leave("slurm", jobs, submit, clusters=clusters, controller=controller)
        if not self.wait:
            if mine:
                ids = [str(job.job_id) for job in submitted]
                span = ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
                whole = ids[0].partition("_")[0]
                where = f"{len(ids)} jobs are in Slurm's queue ({span}), logs in {_logs(jobs)}"
                there = f" --clusters={clusters}" if clusters else ""
                print(told(where, mine, f"squeue{there} --jobs={whole}", f"scancel{there} {whole}"), flush=True)
            return [None] * len(jobs)
        if not mine:  # another command has submitted them meanwhile
            return [None] * len(jobs)
        queued_jobs = f"{len(mine)} jobs are in Slurm's queue, logs in {_logs(jobs)}"
        print(f"{queued_jobs}; Ctrl-C stops waiting, not the jobs", flush=True)
        try:
            results = self.collect(mine, self._ended(mine, lambda index: submitted[index], len(mine), lambda: False))
            by_job = dict(zip(mine, results, strict=True))
            return [by_job.get(job) for job in jobs]
        except KeyboardInterrupt:
            print(f"stopped waiting; the jobs continue: python -m rlexp.study status {jobs[0].study}", flush=True)
            raise SystemExit(130) from None

    def _ended(
        self, jobs: Sequence[Planned], submit: Callable[[int], Any], at_once: int, stopped: Callable[[], bool]
    ) -> Iterator[tuple[int, Result]]:
        """Keep `at_once` jobs running until all have ended; yields index and result of each as it ends."""
        local, waiting, running = self.cluster == "local", list(range(len(jobs))), dict[int, Any]()
        while running or waiting:
            if stopped():
                waiting.clear()
            while waiting and len(running) < at_once:
                index = waiting.pop(0)
                running[index] = submit(index)
            for index, job in list(running.items()):
                if local:
                    ended = job.get_info()["jobState"] != "RUNNING"
                else:
                    ended = job.done() or jobs[index].status() == "done"  # Slurm without accounting cannot tell
                if ended:
                    del running[index]
                    if not local:
                        queued.remove(jobs[index].folder)
                    yield index, _result_of(job)
            time.sleep(POLL if local else 10 * POLL)


def _logs(jobs: Sequence[Planned]) -> Path:
    return jobs[0].study / ".submitit"


def _clusters(parameters: Mapping[str, Any]) -> str | None:
    """Slurm's clusters that sbatch may choose from: of its variables, which come first, or of the settings."""
    settings = parameters.get("additional_parameters") or {}
    found = os.environ.get("SBATCH_CLUSTERS") or os.environ.get("SLURM_CLUSTERS")
    found = found or settings.get("clusters") or settings.get("M")
    return str(found) if found else None


def _scripts(jobs: Sequence[Planned]) -> set[Path]:
    """What submitit has written for sbatch; it writes one just before it calls sbatch."""
    return set(_logs(jobs).glob(".submission_file_*"))


def _is_refusal(error: Exception) -> bool:
    """Whether sbatch certainly submitted nothing: it could not be started, or says why it did not."""
    if isinstance(error, OSError) and error.filename == "sbatch":
        return True
    cause = error.__cause__
    if not isinstance(cause, subprocess.CalledProcessError) or cause.returncode <= 0:
        return False
    return bool(cause.stderr) and not re.search(UNSURE, cause.stderr, re.IGNORECASE)


def _result_of(job: Any) -> Result:
    """Result of a job that has ended, or the exception that submitit raises for it."""
    try:
        return job.result()
    except Exception as error:  # it left no result: killed, cancelled or out of memory
        return error
