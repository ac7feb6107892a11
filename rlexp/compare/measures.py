"""Measures of one seed's learning curve, as pure functions of arrays."""

import numpy as np


def last_known(values: np.ndarray) -> float:
    """The last value that is not NaN; NaN if there is none."""
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
