"""Runs the jobs left of a sweep, survives failing jobs and launchers, and reports every job's status."""

import contextlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher

from rlexp.config.tuned import untuned
from rlexp.errors import UserError
from rlexp.files import write_atomically
from rlexp.provenance.code_state import code_state
from rlexp.run.lock import FolderLock
from rlexp.run.record import RunRecord
from rlexp.study.status import planned, read_job_status, table
from rlexp.sweep.launchers.base import JobLauncher, Result
from rlexp.sweep.plan import Planned, changes, summary
from rlexp.sweep.reserve import reserving
from rlexp.text import one_line

log = logging.getLogger(__name__)

UNFINISHED = ("waiting", "killed", "interrupted")
DYING = 5.0  # seconds to wait for a broken launcher's workers to exit
PLAN = "sweep.json"  # of a study: its jobs and launches


class SweepError(UserError):
    """Jobs of a sweep failed."""


class JobDied(Exception):
    """The process of a job was killed or ran out of memory."""


def run_all(launcher: Launcher, jobs: Sequence[Planned], retry_failed: bool) -> None:
    """Run the jobs that are left, then print the status of all.

    Raises:
        SweepError: jobs failed or did not finish.
        SystemExit: a signal stopped the sweep.
    """
    with reserving(jobs):
        left = in_order([job for job in jobs if job.is_left(retry_failed)])
        print(summary(jobs, left), flush=True)
        for line in [*untuned([planned.config.hydra for planned in jobs]), *changes(jobs)]:
            print(line, flush=True)
        write_plan(jobs)
        try:
            dispatch(launcher, left)
        finally:
            print(status_table(jobs), flush=True)
    failed = [job for job in jobs if job.has_failed()]
    if failed:
        raise SweepError(f"{len(failed)} of {len(jobs)} jobs failed; retry_failed=true reruns them")
    unfinished = [job for job in left if job.job.cfg.stop_at is None and job.status() in UNFINISHED]
    if unfinished:
        raise SweepError(f"{len(unfinished)} of {len(jobs)} jobs did not finish; the same command resumes them")


def in_order(jobs: Sequence[Planned]) -> list[Planned]:
    """Jobs whose process died come last: what killed it may kill the sweep again."""
    return sorted(jobs, key=lambda job: job.status() == "killed")


def dispatch(launcher: Launcher, jobs: Sequence[Planned]) -> None:
    """Run the jobs with a launcher; if it breaks, as process pools do when a worker dies, launch the rest again.

    Jobs that were running when it broke come last, one at a time, so that a second break identifies the culprit.
    """
    waiting, suspects = list(jobs), list[Planned]()
    while waiting or suspects:
        alone = not waiting
        batch = waiting or [suspects.pop(0)]
        waiting = []
        try:
            results = _launch(launcher, batch)
        except (UserError, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # whatever a library raises when its workers die
            _wait_for_workers(batch)
            if not any(job.has_started() for job in batch):
                line = one_line(error)
                raise SweepError(f"hydra/launcher: could not start any job ({line})") from error
            unfinished = [job for job in batch if job.status() in UNFINISHED]
            died = [job for job in unfinished if job.status() == "killed"]
            if alone or not died:
                for job in unfinished:
                    note_death(job, error)
                continue
            log.warning("a process died (%s); the other jobs continue", one_line(str(error), 120))
            suspects += died
            waiting = [job for job in unfinished if job not in died]
        else:
            for job, result in zip(batch, results, strict=True):
                _note(job, result)


def _wait_for_workers(jobs: Sequence[Planned]) -> None:
    """Wait until the other workers of a broken launcher have exited; jobs of other sweeps may keep running."""
    deadline = time.monotonic() + DYING
    while any(job.status() == "elsewhere" for job in jobs) and time.monotonic() < deadline:
        time.sleep(0.1)


def _launch(launcher: Launcher, jobs: Sequence[Planned]) -> Sequence[Result]:
    if isinstance(launcher, JobLauncher):
        return launcher.launch_jobs(jobs)
    return launcher.launch([job.overrides for job in jobs], initial_job_idx=0)


def _note(job: Planned, result: Result) -> None:
    """Record a failure that the job itself did not record in its folder."""
    if isinstance(result, Exception):
        note_death(job, result)
    elif result is not None and result.status == JobStatus.FAILED and job.status() in UNFINISHED:
        _fail(job, result._return_value)


def note_death(job: Planned, error: Exception) -> None:
    """Mark a job as failed if its process died before it could finish, save or fail by itself."""
    if job.status() in ("waiting", "killed"):
        line = one_line(error, 300)
        _fail(job, JobDied(f"its process was killed or ran out of memory ({line})"))


def _fail(job: Planned, error: Exception) -> None:
    job.job.folder.mkdir(parents=True, exist_ok=True)
    RunRecord(job.job.folder).fail(error, job.job.settings, job.job.seeds)


# The plan ------------------------------------------------------------------------------------------------------------


def write_plan(jobs: Sequence[Planned]) -> None:
    """Add all jobs to their studies' sweep.json, so that jobs that never start are known too."""
    by_study: dict[Path, list[Planned]] = {}
    for job in jobs:
        by_study.setdefault(study_of(job), []).append(job)
    for study, study_jobs in by_study.items():
        study.mkdir(parents=True, exist_ok=True)
        with _locked(study):
            path = study / PLAN
            planned(study)  # raises if it is damaged
            content: dict[str, Any] = (
                json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"jobs": {}, "launches": []}
            )
            content.setdefault("launches", [])
            for job in study_jobs:
                content["jobs"][str(job.job.folder.relative_to(study))] = {"overrides": job.job.overrides}
            state = code_state()
            content["launches"].append(
                {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "command": shlex.join(["python", "-m", "rlexp.train", *sys.argv[1:]]),
                    "jobs": len(study_jobs),
                    **{key: state[key] for key in ("commit", "dirty", "code")},
                }
            )
            write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def study_of(job: Planned) -> Path:
    """Folder of the job's study."""
    return Path(str(job.job.cfg.outputs)) / str(job.job.cfg.study)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, waiting for other processes: they hold it only for a moment."""
    lock = FolderLock(folder)
    while not lock.acquire():
        time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()


def status_table(jobs: Sequence[Planned]) -> str:
    """Status of all jobs as a table."""
    studies = {study_of(job) for job in jobs}
    root = studies.pop() if len(studies) == 1 else Path(str(jobs[0].job.cfg.outputs))
    return table([read_job_status(job.job.folder) for job in jobs], root)
