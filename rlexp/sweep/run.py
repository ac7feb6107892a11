"""Running what is left of a sweep, whatever becomes of single jobs and of the launcher, and telling how it ended."""

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
from rlexp.sweep.plan import Planned, changes, outlook
from rlexp.sweep.reserve import reserving
from rlexp.text import one_line

log = logging.getLogger(__name__)

UNFINISHED = ("waiting", "killed", "interrupted")
DYING = 5.0  # seconds
PLAN = "sweep.json"  # of a study: its jobs, and who launched them when


class SweepError(UserError):
    """Jobs of a sweep have failed."""


class JobDied(Exception):
    """The process of a job was killed, or ran out of memory."""


def run_all(launcher: Launcher, jobs: Sequence[Planned], retry_failed: bool) -> None:
    """Run what is left of the jobs, then tell how each stands.

    Raises:
        SweepError: some have failed.
        SystemExit: a signal stopped the sweep.
    """
    with reserving(jobs):
        left = in_order([job for job in jobs if job.is_left(retry_failed)])
        print(outlook(jobs, left), flush=True)
        for line in [*untuned([planned.config.hydra for planned in jobs]), *changes(jobs)]:
            print(line, flush=True)
        write_plan(jobs)
        try:
            dispatch(launcher, left)
        finally:
            print(ending(jobs), flush=True)
    failed = [job for job in jobs if job.has_failed()]
    if failed:
        raise SweepError(f"{len(failed)} of {len(jobs)} jobs failed; retry_failed=true runs them again")
    unfinished = [job for job in left if job.job.cfg.stop_at is None and job.standing() in UNFINISHED]
    if unfinished:
        raise SweepError(f"{len(unfinished)} of {len(jobs)} jobs have not come to an end; the same command goes on")


def in_order(jobs: Sequence[Planned]) -> list[Planned]:
    """Those whose process died come last: what killed it may kill the sweep again."""
    return sorted(jobs, key=lambda job: job.standing() == "killed")


def dispatch(launcher: Launcher, jobs: Sequence[Planned]) -> None:
    """Have a launcher run the jobs. If it breaks, as pools of processes do when one of them dies, the rest runs anew.

    Jobs that were running when it broke come last, each alone, so that a second break can be laid to its charge.
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
            _wait_for_the_dying(batch)
            if not any(job.has_begun() for job in batch):
                line = one_line(error)
                raise SweepError(f"hydra/launcher: could not start any job ({line})") from error
            unfinished = [job for job in batch if job.standing() in UNFINISHED]
            died = [job for job in unfinished if job.standing() == "killed"]
            if alone or not died:
                for job in unfinished:
                    note_death(job, error)
                continue
            log.warning("a process died (%s); the others go on", one_line(str(error), 120))
            suspects += died
            waiting = [job for job in unfinished if job not in died]
        else:
            for job, result in zip(batch, results, strict=True):
                _note(job, result)


def _wait_for_the_dying(jobs: Sequence[Planned]) -> None:
    """A launcher that breaks kills its other workers, too, which takes a moment; other sweeps' jobs may go on."""
    deadline = time.monotonic() + DYING
    while any(job.standing() == "elsewhere" for job in jobs) and time.monotonic() < deadline:
        time.sleep(0.1)


def _launch(launcher: Launcher, jobs: Sequence[Planned]) -> Sequence[Result]:
    if isinstance(launcher, JobLauncher):
        return launcher.launch_jobs(jobs)
    return launcher.launch([job.words for job in jobs], initial_job_idx=0)


def _note(job: Planned, result: Result) -> None:
    """Leave in the folder what the job itself could not, or did not, leave there."""
    if isinstance(result, Exception):
        note_death(job, result)
    elif result is not None and result.status == JobStatus.FAILED and job.standing() in UNFINISHED:
        _fail(job, result._return_value)


def note_death(job: Planned, error: Exception) -> None:
    """Mark a job as failed whose process could not do so, unless it ended, was saved, or runs."""
    if job.standing() in ("waiting", "killed"):
        line = one_line(error, 300)
        _fail(job, JobDied(f"its process was killed or ran out of memory ({line})"))


def _fail(job: Planned, error: Exception) -> None:
    job.job.folder.mkdir(parents=True, exist_ok=True)
    RunRecord(job.job.folder).fail(error, job.job.settings, job.job.seeds)


# The plan ------------------------------------------------------------------------------------------------------------


def write_plan(jobs: Sequence[Planned]) -> None:
    """Note all jobs in sweep.json of their studies, beside those of earlier launches: so those not begun are known."""
    by_study: dict[Path, list[Planned]] = {}
    for job in jobs:
        by_study.setdefault(study_of(job), []).append(job)
    for study, own in by_study.items():
        study.mkdir(parents=True, exist_ok=True)
        with _waiting_for(study):
            path = study / PLAN
            planned(study)  # refuses one that is damaged, in one line
            content: dict[str, Any] = (
                json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"jobs": {}, "launches": []}
            )
            content.setdefault("launches", [])
            for job in own:
                content["jobs"][str(job.job.folder.relative_to(study))] = {"overrides": job.job.overrides}
            state = code_state()
            content["launches"].append(
                {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "command": shlex.join(["python", "-m", "rlexp.train", *sys.argv[1:]]),
                    "jobs": len(own),
                    **{key: state[key] for key in ("commit", "dirty", "code")},
                }
            )
            write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def study_of(job: Planned) -> Path:
    """Folder of the study that a job belongs to."""
    return Path(str(job.job.cfg.outputs)) / str(job.job.cfg.study)


@contextlib.contextmanager
def _waiting_for(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, for which others are waited: they have it for a moment."""
    lock = FolderLock(folder)
    while not lock.acquire():
        time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()


def ending(jobs: Sequence[Planned]) -> str:
    """The table of all jobs."""
    studies = {study_of(job) for job in jobs}
    root = studies.pop() if len(studies) == 1 else Path(str(jobs[0].job.cfg.outputs))
    return table([read_job_status(job.job.folder) for job in jobs], root)
