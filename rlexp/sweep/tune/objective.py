"""The objective: scores a trial from its run's folder, by a measure of each seed aggregated over seeds.

A population counts as one, by the mean of its members.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlexp.compare.measures import area_under_curve, iqm, last
from rlexp.study.runs import Curve, find_runs, read_curves

Direction = Literal["maximize", "minimize"]

# Of a seed's curve: area and evaluation as in `compare`, and seconds of training, all seeds of the trial
MEASURES: dict[str, tuple[Callable[[Curve], float], Direction]] = {
    "final": (lambda curve: last(curve.returns), "maximize"),  # of 100 episodes; `compare`'s are of a tenth of steps
    "area": (lambda curve: area_under_curve(curve.steps, curve.returns), "maximize"),
    "evaluation": (lambda _: np.nan, "maximize"),  # not in the curve: see `score`
    "seconds": (lambda curve: last(curve.seconds), "minimize"),
}

AGGREGATES: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean, "iqm": iqm}


def score(folder: Path, measure: str, aggregate: str = "mean", up_to: int | None = None) -> float:
    """Score a run, finished or paused: aggregate over seeds of measure(curve of the seed up to so many of its rows).

    NaN if any seed has no value, such as one that finished no episode. Raises StudyError for a damaged run.
    """
    run = find_runs([folder])[0]
    read_curves(run)
    of, _ = MEASURES[measure]
    envs = int(run.settings.get("env.num_envs", 1))
    by_seed = {seed: of(curve if up_to is None else _cut(curve, up_to, envs)) for seed, curve in run.curves.items()}
    if measure == "evaluation":
        by_seed = run.evaluations
    scores = np.array([by_seed.get(seed, np.nan) for seed in run.record.get("seeds") or run.curves])
    scores = scores.reshape(-1, run.population).mean(1)
    return float(AGGREGATES[aggregate](scores)) if len(scores) and not np.isnan(scores).any() else np.nan


def _cut(curve: Curve, up_to: int, envs: int) -> Curve:
    """The curve up to so many rows: one a step, one a reset, which each environment's last episode may still lack."""
    before = curve.steps + curve.episodes - envs <= up_to
    return Curve(**{name: values[before] for name, values in vars(curve).items()})
