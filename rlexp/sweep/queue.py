"""Jobs in a cluster's queue: `leave` submits and marks them, `settle` sees to those that an earlier command left."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from hydra.plugins.launcher import Launcher

from rlexp.errors import UserError
from rlexp.run import queued
from rlexp.run.lock import FolderLock
from rlexp.run.queued import QUEUES, Queued
from rlexp.signals import signals_later
from rlexp.study import slurm
from rlexp.sweep.launchers.base import JobLauncher, ending
from rlexp.sweep.plan import Planned

MOST_NAMED = 3  # jobs in one line


class NotSubmittedError(UserError):
    """Jobs were not submitted, none of them, and that is certain."""


def leave(
    queue: str,
    jobs: Sequence[Planned],
    submit: Callable[[Sequence[Planned]], Sequence[str]],
    ids: Callable[[int], str] = lambda place: "",
    clusters: str | None = None,
    controller: str | None = None,
) -> list[Planned]:
    """Mark and submit jobs, but none that another command has submitted meanwhile; returns those submitted.

    The marks are there first, and stay unless `submit` raises NotSubmittedError.

    Args:
        queue: one of QUEUES.
        jobs: to be submitted.
        submit: submits those that it is given, all or none; returns their ids in the queue.
        ids: of the job at that place, where it is known before.
        clusters: see `Queued`.
        controller: see `Queued`.
    """
    with study_locks(jobs):
        mine = [job for job in jobs if job.status() not in ("queued", "elsewhere", "done")]
        if not mine:
            return []
        marks = [
            queued.entry(queue, ids(place), queued.digest(job.folder), clusters, controller)
            for place, job in enumerate(mine)
        ]
        try:
            for job, mark in zip(mine, marks, strict=True):
                queued.write(job.folder, mark)
        except BaseException:
            _unmark(mine)
            raise
        try:
            found = submit(mine)
        except NotSubmittedError:
            _unmark(mine)
            raise
        with signals_later():
            for job, mark, id in zip(mine, marks, found, strict=True):
                if mark.id != id:
                    queued.write(job.folder, replace(mark, id=id))
    return mine


def _unmark(jobs: Sequence[Planned]) -> None:
    for job in jobs:
        with contextlib.suppress(OSError):  # its folder could not be made
            queued.remove(job.folder)


def told(queued_jobs: str, jobs: Sequence[Planned], look: str, stop: str) -> str:
    """What a command says that leaves its jobs in a queue."""
    studies = " ".join(dict.fromkeys(str(job.study) for job in jobs))
    lines = [
        queued_jobs,
        f"  to look: python -m rlexp.study status {studies}{look and '; '}{look}",
        f"  to stop: {stop}",
    ]
    if not any(job.fresh for job in jobs):  # the same command would begin others
        lines.append("  the same command tells what has ended, and submits again what left the queue unfinished")
    return "\n".join(lines)


@contextlib.contextmanager
def study_locks(jobs: Sequence[Planned]) -> Iterator[None]:
    """Hold the locks of the jobs' studies: one command at a time submits, and changes marks."""
    with contextlib.ExitStack() as stack:
        for study in sorted({job.study for job in jobs}):
            study.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(study)
            lock.wait()  # other commands hold it for a moment
            stack.callback(lock.release)
        yield


def settle(launcher: Launcher, jobs: Sequence[Planned]) -> tuple[list[str], set[Planned]]:
    """See to jobs that an earlier command left in a queue: lines that say what has become of them, and which to keep.

    The mark of a job that has ended, or that its queue no longer has, is removed; the latter is run again. To be kept
    are jobs that failed, perhaps in another process, and are in the queue all the same.
    """
    marked = [job for job in jobs if queued.read(job.folder) is not None]
    if not marked:
        return [], set()
    with study_locks(marked):  # also while it asks: another command may be submitting jobs that it has marked
        return _settled(launcher, marked)


def _settled(launcher: Launcher, jobs: Sequence[Planned]) -> tuple[list[str], set[Planned]]:
    marks = {job: mark for job in jobs if (mark := queued.read(job.folder)) is not None}
    present = {name: _present(launcher, name, marks) for name in {mark.queue for mark in marks.values()}}
    ends: list[tuple[Planned, str]] = []
    still: dict[str, list[Planned]] = {}
    unknown: dict[str, list[Planned]] = {}
    unsure: list[Planned] = []
    kept: set[Planned] = set()
    for job, mark in marks.items():
        found = present[mark.queue]
        if job.own_status() == "elsewhere":
            continue  # it runs
        if queued.still_queued(job.folder, job.own_status()) is None:
            if found.get(mark):
                kept.add(job)
            else:
                queued.remove(job.folder)
            ends.append((job, f" ({mark}: still in the queue)" if job in kept else ""))
        elif mark.queue and not mark.id:
            unsure.append(job)
        elif mark not in found:
            unknown.setdefault(mark.queue, []).append(job)
        elif found[mark]:
            still.setdefault(mark.queue, []).append(job)
        else:
            queued.remove(job.folder)
            if job.is_paused():
                ends.append((job, ""))
                continue
            logs = f"; logs in {job.study / '.submitit'}" if mark.queue == "slurm" else ""
            ends.append((job, f" ({mark}: no longer in the queue{logs})"))
    lines = [f"[{place}/{len(ends)}] {ending(job, None)}{why}" for place, (job, why) in enumerate(ends, 1)]
    lines += [f"{_named(some)} in {QUEUES[name]}'s queue: not submitted again" for name, some in still.items()]
    lines += [_unknown(name, some) for name, some in unknown.items()]
    lines += [unsure_of(unsure)] if unsure else []
    return lines, kept


def _may_run_again(job: Planned) -> bool:
    return job.own_status() == "failed" or queued.still_queued(job.folder, job.own_status()) is not None


def _present(launcher: Launcher, queue: str, marks: dict[Planned, Queued]) -> Mapping[Queued, bool]:
    """Whether the queue still has each job, where it can tell. Asked only about jobs that may be run again."""
    asked = [mark for job, mark in marks.items() if mark.queue == queue and mark.id and _may_run_again(job)]
    if queue == "slurm":
        return {mark: state != slurm.GONE for mark, state in slurm.states_of(asked).items()}
    return launcher.still_queued(asked) if asked and isinstance(launcher, JobLauncher) else {}


def unsure_of(jobs: Sequence[Planned]) -> str:
    """That jobs may have been submitted or not, and how to decide."""
    marks = filter(None, (queued.read(job.folder) for job in jobs))
    there = "".join(f" --clusters={clusters}" for clusters in sorted({m.clusters for m in marks if m.clusters})[:1])
    return (
        f"{len(jobs)} jobs may have been submitted or not, which cannot be known, and are left: look in the queue "
        f"(squeue --me{there}); if they are not there, {_clean(jobs)} lets them be submitted again"
    )


def _clean(jobs: Sequence[Planned]) -> str:
    studies = " ".join(dict.fromkeys(str(job.study) for job in jobs))
    return f"python -m rlexp.study clean {studies} what=queued"


def _named(jobs: Sequence[Planned]) -> str:
    more = f" and {len(jobs) - MOST_NAMED} more" if len(jobs) > MOST_NAMED else ""
    names = ", ".join(f"{job.name} ({mark.id})" for job in jobs[:MOST_NAMED] if (mark := queued.read(job.folder)))
    return f"{names}{more}: still"


def _unknown(queue: str, jobs: Sequence[Planned]) -> str:
    """That jobs may be queued or not, and how to submit them again."""
    how = {
        "slurm": "Slurm does not tell here: no answer of squeue, another cluster, or jobs of another user",
        "ray": "hydra/launcher=ray with hydra.launcher.address of that cluster can ask Ray",
    }
    return (
        f"{len(jobs)} jobs may still be queued ({queued.read(jobs[0].folder)}) and are left: "
        f"{how.get(queue, 'see its folder')}; {_clean(jobs)} lets them be submitted again"
    )
