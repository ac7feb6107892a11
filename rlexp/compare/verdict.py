"""Judges every arm against the baseline: by each measure, on each environment and over all of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlexp.compare import measures, statistics
from rlexp.compare.arms import Arm, Comparison, Sample, Task
from rlexp.compare.statistics import Difference, Interval, Resampler
from rlexp.errors import ConfigError

Verdict = Literal["better", "worse", "inconclusive"]
ALPHA = 0.05
BOOTSTRAP_SEED = 20210830  # fixed: the same runs give the same numbers to the last digit


def _final(sample: Sample, _: Task) -> float:
    return measures.last_known(sample.curve.returns)


def _evaluation(sample: Sample, _: Task) -> float:
    return np.nan if sample.evaluation is None else sample.evaluation


def _area(sample: Sample, _: Task) -> float:
    return measures.area_under_curve(sample.curve.steps, sample.curve.returns)


def _retention(sample: Sample, task: Task) -> float:
    if task.threshold is None:
        return np.nan
    return measures.retention(task.threshold, sample.curve.returns, task.bounds[0] if task.bounds else 0.0)


# Measures of a seed, with descriptions; higher is better in all of them.
MEASURES: dict[str, tuple[str, Callable[[Sample, Task], float]]] = {
    "final": ("mean return of the last 100 training episodes", _final),
    "evaluation": ("mean return of the final policy in frozen evaluation", _evaluation),
    "area": ("mean height of the learning curve", _area),
    "retention": ("moving average over its best so far, after the threshold", _retention),
}


@dataclass(frozen=True)
class Result:
    """One arm by one measure on one environment; fields from `against` on compare it with the baseline."""

    env: str
    arm: str
    measure: str
    scores: np.ndarray  # (seeds,), without NaN
    mean: float
    iqm: Interval
    against: Difference | None = None
    p_holm: float = np.nan
    improvement: Interval | None = None
    verdict: Verdict | None = None
    detectable: float = np.nan  # difference that this many seeds detect four times in five
    seeds_to_settle: int | None = None  # seeds per arm that detect the observed difference four times in five


@dataclass(frozen=True)
class Overall:
    """One arm against the baseline over all environments that both ran on, in normalised scores."""

    arm: str
    envs: list[str]
    difference: Difference
    verdict: Verdict


def pick_baseline(comparison: Comparison, wanted: str | None) -> str:
    """The arm that the others are compared with.

    Raises:
        ConfigError: no arm of that name, or no single default.
    """
    names = comparison.arm_names
    if wanted is not None and wanted not in names:
        raise ConfigError(f"baseline={wanted}: no such arm; the arms are: {'; '.join(names)}")
    if wanted is not None or "ppo" in names:
        return wanted or "ppo"
    of_ppo = [name for name in names if name.startswith("ppo ")]
    if len(of_ppo) > 1:
        raise ConfigError(f"which arm is the baseline? choose one of: {'; '.join(f'baseline={n!r}' for n in of_ppo)}")
    return (of_ppo or names)[0]


def normalised(scores: np.ndarray, task: Task) -> np.ndarray:
    """Scores scaled so that no skill is 0 and mastery is 1."""
    low, high = scale(task)
    return (scores - low) / (high - low)


def scale(task: Task) -> tuple[float, float]:
    """The environment's bounds, else the lowest and highest final score of any seed."""
    if task.bounds is not None:
        return task.bounds
    scores = [_final(sample, task) for arm in task.arms.values() for sample in arm.samples]
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    return (low, high) if high > low else (low, low + 1.0)


def judge(comparison: Comparison, baseline: str) -> tuple[list[Result], list[Overall]]:
    """All results, and the overall verdict of each arm except the baseline."""
    resampler = Resampler(BOOTSTRAP_SEED)
    names = sorted(comparison.arm_names, key=lambda name: name != baseline)  # the baseline first, the others by name
    results: list[Result] = []
    for measure in MEASURES:
        summaries = [
            _summarise(task, task.arms[name], measure, resampler)
            for name in names
            for task in comparison.tasks
            if name in task.arms
        ]
        results += _compare_with_baseline(summaries, baseline)
    overall = [_overall(comparison, results, name) for name in names if name != baseline]
    return results, _correct([result for result in overall if result is not None])


def _summarise(task: Task, arm: Arm, measure: str, resampler: Resampler) -> Result:
    measured = MEASURES[measure][1]
    scores = np.array([measured(sample, task) for sample in arm.samples])
    scores = scores[~np.isnan(scores)]
    nothing = Interval(np.nan, np.nan, np.nan)
    iqm = statistics.iqm_interval(scores, resampler) if len(scores) else nothing
    return Result(task.env, arm.name, measure, scores, float(scores.mean()) if len(scores) else np.nan, iqm)


def _compare_with_baseline(results: list[Result], baseline: str) -> list[Result]:
    """Add the comparison to the results of one measure; p is corrected over all arms and environments together."""
    base = {r.env: r for r in results if r.arm == baseline and len(r.scores)}
    pairs = [(r, base[r.env]) for r in results if r.arm != baseline and r.env in base and len(r.scores)]
    differences = [statistics.difference(r.scores, b.scores) for r, b in pairs]
    corrected = statistics.holm([d.p for d in differences])
    alpha = ALPHA / max(1, sum(not np.isnan(d.p) for d in differences))
    compared: dict[tuple[str, str], Result] = {}
    for (r, b), against, p in zip(pairs, differences, corrected, strict=True):
        n, m = len(r.scores), len(b.scores)
        spread = against.error / math.sqrt(1 / n + 1 / m)
        verdict = _verdict(against, p)
        compared[r.env, r.arm] = replace(
            r,
            against=against,
            p_holm=p,
            improvement=statistics.probability_of_improvement(r.scores, b.scores),
            verdict=verdict,
            detectable=statistics.detectable(n, m, spread, alpha),
            seeds_to_settle=statistics.seeds_to_settle(against.value, spread, alpha)
            if verdict == "inconclusive" and not np.isnan(spread)
            else None,
        )
    return [compared.get((r.env, r.arm), r) for r in results]


def _verdict(against: Difference, p: float) -> Verdict:
    if np.isnan(p) or p >= ALPHA:
        return "inconclusive"
    return "better" if against.value > 0 else "worse"


def _overall(comparison: Comparison, results: list[Result], arm: str) -> Overall | None:
    by_env = {task.env: task for task in comparison.tasks}
    final = [r for r in results if r.arm == arm and r.measure == "final" and r.against is not None]
    usable = [(r.env, r.against) for r in final if r.against is not None and not np.isnan(r.against.p)]
    if len(usable) < 2:
        return None
    spans = [scale(by_env[env]) for env, _ in usable]
    combined = statistics.overall([against for _, against in usable], [high - low for low, high in spans])
    return Overall(arm, [env for env, _ in usable], combined, _verdict(combined, combined.p))


def _correct(overall: list[Overall]) -> list[Overall]:
    """Correct p over the arms."""
    corrected = statistics.holm([o.difference.p for o in overall])
    return [
        replace(o, difference=o.difference._replace(p=p), verdict=_verdict(o.difference, p))
        for o, p in zip(overall, corrected, strict=True)
    ]


def normalised_iqms(comparison: Comparison, results: list[Result]) -> dict[str, tuple[int, Interval]]:
    """For each arm, the number of environments and the IQM of all seeds' normalised final scores."""
    resampler = Resampler(BOOTSTRAP_SEED)
    by_env = {task.env: task for task in comparison.tasks}
    found = {}
    for name in comparison.arm_names:
        final = [r for r in results if r.arm == name and r.measure == "final" and len(r.scores)]
        scores = [normalised(r.scores, by_env[r.env]) for r in final]
        if scores:
            found[name] = (len(final), statistics.aggregate_iqm(scores, resampler))
    return found
