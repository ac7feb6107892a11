"""What one interval of a difference says, and where no difference can show."""

import math

import numpy as np

from rlexp.compare.measures import RETURNS
from rlexp.compare.results import Result, Verdict
from rlexp.compare.statistics import Difference

AT_LIMIT = 0.01  # of the span between the limits: scores closer to one are at it
NEARLY_ALL = 0.8  # of both arms' seeds; if they are at one limit, no difference can show there


def decide(against: Difference, margin: float, limit: str = "") -> Verdict:
    """The verdict that an interval gives: it excludes 0, or lies within ± margin, or both, or neither.

    limit: where nearly all seeds of both arms are, see `at_limit`: then arms are never called equivalent.
    """
    within = not math.isnan(margin) and -margin <= against.low and against.high <= margin
    if against.low > 0 or against.high < 0:
        return Verdict("better" if against.low > 0 else "worse", within=within)
    if limit:
        return Verdict("inconclusive", limit)
    return Verdict("equivalent") if within else Verdict("inconclusive")


def at_limit(r: Result, base: Result) -> str:
    """The limit of scores that nearly all seeds of both arms are at: "ceiling", "floor", or empty.

    "one score": no such limit is known, but nearly all score exactly the same, as at one.
    """
    values, counts = np.unique(np.concatenate([r.scores, base.scores]), return_counts=True)
    usual = values[counts.argmax()]
    if all((x.scores == usual).mean() >= NEARLY_ALL for x in (r, base)):
        return _named(usual, r.task.limits if r.measure in RETURNS else None)
    if r.task.limits is None or r.measure not in RETURNS:
        return ""
    low, high = r.task.limits
    known = [x for x in (low, high) if x is not None]
    known += [*(r.task.bounds or (0.0,))] if len(known) < 2 else []
    near = AT_LIMIT * (max(known) - min(known))
    for limit, side, name in ((high, 1, "ceiling"), (low, -1, "floor")):
        if limit is not None and all((side * x.scores >= side * limit - near).mean() >= NEARLY_ALL for x in (r, base)):
            return name
    return ""


def _named(score: float, limits: tuple[float | None, float | None] | None) -> str:
    low, high = limits or (None, None)
    return {high: "ceiling", low: "floor"}.get(score, "one score")
