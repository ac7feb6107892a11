"""Status of a study's jobs, read from their folders, also while they run."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rlexp.errors import ConfigError
from rlexp.run import lock, queued
from rlexp.run.names import missing_folder
from rlexp.run.queued import Queued
from rlexp.run.record import RecordError, diverged_in, read_record
from rlexp.study import slurm
from rlexp.text import natural, one_line

COLUMNS = ("seed", "step", "wall_time", "episodic_return")  # read from metrics.csv
TAILS = (1 << 16, 1 << 22)  # bytes read from its end: enough for most runs; for thousands of seeds


@dataclass(frozen=True)
class JobStatus:
    """Status and progress of one job."""

    folder: Path
    # of run.json, or waiting (not started), queued (left in a cluster's queue), killed (its process died), damaged
    # (run.json cannot be read)
    status: str
    # one line; of a running or finished job, how many seeds diverged; of a queued one, where and since when
    error: str | None = None
    traceback: str | None = None
    progress: float = 0.0  # 0 to 1
    seconds: float = 0.0  # of training so far
    score: float | None = None  # mean return of the last training episodes over seeds
    host: str | None = None  # of the last launch
    mark: Queued | None = None  # of a queued job, as its launcher left it
    untold: bool = False  # whether its queue could not be asked for it

    @property
    def duration(self) -> float | None:
        """Estimated seconds of the whole training at the speed so far."""
        return self.seconds / self.progress if self.progress and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated remaining seconds of training; None unless it runs."""
        return None if self.status != "running" or self.duration is None else self.duration - self.seconds


def last_rows(path: Path, seeds: set[int]) -> dict[int, tuple[int, float, float]]:
    """Each seed's last complete row of metrics.csv: seed -> step, seconds, return or NaN. Reads only the file's end."""
    found: dict[int, tuple[int, float, float]] = {}
    try:
        with open(path, "rb") as file:
            header = file.readline().decode().strip().split(",")
            columns = [header.index(name) for name in COLUMNS]
            size = file.seek(0, os.SEEK_END)
            for length in TAILS:
                file.seek(max(0, size - length))
                # the first is the header or truncated, the last is incomplete
                for line in file.read(length).split(b"\n")[1:-1]:
                    cells = line.decode(errors="replace").strip().split(",")
                    if len(cells) != len(header):
                        continue  # torn by a crash
                    with contextlib.suppress(ValueError):
                        seed, step, seconds, score = (cells[k] for k in columns)
                        found[int(seed)] = (int(step), float(seconds), float(score or "nan"))
                if seeds <= found.keys() or length >= size:
                    break
    except (OSError, ValueError):
        return {}  # not written yet, or not a metrics.csv
    return found


def read_job_status(folder: Path, held: bool | None = None) -> JobStatus:
    """Read one job. held: whether a process holds the folder's lock; None: probe it.

    A job that was left in a queue is queued until it runs or has ended; `ask_queue` says whether it still is.
    """
    found = _read_run(folder, held)
    mark = None if found.status in ("running", "damaged") else queued.still_queued(folder, found.status)
    return found if mark is None else replace(found, status="queued", error=str(mark), mark=mark)


def ask_queue(jobs: list[JobStatus]) -> list[JobStatus]:
    """The jobs; of those in Slurm's queue, what it says of them. One that it no longer has is what its folder says.

    Ray is not asked: that means to connect to a cluster, which can run code here. Nor is Slurm where squeue is missing.
    """
    states = slurm.states_of(job.mark for job in jobs if job.mark is not None)
    return [_in_slurm(job, states) for job in jobs]


def _in_slurm(job: JobStatus, states: Mapping[Queued, str]) -> JobStatus:
    if job.mark is None:
        return job
    state = states.get(job.mark)
    if state is None:
        return replace(job, untold=True)
    if state != slurm.GONE:
        return replace(job, error=f"{job.mark}: {state.lower()}")
    left = _read_run(job.folder)  # after it has left the queue
    gone = left.status in ("waiting", "killed") and not left.error
    return replace(left, error=f"{job.mark}: no longer in the queue") if gone else left


def _read_run(folder: Path, held: bool | None = None) -> JobStatus:
    """Read one job, whatever queue it is in."""
    try:
        record = read_record(folder)
        if record is not None and record["status"] == "running" and held is None:
            held = lock.probe(folder) is not False
            if not held:
                record = read_record(folder)  # it may have ended in between
    except RecordError as error:
        return JobStatus(folder, "damaged", str(error).removeprefix(f"{folder}/"))
    if record is None:
        return JobStatus(folder, "waiting")
    status = "killed" if record["status"] == "running" and not held else record["status"]
    diverged = diverged_in(record)
    seeds = set(record.get("seeds", ())) - diverged.keys()
    lost = f"{len(diverged)} of {len(record.get('seeds', ()))} seeds diverged" if diverged else ""
    rows = {seed: row for seed, row in last_rows(folder / "metrics.csv", seeds).items() if seed in seeds}
    steps = min(row[0] for row in rows.values()) if seeds and seeds <= rows.keys() else 0
    total = record.get("config", {}).get("total_steps")
    total = total if isinstance(total, int | float) and total > 0 else math.inf
    returns = record.get("result", {}).get("training_return")
    scores: list[Any] = [row[2] for row in rows.values()]
    if status == "done":
        scores = returns if isinstance(returns, list) else []
    scores = [score for score in scores if isinstance(score, int | float) and not math.isnan(score)]
    return JobStatus(
        folder,
        status,
        error=one_line(record.get("error", "")) or (lost if status in ("running", "done") else "") or None,
        traceback=record.get("traceback") or None,
        progress=1.0 if status == "done" else min(1.0, steps / total),
        seconds=max((row[1] for row in rows.values()), default=0.0),
        score=sum(scores) / len(scores) if scores else None,
        host=record.get("host"),
    )


def find(study: Path, name: str) -> list[Path]:
    """Files of that name in the study; unlike rglob, tolerates folders that vanish in the meantime."""
    return [Path(root, name) for root, _, files in os.walk(study) if name in files]


class PlannedJob(NamedTuple):
    """A job listed in a sweep.json."""

    folder: Path
    plan: Path  # sweep.json
    name: str  # in it
    overrides: Any  # a list of strings, unless sweep.json was edited
    entry: dict[str, Any]  # all that sweep.json says of it


def planned(study: Path) -> dict[Path, PlannedJob]:
    """Jobs listed in the study's sweep.json files, by folder; a ConfigError if one is damaged or leads outside."""
    found = {}
    for path in find(study, "sweep.json"):
        try:
            jobs = dict(json.loads(path.read_text(encoding="utf-8"))["jobs"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: cannot be read ({one_line(repr(error))}); fix or remove it") from None
        for name, job in jobs.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ConfigError(f"{path}: job {name} is outside its folder; fix or remove it")
            entry = job if isinstance(job, dict) else {}
            found[path.parent / name] = PlannedJob(path.parent / name, path, name, entry.get("overrides"), entry)
    return found


def read_study(study: Path) -> list[JobStatus]:
    """All jobs in the study, started or planned, in natural order; a ConfigError if there is none. Asks their queue."""
    if not study.is_dir():
        raise ConfigError(missing_folder(study))
    folders = {path.parent for path in find(study, "run.json")} | planned(study).keys()
    if not folders:
        raise ConfigError(f"{study}: there is no run in or below it (no run.json)")
    order = sorted(folders, key=lambda folder: natural(name_of(folder, study)))
    return ask_queue([read_job_status(folder) for folder in order])


def name_of(folder: Path, study: Path) -> str:
    """A job's path relative to its study."""
    return folder.resolve().name if folder == study else str(folder.relative_to(study))
