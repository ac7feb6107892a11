"""Scores of every arm by each measure, before they are compared; and how many comparisons there will be."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from rlexp.compare import statistics
from rlexp.compare.arms import Comparison, Task
from rlexp.compare.look_book import Arms
from rlexp.compare.measures import MEASURES, RETURNS
from rlexp.compare.question import Question
from rlexp.compare.results import UNEVALUATED, Pair, Result, floor, score
from rlexp.compare.statistics import Interval
from rlexp.text import number


def primary_scores(comparison: Comparison, baseline: str, question: Question) -> tuple[list[Result], Arms]:
    """Every arm's scores by the primary measure, not compared yet; and the arms to be compared by environment.

    Those without a score so far are among them, also on environments of which nothing has ended.
    """
    scored = scores_by(comparison, baseline, question.primary)
    compared = {}
    for task in comparison.all_tasks:
        arms = dict.fromkeys((*task.arms, *task.absent))
        if baseline in arms:
            compared[task.env] = {task.id_of(arm): arm for arm in arms if arm != baseline}
    return scored, {env: arms for env, arms in compared.items() if arms}


def number_of(lists: Iterable[Arms]) -> int:
    """Comparisons: of each arm with the baseline on each environment, and over all that it is on.

    lists: of what was compared at several times; the name of an arm, which depends on what is beside it, is one over
    the environments of a list.
    """
    groups: list[set[tuple[str, str]]] = []  # environments and ids of one arm
    for each in lists:
        for name in {name for arms in each.values() for name in arms.values()}:
            found = {(env, i) for env, arms in each.items() for i, called in arms.items() if called == name}
            touched = [group for group in groups if group & found]
            groups = [group for group in groups if not group & found] + [found.union(*touched)]
    counts = [Counter(env for env, _ in group) for group in groups]
    return sum(ids.total() + (max(ids.values()) if len(ids) > 1 else 0) for ids in counts)


def scores_by(comparison: Comparison, baseline: str, measure: str) -> list[Result]:
    """Results of one measure, the baseline's first, the others by name."""
    names = sorted(comparison.arm_names, key=lambda name: name != baseline)
    return [_measured(task, name, measure) for name in names for task in comparison.tasks if _is_there(task, name)]


def _is_there(task: Task, arm: str) -> bool:
    return arm in task.arms or "diverged" in task.absent.get(arm, {}).values()


def pairs_of(results: list[Result], baseline: str) -> list[Pair]:
    """Each result with that of the baseline on the same environment; without those that cannot be compared."""
    base = {r.env: r for r in results if r.arm == baseline and len(r.scores)}
    return [(r, base[r.env]) for r in results if r.arm != baseline and r.env in base and len(r.scores)]


def _measured(task: Task, arm: str, measure: str) -> Result:
    """Scores of an arm's seeds: of a diverged one the floor, see `floor`; a seed that has none is missing."""
    samples = task.arms.get(arm, [])
    values = np.array([score(sample, task, measure) for sample in samples], float)
    scores = np.array([float(f"{x:.12g}") for x in values[np.isfinite(values)]])  # 0.1 + 0.2 is 0.3
    low = floor(task, measure)
    missing = dict(task.absent.get(arm, {}))
    for sample, value in zip(samples, values, strict=True):
        if not math.isfinite(value):
            missing[sample.seed] = UNEVALUATED if measure == "evaluation" and sample.evaluation is None else "no score"
    diverged = 0
    if low is not None and measure in RETURNS:
        diverged = sum(why == "diverged" for why in missing.values())
        missing = {seed: why for seed, why in missing.items() if why != "diverged"}
        scores = np.concatenate([scores, np.full(diverged, low)])
    if not len(scores):
        return Result(task, arm, measure, scores, Interval(), Interval(), 0, missing)
    limits = (task.limits or (None, None)) if measure in RETURNS else (None, None)
    mean, iqm = statistics.mean_interval(scores, limits), statistics.iqm_interval(scores, limits)
    return Result(task, arm, measure, scores, mean, iqm, diverged, missing)


def check_limits(comparison: Comparison) -> None:
    """Drop limits of a score that scores are beyond, with a remark: they are not what was declared."""
    for task in comparison.tasks:
        if task.limits is None:
            continue
        low, high = (side * math.inf if x is None else x for side, x in zip((-1, 1), task.limits, strict=True))
        near = 1e-6 * max(1.0, *(abs(x) for x in (low, high) if math.isfinite(x)))
        scores = [MEASURES[name].of(x, task) for name in RETURNS for sample in task.samples for x in sample.each]
        if beyond := [x for x in scores if math.isfinite(x) and not low - near <= x <= high + near]:
            task.limits = None
            told = f"a score of {number(beyond[0])} is beyond the limits {number(low)} to {number(high)}"
            comparison.remarks.append(f"{task.env}: {told}, which are not used; see env.limits")
