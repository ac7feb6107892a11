"""Judges every arm against the baseline: by each measure, on each environment and over all of them."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rlexp.compare import statistics
from rlexp.compare.arms import Comparison, Task
from rlexp.compare.measures import MEASURES, last
from rlexp.compare.statistics import Difference, Interval, Resampler
from rlexp.errors import ConfigError

Verdict = Literal["better", "worse", "inconclusive"]
ALPHA = 0.05
BOOTSTRAP_SEED = 20210830  # fixed: the same runs give the same numbers to the last digit


@dataclass
class Result:
    """One arm by one measure on one environment; fields from `against` on compare it with the baseline."""

    task: Task
    arm: str
    measure: str
    scores: np.ndarray  # (seeds,), without NaN
    mean: float
    iqm: Interval
    against: Difference = field(default=Difference())
    p_holm: float = np.nan
    improvement: Interval = field(default=Interval())
    verdict: Verdict | None = None  # None: the baseline itself, or there is none to compare with
    detectable: float = np.nan  # difference that this many seeds detect four times in five
    seeds_to_settle: int | None = None  # seeds per arm that detect the observed difference four times in five

    @property
    def env(self) -> str:
        """The environment's id."""
        return self.task.env


@dataclass(frozen=True)
class Overall:
    """One arm against the baseline over all environments that both ran on, in normalised scores."""

    arm: str
    envs: int
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
    scores = [last(sample.curve.returns) for sample in task.samples]
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    return (low, high) if high > low else (low, low + 1.0)


def judge(comparison: Comparison, baseline: str) -> tuple[list[Result], list[Overall]]:
    """All results, and the overall verdict of each arm except the baseline."""
    resampler = Resampler(BOOTSTRAP_SEED)
    names = sorted(comparison.arm_names, key=lambda name: name != baseline)  # the baseline first, the others by name
    results: list[Result] = []
    for measure in MEASURES:
        measured = [
            _measured(task, name, measure, resampler)
            for name in names
            for task in comparison.tasks
            if name in task.arms
        ]
        _compare_with_baseline(measured, baseline)
        results += measured
    return results, _overall(results, [name for name in names if name != baseline])


def _measured(task: Task, arm: str, measure: str, resampler: Resampler) -> Result:
    scores = np.array([MEASURES[measure].of(sample, task) for sample in task.arms[arm]])
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return Result(task, arm, measure, scores, np.nan, Interval())
    return Result(task, arm, measure, scores, float(scores.mean()), statistics.iqm_interval(scores, resampler))


def _compare_with_baseline(results: list[Result], baseline: str) -> None:
    """Add the comparison to the results of one measure; p is corrected over all arms and environments together."""
    base = {r.env: r.scores for r in results if r.arm == baseline and len(r.scores)}
    compared = [r for r in results if r.arm != baseline and r.env in base and len(r.scores)]
    for r in compared:
        r.against = statistics.difference(r.scores, base[r.env])
    alpha = ALPHA / max(1, sum(not np.isnan(r.against.p) for r in compared))
    for r, p in zip(compared, statistics.holm([r.against.p for r in compared]), strict=True):
        n, m = len(r.scores), len(base[r.env])
        deviation = r.against.error / math.sqrt(1 / n + 1 / m)
        r.p_holm, r.verdict = p, _verdict(r.against, p)
        r.improvement = statistics.probability_of_improvement(r.scores, base[r.env])
        r.detectable = statistics.detectable(n, m, deviation, alpha)
        if r.verdict == "inconclusive" and not np.isnan(deviation):
            r.seeds_to_settle = statistics.seeds_to_settle(r.against.value, deviation, alpha)


def _verdict(against: Difference, p: float) -> Verdict:
    if np.isnan(p) or p >= ALPHA:
        return "inconclusive"
    return "better" if against.value > 0 else "worse"


def _overall(results: list[Result], arms: list[str]) -> list[Overall]:
    """The verdicts over all environments; p is corrected over the arms."""
    found = []
    for arm in arms:
        final = [r for r in results if r.arm == arm and r.measure == "final" and not np.isnan(r.against.p)]
        if len(final) > 1:
            spans = [high - low for low, high in (scale(r.task) for r in final)]
            found.append((arm, len(final), statistics.overall([r.against for r in final], spans)))
    corrected = statistics.holm([d.p for *_, d in found])
    return [
        Overall(arm, envs, d._replace(p=p), _verdict(d, p)) for (arm, envs, d), p in zip(found, corrected, strict=True)
    ]


def normalised_iqms(comparison: Comparison, results: list[Result]) -> dict[str, tuple[int, Interval]]:
    """For each arm, the number of environments and the IQM of all seeds' normalised final scores."""
    resampler = Resampler(BOOTSTRAP_SEED)
    found = {}
    for name in comparison.arm_names:
        final = [r for r in results if r.arm == name and r.measure == "final" and len(r.scores)]
        if final:
            scores = [normalised(r.scores, r.task) for r in final]
            found[name] = (len(final), statistics.aggregate_iqm(scores, resampler))
    return found
