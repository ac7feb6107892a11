"""Reading runs back: what each was, how it ended, and the learning curve of every seed."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.config.identity import config_hash, flatten
from rlexp.errors import UserError
from rlexp.files import file_digest
from rlexp.run.names import no_folder
from rlexp.run.record import MEASURED, RecordError, read_record

SUPERSEDED = "superseded.json"  # of a tuned study: names of runs of what was the best before there were more trials
CURVE = ("seed", "step", "wall_time", "episodic_return", "episodes")  # the columns of metrics.csv that are read


class StudyError(UserError):
    """Runs that cannot be read or compared."""


@dataclass(frozen=True)
class Curve:
    """Of one seed, a value a logging step."""

    steps: np.ndarray
    seconds: np.ndarray  # of training; beside agents of other runs, the share of its own run
    returns: np.ndarray  # moving average over the last 100 episodes; NaN before the first
    episodes: np.ndarray  # finished so far


@dataclass
class Run:
    """One run's folder."""

    folder: Path
    record: dict[str, Any]  # run.json
    settings: dict[str, Any]  # resolved config less what cannot change results, as dotted keys
    curves: dict[int, Curve] = field(default_factory=dict)  # by seed
    evaluations: dict[int, float] = field(default_factory=dict)  # frozen evaluation, mean return by seed
    evaluated_with: dict[str, Any] = field(default_factory=dict)  # settings of that
    complaints: list[str] = field(default_factory=list)  # what makes its results doubtful
    superseded: bool = False  # a tuning has found something better than what this run stands for

    @property
    def status(self) -> str:
        """running, interrupted, failed or done."""
        return str(self.record.get("status"))

    @property
    def algo(self) -> str:
        """The choice made in the group algo."""
        choice = self.record.get("choices", {}).get("algo")
        return str(choice or self.settings["algo._target_"].rpartition(".")[2].lower())

    @property
    def tuned(self) -> str:
        """The choice made in the group tuned; empty where that is not known."""
        return str(self.record.get("choices", {}).get("tuned", ""))

    @property
    def env(self) -> str:
        """The environment's id."""
        return str(self.settings["env.id"])

    @property
    def share(self) -> float:
        """Of the agents that were trained side by side, those of other runs included, how many were this run's own."""
        own = len(self.record.get("seeds") or self.curves)
        return own / max(own, self.record.get("agents_together") or own, 1)

    @property
    def seconds(self) -> float:
        """Of training; beside agents of other runs, its share."""
        return max(float(curve.seconds[-1]) for curve in self.curves.values())


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Every run at or below the paths, in the order of their folders; curves are not read yet.

    Raises:
        StudyError: there is none, or a run.json cannot be read.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise StudyError(no_folder(path))
        found = sorted(file.parent for file in path.rglob("run.json"))
        if not found:
            raise StudyError(f"{path}: there is no run in or below it (no run.json)")
        folders += found
    return [_open(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]


def _open(folder: Path) -> Run:
    try:
        record = read_record(folder) or {}
    except RecordError as error:
        raise StudyError(str(error)) from None
    config = record.get("config", {})
    run = Run(folder, record, flatten(config), superseded=folder.name in superseded_in(folder.parent))
    for key in ("env.id", "algo._target_"):
        if not isinstance(run.settings.get(key), str):
            raise StudyError(f"{folder}/run.json: holds no config with {key}; remove that folder, or make the run anew")
    _require_scores(run)
    if config_hash(config) != record.get("config_hash"):
        run.complaints.append("its config was edited after the run")
    for name, digest in record.get("files", {}).items():
        if name not in MEASURED:
            continue
        path = folder / name
        if not path.is_file():
            run.complaints.append(f"{name} is missing")
        elif file_digest(path) != digest:
            run.complaints.append(f"{name} was edited after the run")
    return run


def _require_scores(run: Run) -> None:
    """Refuse a run whose config says of its environment's scores what no number is."""

    def is_number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)

    threshold, bounds = run.settings.get("env.threshold"), run.settings.get("env.bounds")
    way_out = "remove that folder, or make the run anew"
    if threshold is not None and not is_number(threshold):
        raise StudyError(f"{run.folder}/run.json: env.threshold={threshold} is no number; {way_out}")
    if bounds is not None and not (isinstance(bounds, tuple) and len(bounds) == 2 and all(map(is_number, bounds))):
        raise StudyError(f"{run.folder}/run.json: env.bounds={bounds} are not two numbers; {way_out}")


def superseded_in(study: Path) -> list[str]:
    """Names of a study's runs that stand for what was the best of a tuning and is not any more.

    Raises:
        StudyError: the file that lists them is damaged.
    """
    path = study / SUPERSEDED
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(f"{path}: cannot be read ({error}); remove it and run the tuning's command again") from None


def read_curves(run: Run) -> None:
    """Fill in a run's learning curves and frozen evaluations.

    metrics.csv counts the seconds of all that were trained side by side. Here, and nowhere else, a run that shared them
    with others gets its share, so that whatever is made of curves, a figure or a table, goes by that.

    Raises:
        StudyError: metrics.csv or evaluation.json is damaged.
    """
    path = run.folder / "metrics.csv"
    try:
        with open(path, encoding="utf-8") as file:
            header = file.readline().rstrip("\n").split(",")
            places = [header.index(name) for name in CURVE]
            last = max(places) + 1
            table = np.array(
                [[row[k] or "nan" for k in places] for row in (line.rstrip("\n").split(",", last) for line in file)],
                float,
            )
            if len(table) and not np.isfinite(table[:, 0]).all():
                raise ValueError("a row names no seed")
    except (OSError, ValueError, IndexError) as error:
        raise StudyError(f"{path}: cannot be read ({error}); make the run anew with resume=never") from None
    for seed in np.unique(table[:, 0]) if len(table) else []:
        _, steps, seconds, returns, episodes = table[table[:, 0] == seed].T
        run.curves[int(seed)] = Curve(steps, run.share * seconds, returns, episodes)
    evaluation = run.folder / "evaluation.json"
    if evaluation.is_file():
        try:
            record = json.loads(evaluation.read_text(encoding="utf-8"))
            run.evaluations = {int(agent["seed"]): float(agent["mean_return"]) for agent in record["agents"]}
            run.evaluated_with = dict(record.get("settings", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{evaluation}: cannot be read ({error!r})") from None
