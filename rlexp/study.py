"""Reading runs back: what each was, how it ended, and the learning curve of every seed.

    python -m rlexp.study status outputs/first                  how every job stands, also while they run
    python -m rlexp.study status outputs/first traceback=true   with the traceback of each one that failed
    python -m rlexp.study clean outputs/first                   remove the folders of failed and killed jobs; asks first
    python -m rlexp.study clean outputs/first what=checkpoints  remove checkpoint.pt of the jobs that are done

Both take several studies. Settings of clean: what=failed,killed (the default; also interrupted, pruned, waiting: its
entry in sweep.json, checkpoints) · yes=true (do not ask). A job that runs is never touched.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.config import flatten
from rlexp.errors import ConfigError, UserError, command
from rlexp.run_folder import MEASURED, RecordError, config_hash, file_digest, no_folder, read_record
from rlexp.signatures import nearest

OPTIONS = {"status": ("traceback",), "clean": ("what", "yes")}  # of each command
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


# Command line --------------------------------------------------------------------------------------------------------


def _parse(command: str, words: list[str]) -> tuple[list[Path], dict[str, str]]:
    """Studies, and settings by name."""
    if command not in OPTIONS:
        raise ConfigError(f"{command}: there is no such command; {nearest(command, tuple(OPTIONS))}")
    paths = [word for word in words if "=" not in word or Path(word).exists()]
    pairs = [word.partition("=") for word in words if word not in paths]
    options = {name: value for name, _, value in pairs}
    for name, value in options.items():
        if name not in OPTIONS[command]:
            raise ConfigError(f"{name}={value}: no such setting or folder; {nearest(name, OPTIONS[command])}")
        if name != "what" and value not in ("true", "false"):
            raise ConfigError(f"{name}={value}: must be true or false")
    if not paths:
        raise ConfigError(f"say which study: python -m rlexp.study {command} outputs/<study>")
    return list(dict.fromkeys(map(Path, paths))), options


def run(words: list[str]) -> None:
    """Do what the command line of rlexp.study asks for.

    Raises:
        ConfigError: there is no such command, setting or study.
    """
    from rlexp.clean import CLEANABLE, clean
    from rlexp.status import read_study, table

    studies, options = _parse(words[0], words[1:])
    if words[0] == "clean":
        what = list(dict.fromkeys(options.get("what", "failed,killed").split(",")))
        for word in what:
            if word not in CLEANABLE:
                raise ConfigError(f"what={word}: cannot be removed; {nearest(word, CLEANABLE)}")
        clean(studies, what, options.get("yes") == "true")
        return
    texts = []
    for study in studies:
        standings = read_study(study)
        texts.append((f"{study}:\n" if len(studies) > 1 else "") + table(standings, study))
        if options.get("traceback") == "true":
            failed = [job for job in standings if job.status == "failed"]
            texts += [f"{job.folder}:\n{(job.traceback or 'no traceback was kept').rstrip()}" for job in failed]
    print("\n\n".join(texts))


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    command("rlexp.study", __doc__, run, arguments)


if __name__ == "__main__":
    main()
