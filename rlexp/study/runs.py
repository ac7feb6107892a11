"""Reads runs: settings, status and learning curves of every seed."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.config.declaration import Declared, is_number
from rlexp.config.identity import NEUTRAL, config_hash, flatten
from rlexp.errors import ConfigError, UserError
from rlexp.files import file_digest
from rlexp.run.names import folder_named, missing_folder
from rlexp.run.record import MEASURED, RecordError, diverged_in, read_record
from rlexp.study.status import planned

TRIALS = "trials.csv"  # of a tuned study
SUPERSEDED = "superseded.json"  # of a tuned study: names of the runs of a former best trial
CURVE = ("seed", "step", "wall_time", "episodic_return", "episodes")  # columns read from metrics.csv
IF_THERE = ("row_return", "evaluation_return", "evaluation_return_sampled")  # that runs of earlier versions lack


class StudyError(UserError):
    """Runs that cannot be read or compared."""


@dataclass(frozen=True)
class Curve:
    """Learning curve of one seed, one value per logging step."""

    steps: np.ndarray
    seconds: np.ndarray  # of training; in a batch with other runs, this run's share
    returns: np.ndarray  # moving average over the last 100 episodes; NaN before the first
    episodes: np.ndarray  # completed so far
    row_returns: np.ndarray  # mean over the episodes completed since the row before; NaN if there are none
    evaluated: np.ndarray  # mean return of the policy, frozen, by its most likely actions; NaN in most rows
    evaluated_sampled: np.ndarray  # the same by sampling


@dataclass
class Run:
    """A run, read from its folder."""

    folder: Path
    record: dict[str, Any]  # run.json
    settings: dict[str, Any]  # the run's identity as dotted keys
    curves: dict[int, Curve] = field(default_factory=dict)  # by seed
    evaluations: dict[int, float] = field(default_factory=dict)  # frozen evaluation, mean return by seed
    evaluated_with: dict[str, Any] = field(default_factory=dict)  # settings of the frozen evaluation
    complaints: list[str] = field(default_factory=list)  # reasons to doubt its results
    superseded: bool = False  # tuning has since found a better trial than this run's
    declared: Declared | None = None  # at its first launch; None by older versions
    searched: frozenset[str] = frozenset()  # keys of which a tuning of its study chose the value
    variant: str = ""  # of its environment, where compare has several of one id

    @property
    def status(self) -> str:
        """running, interrupted, failed or done; waiting: planned in sweep.json, never started."""
        return str(self.record.get("status"))

    @property
    def diverged(self) -> dict[int, dict[str, Any]]:
        """Seeds that diverged and were retired while the others went on: seed -> step, update, metric, value."""
        return diverged_in(self.record)

    @property
    def algo(self) -> str:
        """The choice in the group algo, and in bonus if there is one: apo, apo+rnd."""
        choices = self.record.get("choices", {})
        name = str(choices.get("algo") or self.settings["algo._target_"].rpartition(".")[2].lower())
        bonus = self.settings.get("bonus._target_")
        return f"{name}+{choices.get('bonus') or str(bonus).rpartition('.')[2].lower()}" if bonus else name

    @property
    def env(self) -> str:
        """The environment's id; its time limit where that is not the id's, and the variant, if there are several."""
        limit = self.settings.get("env.kwargs.max_episode_steps")
        more = ", ".join([f"{limit} steps"] * (limit is not None) + [self.variant] * bool(self.variant))
        return str(self.settings["env.id"]) + (f" ({more})" if more else "")

    @property
    def population(self) -> int:
        """Agents that belong together."""
        return int(self.settings.get("population", NEUTRAL["population"]))

    @property
    def populations(self) -> dict[int, list[int]]:
        """Seeds of each population, by the first of them; of each agent alone, where a population is one."""
        seeds, n = list(self.record.get("seeds") or self.curves), self.population
        return {seeds[k]: seeds[k : k + n] for k in range(0, len(seeds), n)}

    @property
    def share(self) -> float:
        """Fraction of the agents in its batch that are this run's."""
        agents = len(self.record.get("seeds") or self.curves)
        return agents / max(agents, self.record.get("agents_together") or agents, 1)

    @property
    def seconds(self) -> float:
        """Seconds of training; in a batch with other runs, this run's share."""
        return max(float(curve.seconds[-1]) for curve in self.curves.values() if len(curve.seconds))


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """All runs at or below the paths, without their curves; a StudyError if one cannot be read or there is none."""
    folders: dict[Path, Path] = {}
    for path in map(folder_named, paths):
        found = sorted(file.parent for file in path.rglob("run.json"))
        if not found:
            missing = f"{path}: there is no run in or below it (no run.json)"
            raise StudyError(missing if path.is_dir() else missing_folder(path))
        folders |= {folder.resolve(): folder for folder in found}
    return [_open(folder) for folder in folders.values()]


def _open(folder: Path) -> Run:
    try:
        record = read_record(folder) or {}
    except RecordError as error:
        raise StudyError(str(error)) from None
    run = run_of(folder, record)
    if config_hash(record.get("config", {})) != record.get("config_hash"):
        run.complaints.append("its config was edited after the run")
    for name in [name for name in record.get("files", {}) if name in MEASURED]:
        path = folder / name
        if not path.is_file():
            run.complaints.append(f"{name} is missing")
        elif file_digest(path) != record["files"][name]:
            run.complaints.append(f"{name} was edited after the run")
    return run


def run_of(folder: Path, record: dict[str, Any]) -> Run:
    """A run with this run.json, or what sweep.json says of a job; a StudyError if that was edited."""
    settings, declared = flatten(record.get("config", {})), None
    flaw = _flaw(settings)
    try:
        declared = Declared.read(record["declared"]) if "declared" in record else None
    except ValueError as error:
        flaw = flaw or str(error)
    if flaw:
        raise StudyError(f"{folder}/run.json: {flaw}; remove that folder, or train the run from scratch")
    return Run(folder, record, settings, superseded=folder.name in superseded_in(folder.parent), declared=declared)


def _flaw(settings: dict[str, Any]) -> str | None:
    for key in ("env.id", "algo._target_"):
        if not isinstance(settings.get(key), str):
            return f"has no config with {key}"
    population = settings.get("population", NEUTRAL["population"])
    if type(population) is not int or population < 1:
        return f"population={population} is not a whole number from 1"
    threshold, bounds = settings.get("env.threshold"), settings.get("env.bounds")
    if threshold is not None and not is_number(threshold):
        return f"env.threshold={threshold} is not a number"
    if bounds is not None and not (isinstance(bounds, tuple) and len(bounds) == 2 and all(map(is_number, bounds))):
        return f"env.bounds={bounds} are not two numbers"
    if bounds is not None and not bounds[0] < bounds[1]:
        return f"env.bounds={bounds} are not [low, high] with low < high"
    return None


def superseded_in(study: Path) -> list[str]:
    """Names of a tuned study's runs of a former best trial; a StudyError if superseded.json is damaged."""
    path = study / SUPERSEDED
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(f"{path}: cannot be read ({error}); remove it and run the tuning's command again") from None


def searched_in(study: Path) -> dict[str, frozenset[str]]:
    """The keys of which a tuning chose the values, for each job of a tuned study; none where there was no tuning."""
    tunings: dict[str, set[str]] = {}  # name, which is what its jobs' overrides begin with -> keys
    try:
        with open(study / TRIALS, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                tunings.setdefault(str(row.get("tuning")), set()).update(key for key, x in row.items() if x)
        words = {folder.name: ",".join(map(str, job.overrides or [])) + "," for folder, job in planned(study).items()}
    except (OSError, ValueError, csv.Error, ConfigError):  # of a damaged plan others tell
        return {}
    of = {job: max((t for t in tunings if text.startswith(f"{t},")), default="") for job, text in words.items()}
    return {job: frozenset(tunings.get(name, ())) for job, name in of.items()}


def read_curves(run: Run) -> None:
    """Read a run's curves and frozen evaluations into it, with its share of a batch's seconds.

    The curve of a seed that diverged ends before that, and is empty if none of its rows was logged.
    """
    path = run.folder / "metrics.csv"
    try:
        with open(path, encoding="utf-8") as file:
            header = file.readline().rstrip("\n").split(",")
            names = [*CURVE, *(name for name in IF_THERE if name in header)]
            places = [header.index(name) for name in names]
            cells, cut = itemgetter(*places), max(places) + 1
            rows = [cells(line.rstrip("\n").split(",", cut)) for line in file]
            columns = zip(*rows, strict=True) if rows else [()] * len(names)
            found = {n: np.array([float(x or "nan") for x in column]) for n, column in zip(names, columns, strict=True)}
            table = [found.get(name, np.full(len(rows), np.nan)) for name in (*CURVE, *IF_THERE)]
            if not np.isfinite(table[0]).all():
                raise ValueError("a row has no seed")
    except (OSError, ValueError, IndexError) as error:
        raise StudyError(f"{path}: cannot be read ({error}); train the run from scratch with resume=never") from None
    for seed in sorted({*table[0], *run.diverged}):
        _, steps, seconds, *others = (column[table[0] == seed] for column in table)
        run.curves[int(seed)] = Curve(steps, run.share * seconds, *others)
    evaluation = run.folder / "evaluation.json"
    if evaluation.is_file():
        try:
            record = json.loads(evaluation.read_text(encoding="utf-8"))
            run.evaluations = {int(agent["seed"]): float(agent["mean_return"]) for agent in record["agents"]}
            run.evaluated_with = dict(record.get("settings", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{evaluation}: cannot be read ({error!r})") from None


def last_rows(run: Run) -> dict[int, dict[str, Any]]:
    """The last row of each of a run's seeds in metrics.csv; empty cells are NaN."""
    path = run.folder / "metrics.csv"
    with open(path, encoding="utf-8") as file:
        names = file.readline().rstrip("\n").split(",")
        place = names.index("seed")
        last = {line.split(",", place + 1)[place]: line.rstrip("\n") for line in file}
    try:
        rows = [{n: float(x or "nan") for n, x in zip(names, y.split(","), strict=True)} for y in last.values()]
    except ValueError as error:
        raise StudyError(f"{path}: cannot be read ({error}); train the run from scratch with resume=never") from None
    return {int(row["seed"]): row | {"seed": int(row["seed"])} for row in rows}
