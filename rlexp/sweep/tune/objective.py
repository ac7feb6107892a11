"""What a trial is worth, read from its run's folder: a measure of every seed, and one number of all seeds."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rlexp.compare.measures import area_under_curve
from rlexp.errors import ConfigError
from rlexp.study.runs import Curve, find_runs, read_curves

Direction = Literal["maximize", "minimize"]


class Measure(NamedTuple):
    """What is read of a seed's curve, and whether more of it is better."""

    of: Callable[[Curve], float]
    direction: Direction = "maximize"


def _last(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else np.nan


# As `compare` measures a seed; evaluation is not in the curve
MEASURES = {
    "final": Measure(lambda curve: _last(curve.returns)),  # mean return of the last 100 training episodes
    "area": Measure(lambda curve: area_under_curve(curve.steps, curve.returns)),  # mean height of the learning curve
    "evaluation": Measure(lambda _: np.nan),  # mean return of the final policy in frozen evaluation
    "seconds": Measure(lambda curve: _last(curve.seconds), "minimize"),  # of training, all seeds side by side
}


def _iqm(scores: np.ndarray) -> float:
    """That of `rlexp.compare.statistics`, which needs scipy: the mean without the lowest and the highest ⌊n/4⌋ of n."""
    cut = len(scores) // 4
    return float(np.sort(scores)[cut : len(scores) - cut].mean())


AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {"mean": lambda scores: float(scores.mean()), "iqm": _iqm}


def check_measures(measures: Collection[str], aggregate: str, judged: bool) -> None:
    """Refuse what `score` would refuse, before anything is trained; judged: at rungs, by the first measure.

    Raises:
        ConfigError: no measure, none or no aggregate of that name, or an evaluation before the end.
    """
    if not measures:
        raise ConfigError(f"hydra.sweeper.measure=[]: none is given; there are {', '.join(MEASURES)}")
    asked: list[tuple[str, str, Mapping[str, Any]]] = [("measure", measure, MEASURES) for measure in measures]
    asked.append(("aggregate", aggregate, AGGREGATES))
    for key, value, known in asked:
        if value not in known:
            raise ConfigError(f"hydra.sweeper.{key}={value}: there is no such {key}; there are {', '.join(known)}")
    if judged and "evaluation" in measures:
        raise ConfigError("hydra.sweeper.measure=evaluation: comes after training only; judge rungs by final or area")


def score(folder: Path, measure: str, aggregate: str = "mean", up_to: int | None = None) -> float:
    """The worth of a run, finished or paused: aggregate over seeds k of measure(curve of k up to a step).

    Args:
        folder: of the run.
        measure: one of MEASURES.
        aggregate: mean, or iqm: over the middle half of the seeds.
        up_to: step of the agent after which nothing counts; None: the whole run.

    Returns:
        NaN if any seed has no value, as one that finished no episode.

    Raises:
        ConfigError: no such measure or aggregate, or an evaluation before the end.
        StudyError: no run there, or a damaged one.
    """
    check_measures([measure], aggregate, judged=up_to is not None)
    run = find_runs([folder])[0]
    read_curves(run)
    seeds = run.record.get("seeds") or list(run.curves)
    if measure == "evaluation":
        scores = [run.evaluations.get(seed, np.nan) for seed in seeds]
    else:
        scores = [
            MEASURES[measure].of(_cut(run.curves[seed], up_to)) if seed in run.curves else np.nan for seed in seeds
        ]
    return AGGREGATES[aggregate](np.array(scores)) if scores and not np.isnan(scores).any() else np.nan


def _cut(curve: Curve, up_to: int | None) -> Curve:
    before = curve.steps <= (np.inf if up_to is None else up_to)
    return Curve(*(values[before] for values in (curve.steps, curve.seconds, curve.returns, curve.episodes)))
