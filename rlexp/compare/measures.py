"""Measures of one seed's learning curve, as pure functions of arrays, and the IQM over seeds; all without scipy."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.samples import Sample
from rlexp.study.runs import Curve

FINAL = 0.1  # of all steps, the last that count as the end of training
EXPOSURE = 0.25  # of all steps, after the threshold, in which retention is measured
BLOCKS = 5  # of the exposure


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


def window_return(curve: Curve, start: float, stop: float) -> float:
    """Mean return of the training episodes that finished at steps in (start, stop]; NaN if none is known to have."""
    counts = np.diff(curve.episodes, prepend=0.0)
    inside = (curve.steps > start) & (curve.steps <= stop) & ~np.isnan(curve.row_returns) & (counts > 0)
    if not inside.any():
        return np.nan
    return float(np.average(curve.row_returns[inside], weights=counts[inside]))


def final_return(curve: Curve) -> float:
    """Mean return of the training episodes of the last FINAL of all steps.

    Of older runs, which lack returns by row: the mean of the last 100 episodes, however many steps they took.
    """
    last_step = float(curve.steps[-1])
    value = window_return(curve, (1 - FINAL) * last_step, last_step)
    return last(curve.returns) if np.isnan(value) else value


def exposure(threshold: float, curve: Curve) -> tuple[float, float] | None:
    """The steps (start, stop] in which a seed's retention is measured: EXPOSURE of all steps after the threshold.

    None if the seed never reached the threshold, or too late to have so many steps left.
    """
    start = steps_to(threshold, curve.steps, curve.returns)
    stop = start + EXPOSURE * float(curve.steps[-1])
    return (start, stop) if stop <= curve.steps[-1] else None


def retention(threshold: float, curve: Curve, floor: float = 0.0) -> float:
    """Share of its best level that a seed still has at the end of equal exposure; 1: it forgot nothing.

    The exposure is divided into BLOCKS of equal steps. Rows of metrics.csv in a block go in turn to three samples of
    different episodes: the first finds the block with the highest mean return, the second measures the level there, the
    third measures the level of the last block, so that no lucky episode is in two of them:

        retention = (third's mean in the last block − floor) / (second's mean in the best block − floor)

    A seed without noise that forgets nothing scores 1, however early or fast it rose. NaN if the seed has no exposure,
    or rows too far apart (log_every) for three samples in a block.
    """
    window = exposure(threshold, curve)
    if window is None or floor >= threshold or (levels := _levels(window, curve)) is None:
        return np.nan
    peak = levels[1, np.argmax(levels[0])] - floor
    return float((levels[2, -1] - floor) / peak) if peak > 0 else np.nan


def without_retention(comparison: Comparison) -> list[str]:
    """Remarks on agents that have none only because too few rows have episodes."""
    remarks = []
    for task in comparison.tasks:
        floor = task.bounds[0] if task.bounds else 0.0
        if task.threshold is None or task.threshold <= floor:
            continue
        each = [member.curve for sample in task.samples for member in sample.each]
        known = [not np.isnan(curve.row_returns).all() for curve in each]  # older versions lack them
        windows = [exposure(task.threshold, curve) if k else None for k, curve in zip(known, each, strict=True)]
        pairs = zip(windows, each, strict=True)
        if lacking := sum(window is not None and _levels(window, curve) is None for window, curve in pairs):
            why = "as too few of their rows have episodes that ended; train with a smaller log_every, or longer"
            remarks.append(f"{task.env}: no retention of {lacking} of {len(each)} agents, {why}")
    return remarks


def _levels(window: tuple[float, float], curve: Curve) -> np.ndarray | None:
    """Mean return of each sample in each block (3, BLOCKS); None if one has no episode."""
    counts = np.diff(curve.episodes, prepend=0.0)
    rows = np.flatnonzero((curve.steps > window[0]) & (curve.steps <= window[1]) & (counts > 0))
    rows = rows[~np.isnan(curve.row_returns[rows])]
    block = np.ceil((curve.steps[rows] - window[0]) / (window[1] - window[0]) * BLOCKS).astype(int) - 1
    third = (np.arange(len(rows)) - np.searchsorted(block, block)) % 3  # place within the block, by turns
    cell, weights = third * BLOCKS + block, counts[rows]
    episodes = np.bincount(cell, weights, 3 * BLOCKS)
    if not episodes.all():
        return None
    return (np.bincount(cell, weights * curve.row_returns[rows], 3 * BLOCKS) / episodes).reshape(3, BLOCKS)


class Measure(NamedTuple):
    """A measure of a seed: more is better, and NaN where the seed has no value."""

    meaning: str
    of: Callable[[Sample, Task | None], float]  # the task has thresholds and bounds, which not every measure needs


def _retention(sample: Sample, task: Task | None) -> float:
    if task is None or task.threshold is None:
        return np.nan
    return retention(task.threshold, sample.curve, task.bounds[0] if task.bounds else 0.0)


MEASURES = {
    "evaluation": Measure(
        "mean return of the final policy, frozen",
        lambda seed, _: np.nan if seed.evaluation is None else seed.evaluation,
    ),
    "evaluation_sampled": Measure(
        "mean return of the final policy, frozen, with sampled actions (evaluation.every)",
        lambda seed, _: float(seed.curve.evaluated_sampled[-1]),  # an earlier one is not of the final policy
    ),
    "final": Measure(
        "mean return of training episodes in the last tenth of steps", lambda seed, _: final_return(seed.curve)
    ),
    "area": Measure(
        "mean height of the learning curve", lambda seed, _: area_under_curve(seed.curve.steps, seed.curve.returns)
    ),
    "retention": Measure("share of its best level kept, at equal exposure after the threshold", _retention),
}
RETURNS = ("evaluation", "evaluation_sampled", "final", "area")  # in units of the score
