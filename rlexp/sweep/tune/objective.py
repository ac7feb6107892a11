"""The objective: scores a trial from its run's folder, by a measure of each seed aggregated over seeds."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rlexp.compare.measures import area_under_curve
from rlexp.errors import ConfigError
from rlexp.study.runs import Curve, find_runs, read_curves

Direction = Literal["maximize", "minimize"]


class Measure(NamedTuple):
    """A measure of a seed's curve, and its direction."""

    of: Callable[[Curve], float]
    direction: Direction = "maximize"


def _last(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else np.nan


# The same as `compare` has, and seconds; evaluation is not in the curve
MEASURES = {
    "final": Measure(lambda curve: _last(curve.returns)),  # mean return of the last 100 training episodes
    "area": Measure(lambda curve: area_under_curve(curve.steps, curve.returns)),  # mean height of the learning curve
    "evaluation": Measure(lambda _: np.nan),  # mean return of the final policy in frozen evaluation
    "seconds": Measure(lambda curve: _last(curve.seconds), "minimize"),  # of training, all seeds of the trial
}


def _iqm(scores: np.ndarray) -> float:
    """Mean without the lowest and highest ⌊n/4⌋ of n, as in `rlexp.compare.statistics`, but without scipy."""
    cut = len(scores) // 4
    return float(np.sort(scores)[cut : len(scores) - cut].mean())


AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {"mean": lambda scores: float(scores.mean()), "iqm": _iqm}


def check_measures(measures: Collection[str], aggregate: str, judged: bool) -> None:
    """Check measures and aggregate before anything is trained; `judged`: trials are judged at rungs.

    Raises:
        ConfigError: no measure, an unknown measure or aggregate, or evaluation at rungs.
    """
    if not measures:
        raise ConfigError(f"hydra.sweeper.measure=[]: empty; choose from {', '.join(MEASURES)}")
    settings: list[tuple[str, str, Mapping[str, Any]]] = [("measure", measure, MEASURES) for measure in measures]
    settings.append(("aggregate", aggregate, AGGREGATES))
    for key, value, known in settings:
        if value not in known:
            raise ConfigError(f"hydra.sweeper.{key}={value}: no such {key}; choose from {', '.join(known)}")
    if judged and "evaluation" in measures:
        raise ConfigError("hydra.sweeper.measure=evaluation: only known after training; judge rungs by final or area")


def score(folder: Path, measure: str, aggregate: str = "mean", up_to: int | None = None) -> float:
    """Score a run, finished or paused: aggregate over seeds of measure(curve of the seed up to a step).

    Args:
        folder: of the run.
        measure: one of MEASURES.
        aggregate: mean, or iqm: the mean of the middle half of the seeds.
        up_to: last step of each seed's curve to count; None: the whole curve.

    Returns:
        NaN if any seed has no value, such as one that finished no episode.

    Raises:
        ConfigError: unknown measure or aggregate, or evaluation with `up_to`.
        StudyError: no run in the folder, or a damaged one.
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
