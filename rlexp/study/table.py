"""The table of a study's jobs: status, progress, time left, return and error of each."""

import math
import re
from collections import Counter
from pathlib import Path

from rlexp.study.status import JobStatus, name_of
from rlexp.text import aligned, natural, number

ORDER = ("done", "running", "queued", "waiting", "interrupted", "pruned", "failed", "killed", "damaged")
ERROR_WIDTH = 100


def duration(seconds: float) -> str:
    """Format seconds in at most two units: 45 s, 3 m 20 s, 2 h 5 m."""
    left = max(0, round(seconds))
    units = (left // 86400, "d"), (left // 3600 % 24, "h"), (left // 60 % 60, "m"), (left % 60, "s")
    first = next((k for k, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count) or "0 s"


def study_seconds_left(jobs: list[JobStatus]) -> float | None:
    """Estimate until all running, queued and waiting jobs are done, at the current parallelism; None if unknown."""
    left = [job.seconds_left for job in jobs if job.seconds_left is not None]
    if not left:
        return None
    known = [job.duration for job in jobs if job.status in ("running", "done") and job.duration is not None]
    running = sum(job.status == "running" for job in jobs)
    unmeasured = sum(job.status in ("waiting", "queued") for job in jobs) + running - len(left)
    return max(*left, (sum(left) + unmeasured * sum(known) / len(known)) / running)


def summary(jobs: list[JobStatus]) -> str:
    """One line: number of jobs by status, and the estimated remaining time."""
    counts = Counter(job.status for job in jobs)
    names = sorted(counts, key=lambda name: (*ORDER, name).index(name))
    left = study_seconds_left(jobs)
    eta = "" if left is None else f"; about {duration(left if left < 60 else 60 * round(left / 60))} left"
    return ", ".join(f"{counts[name]} {name}" for name in names) + eta


def short_names(names: list[str]) -> tuple[str, list[str]]:
    """Overrides shared by all job names, and each name without them."""
    # a comma inside a list is not followed by a key
    words = [re.split(r",(?=[^,=]+=)", name.rpartition("-")[0]) for name in names]
    common = [word for word in words[0] if all(word in each for each in words)] if len(names) > 1 else []
    rest = [",".join(word for word in each if word not in common) for each in words]
    ends = [name.rpartition("-")[2] for name in names]
    return ", ".join(common), [f"{text}-{end}" if text else end for text, end in zip(rest, ends, strict=True)]


def table(jobs: list[JobStatus], study: Path) -> str:
    """Aligned table with one row per job in natural order, a summary, and the folders of failed jobs."""
    rows, failures = [("job", "status", "progress", "left", "return", "error")], []
    jobs = sorted(jobs, key=lambda job: natural(name_of(job.folder, study)))
    common, names = short_names([name_of(job.folder, study) for job in jobs])
    for job, name in zip(jobs, names, strict=True):
        left = "–" if job.seconds_left is None else duration(job.seconds_left)
        percent = f"{math.floor(100 * job.progress)}%"  # 100% only at the end
        error = job.error or ""
        cut = error if len(error) <= ERROR_WIDTH else error[: ERROR_WIDTH - 1] + "…"
        rows.append((name, job.status, percent, left, number(job.score), cut))
        if job.status in ("failed", "killed", "damaged"):
            failures += [f"{job.status}: {job.folder}"] + ([f"  {error}"] if error != cut else [])
    shared = [f"all: {common}", ""] if common else []
    untold = [job for job in jobs if job.untold]
    note = (
        [f"the queue could not be asked for {len(untold)} of the queued jobs: they may have left it"] if untold else []
    )
    return "\n".join([*shared, *aligned(rows, right=(2, 3, 4)), "", summary(jobs), *note, *failures])
