"""Runs the jobs left of a sweep, survives failing jobs and launchers, and reports every job's status."""

import json
import logging
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher

from rlexp.config.schema import TUNING_SEED
from rlexp.config.search_path import untuned
from rlexp.errors import UserError
from rlexp.files import write_atomically
from rlexp.jobs.extend_from import find_extended, is_extending
from rlexp.jobs.log import same_command
from rlexp.provenance.code_state import code_state
from rlexp.run.declared import otherwise
from rlexp.run.lock import FolderLock
from rlexp.study.status import planned, read_job_status
from rlexp.study.table import table
from rlexp.sweep.launchers.base import JobLauncher, Result, note
from rlexp.sweep.plan import UNFINISHED, Planned, changes, summary
from rlexp.sweep.queue import settle
from rlexp.sweep.reserve import reserving
from rlexp.text import one_line

log = logging.getLogger(__name__)

DYING = 5.0  # seconds to wait for a broken launcher's workers to exit


class SweepError(UserError):
    """Jobs of a sweep failed."""


def run_all(launcher: Launcher, jobs: Sequence[Planned], retry_failed: bool) -> None:
    """Run the jobs that are left, then print the status of all; raises SweepError if some failed or did not finish.

    So it does if some are left in a queue, unless the launcher leaves its jobs, too.
    """
    waits = bool(getattr(launcher, "wait", True))
    with reserving(jobs):
        lines, kept = settle(launcher, jobs)
        for line in lines:
            print(line, flush=True)
        left = [job for job in jobs if job.is_left(retry_failed) and job not in kept]
        if not waits:  # a place in the queue for nothing
            left = [job for job in left if not job.is_paused()]
        left.sort(key=lambda job: job.status() == "killed")  # come last: what killed them may kill the sweep again
        print(summary(jobs, left), flush=True)
        for line in [*untuned([planned.config.hydra for planned in jobs]), *changes(jobs)]:
            print(line, flush=True)
        for line in write_plan(jobs):
            print(line, flush=True)
        try:
            dispatch(launcher, left)
        finally:
            studies = {job.study for job in jobs}
            root = studies.pop() if len(studies) == 1 else Path(str(jobs[0].cfg.outputs))
            print(table([read_job_status(job.folder) for job in jobs], root), flush=True)
    failed = [job for job in jobs if job.has_failed()]
    unfinished = [job for job in left if job.cfg.stop_at is None and job.status() in UNFINISHED]
    remarks = []
    if failed:
        remarks.append(f"{len(failed)} of {len(jobs)} jobs failed; retry_failed=true reruns them")
    elif unfinished:
        remarks.append(
            f"{len(unfinished)} of {len(jobs)} jobs did not finish; {same_command(jobs[0].overrides)} resumes them"
        )
    queued_jobs = [job for job in jobs if job.status() == "queued"]
    if queued_jobs and waits:
        remarks.append(
            f"{len(queued_jobs)} of {len(jobs)} jobs are still queued on a cluster; this command waits for none"
        )
    if remarks:
        raise SweepError("; ".join(remarks))


def dispatch(launcher: Launcher, jobs: Sequence[Planned]) -> None:
    """Run the jobs with a launcher; if it breaks, as process pools do when a worker dies, launch the rest again.

    Jobs that were running when it broke come last, one at a time, so that a second break identifies the culprit.
    """
    waiting, suspects = list(jobs), list[Planned]()
    while waiting or suspects:
        alone = not waiting
        batch = waiting or [suspects.pop(0)]
        waiting = []
        results: Sequence[Result]
        try:
            if isinstance(launcher, JobLauncher):
                results = launcher.launch_jobs(batch)
            else:
                results = launcher.launch([job.launch_overrides for job in batch], initial_job_idx=0)
        except (UserError, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # whatever a library raises when its workers die
            deadline = time.monotonic() + DYING  # for the other workers to exit; jobs of other sweeps may keep running
            while any(job.status() == "elsewhere" for job in batch) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not any(any(job.folder.glob("*")) for job in batch):
                raise SweepError(f"hydra/launcher: could not start any job ({one_line(error)})") from error
            unfinished = [job for job in batch if job.status() in UNFINISHED]
            died = [job for job in unfinished if job.status() == "killed"]
            if alone or not died:
                batch, results = unfinished, [error] * len(unfinished)
            else:
                log.warning("a process died (%s); the other jobs continue", one_line(str(error), 120))
                suspects += died
                waiting = [job for job in unfinished if job not in died]
                continue
        for job, result in zip(batch, results, strict=True):
            note(job, result)


# The plan ------------------------------------------------------------------------------------------------------------


def write_plan(jobs: Sequence[Planned]) -> list[str]:
    """Add all jobs to their studies' sweep.json, so that jobs that never start are known too.

    Returns a line for each declaration that differs from an earlier one of the same jobs, which stays.
    """
    differing: Counter[str] = Counter()
    for study in dict.fromkeys(job.study for job in jobs):
        study.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(study)
        lock.wait()  # other processes hold it only for a moment
        with lock:
            path = study / "sweep.json"
            planned(study)  # raises if it is damaged
            content: dict[str, Any] = {"jobs": {}, "launches": []}
            content |= json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            study_jobs = [job for job in jobs if job.study == study]
            for job in study_jobs:
                name = str(job.folder.relative_to(study))
                content["jobs"][name] = entry = _entry(job, content["jobs"].get(name))
                differing.update(filter(None, [otherwise(entry, job.declared)]))
            state = code_state()
            launch = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "command": shlex.join(["python", "-m", "rlexp.train", *sys.argv[1:]]),
                "jobs": len(study_jobs),
            }
            content["launches"].append(launch | {key: state[key] for key in ("commit", "dirty", "code")})
            write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return [f"{line} ({count} of {len(jobs)} jobs)" for line, count in differing.items()]


def _entry(job: Planned, earlier: Any) -> dict[str, Any]:
    """A job's entry in sweep.json; earlier: the one that is there.

    With what run.json will say of seeds and config, by which `compare` knows the arm of a job that never starts; for
    trials of a tuning, which it leaves out, without them.
    """
    known: dict[str, Any] = {"overrides": job.overrides}
    if all(seed < TUNING_SEED for seed in job.seeds):
        known |= {"seeds": job.seeds, "choices": job.choices, "config": job.settings}
    record = job.record
    if isinstance(earlier, dict) and "declared" in earlier:
        source = earlier
    elif record:  # it has started, perhaps without a declaration
        source = record
    elif is_extending(job.cfg) and not job.has_checkpoint():
        source = find_extended(job.cfg, job.settings).record
    else:
        source = {"declared": job.declared.entry}
    return known | {key: source[key] for key in ("declared",) if key in source}
