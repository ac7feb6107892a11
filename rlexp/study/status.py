"""How the jobs of a study stand, read live from their folders."""

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlexp.errors import ConfigError
from rlexp.run import lock
from rlexp.run.names import no_folder
from rlexp.run.record import RecordError, read_record
from rlexp.text import number

COLUMNS = ("seed", "step", "wall_time", "episodic_return")  # of metrics.csv that are read
TAILS = (1 << 16, 1 << 22)  # bytes of its end: enough for most runs; for thousands of seeds
ORDER = ("done", "running", "waiting", "interrupted", "pruned", "failed", "killed", "damaged")
ERROR_WIDTH = 100


@dataclass(frozen=True)
class Standing:
    """How one job stands."""

    folder: Path
    status: str  # of run.json; else waiting (not begun), killed (its process died) or damaged (cannot be read)
    error: str | None = None  # one line
    traceback: str | None = None
    progress: float = 0.0  # 0 to 1
    steps: int = 0  # environment steps of the agent that made the fewest
    seconds: float = 0.0  # of training so far
    score: float | None = None  # mean return of the last training episodes, over seeds
    host: str | None = None  # where it ran last

    @property
    def duration(self) -> float | None:
        """Seconds that the whole training takes at its speed so far."""
        return self.seconds / self.progress if self.progress and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Of training, while it runs."""
        return None if self.status != "running" or self.duration is None else self.duration - self.seconds


# Reading -------------------------------------------------------------------------------------------------------------


def last_rows(path: Path, seeds: set[int]) -> dict[int, tuple[int, float, float]]:
    """Each seed's last whole row of metrics.csv: seed -> step, seconds, return or NaN. Reads the file's end only."""
    found: dict[int, tuple[int, float, float]] = {}
    try:
        with open(path, "rb") as file:
            header = file.readline().decode().strip().split(",")
            places = [header.index(name) for name in COLUMNS]
            size = file.seek(0, os.SEEK_END)
            for length in TAILS:
                file.seek(max(0, size - length))
                # the first is the header or cut off, the last is not written to its end
                for line in file.read(length).split(b"\n")[1:-1]:
                    cells = line.decode(errors="replace").strip().split(",")
                    if len(cells) != len(header):
                        continue  # torn by a crash
                    with contextlib.suppress(ValueError):
                        seed, step, seconds, score = (cells[k] for k in places)
                        found[int(seed)] = (int(step), float(seconds), float(score or "nan"))
                if seeds <= found.keys() or length >= size:
                    break
    except (OSError, ValueError):
        return {}  # not written yet, or no metrics.csv
    return found


def read_standing(folder: Path, held: bool | None = None) -> Standing:
    """One job. held: whether somebody is at work in the folder; None: its lock tells."""
    try:
        record = read_record(folder)
        if record is not None and record["status"] == "running" and held is None:
            held = lock.probe(folder) is not False
            if not held:
                record = read_record(folder)  # it may have ended between the two looks
        return Standing(folder, "waiting") if record is None else _standing(folder, record, bool(held))
    except RecordError as error:
        return Standing(folder, "damaged", str(error).removeprefix(f"{folder}/"))


def _standing(folder: Path, record: dict[str, Any], held: bool) -> Standing:
    status = "killed" if record["status"] == "running" and not held else record["status"]
    seeds = set(record.get("seeds", ()))
    rows = last_rows(folder / "metrics.csv", seeds)
    rows = {seed: row for seed, row in rows.items() if seed in seeds}
    steps = min(row[0] for row in rows.values()) if seeds and seeds <= rows.keys() else 0
    total = record.get("config", {}).get("total_steps")
    total = total if isinstance(total, int | float) and total > 0 else math.inf
    scores = [row[2] for row in rows.values()]
    if status == "done":
        returns = record.get("result", {}).get("training_return")
        scores = [score for score in returns if isinstance(score, int | float)] if isinstance(returns, list) else []
    scores = [score for score in scores if not math.isnan(score)]
    return Standing(
        folder,
        status,
        error=_line(record.get("error", "")) or None,
        traceback=record.get("traceback") or None,
        progress=1.0 if status == "done" else min(1.0, steps / total),
        steps=steps,
        seconds=max((row[1] for row in rows.values()), default=0.0),
        score=sum(scores) / len(scores) if scores else None,
        host=record.get("host"),
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def find(study: Path, name: str) -> list[Path]:
    """Files of that name at or below the study; unlike rglob it does not mind folders that vanish meanwhile."""
    return [Path(root, name) for root, _, files in os.walk(study) if name in files]


def planned(study: Path) -> dict[Path, tuple[Path, str]]:
    """Folders of the jobs that sweep.json files at or below the study plan: folder -> that file, the job's name in it.

    Raises:
        ConfigError: a sweep.json that cannot be read, or that names folders elsewhere.
    """
    found = {}
    for path in find(study, "sweep.json"):
        try:
            names = list(json.loads(path.read_text(encoding="utf-8"))["jobs"].keys())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: cannot be read ({_line(repr(error))}); mend or remove it") from None
        for name in names:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ConfigError(f"{path}: the job {name} is not below its folder; mend or remove it")
            found[path.parent / name] = (path, name)
    return found


def read_study(study: Path) -> list[Standing]:
    """Every job at or below the study, begun or planned, in the natural order of their names; links are not followed.

    Raises:
        ConfigError: there is none, or a sweep.json cannot be read.
    """
    if not study.is_dir():
        raise ConfigError(no_folder(study))
    folders = {path.parent for path in find(study, "run.json")} | planned(study).keys()
    if not folders:
        raise ConfigError(f"{study}: there is no run in or below it (no run.json)")
    return [read_standing(folder) for folder in sorted(folders, key=lambda folder: _natural(name_of(folder, study)))]


def name_of(folder: Path, study: Path) -> str:
    """A job's path in its study."""
    return folder.resolve().name if folder == study else str(folder.relative_to(study))


def _natural(text: str) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", text)  # every second one is a number
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], text


# Showing -------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """For people, in two units at most: 45 s, 3 m 20 s, 2 h 5 m."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= length or parts or unit == "s":
            parts.append(f"{left // length} {unit}")
        left %= length
    return " ".join(part for part in parts[:2] if not part.startswith("0 ") or len(parts) == 1)


def study_seconds_left(standings: list[Standing]) -> float | None:
    """Until the running and the waiting jobs are done, if as many go on side by side; None if none runs measurably."""
    left = [job.seconds_left for job in standings if job.seconds_left is not None]
    if not left:
        return None
    known = [job.duration for job in standings if job.status in ("running", "done") and job.duration is not None]
    running = sum(job.status == "running" for job in standings)
    unmeasured = sum(job.status == "waiting" for job in standings) + running - len(left)
    return max(*left, (sum(left) + unmeasured * sum(known) / len(known)) / running)


def summary(standings: list[Standing]) -> str:
    """One line: how many jobs of each status, and about how long all of it takes."""
    counts = Counter(job.status for job in standings)
    names = sorted(counts, key=lambda name: (*ORDER, name).index(name))
    left = study_seconds_left(standings)
    if left is not None and left >= 60:
        left = 60 * round(left / 60)
    eta = "" if left is None else f"; about {duration(left)} left"
    return ", ".join(f"{counts[name]} {name}" for name in names) + eta


def short_names(names: list[str]) -> tuple[str, list[str]]:
    """What all names of jobs say alike, and each name without it."""
    # a comma within a list is followed by no key
    words = [re.split(r",(?=[^,=]+=)", name.rpartition("-")[0]) for name in names]
    common = [word for word in words[0] if all(word in own for own in words)] if len(names) > 1 else []
    rest = [",".join(word for word in own if word not in common) for own in words]
    ends = [name.rpartition("-")[2] for name in names]
    return ", ".join(common), [f"{own}-{end}" if own else end for own, end in zip(rest, ends, strict=True)]


def _cut(error: str) -> str:
    return error if len(error) <= ERROR_WIDTH else error[: ERROR_WIDTH - 1] + "…"


def table(standings: list[Standing], study: Path) -> str:
    """Aligned columns, a row a job in the natural order of names; below them a summary, and what went wrong where."""
    rows = [("job", "status", "progress", "left", "return", "error")]
    standings = sorted(standings, key=lambda job: _natural(name_of(job.folder, study)))
    common, names = short_names([name_of(job.folder, study) for job in standings])
    for job, name in zip(standings, names, strict=True):
        left = "–" if job.seconds_left is None else duration(job.seconds_left)
        percent = f"{math.floor(100 * job.progress)}%"  # 100% when it is there, not before
        rows.append((name, job.status, percent, left, number(job.score), _cut(job.error or "")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align: tuple[Callable[[str, int], str], ...] = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust)
    lines = [
        "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    ]
    wrong = []
    for job in standings:
        if job.status in ("failed", "killed", "damaged"):
            whole = [f"  {job.error}"] if job.error and job.error != _cut(job.error) else []
            wrong += [f"{job.status}: {job.folder}", *whole]
    said = [f"all: {common}", ""] if common else []
    return "\n".join([*said, *lines, "", summary(standings), *wrong])
