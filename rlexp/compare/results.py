"""What a comparison finds: results of every arm by every measure, verdicts, and the judgement that holds them."""

import functools
import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from rlexp.compare.arms import NEVER, STILL_COMING, Comparison, Task
from rlexp.compare.looks import Seeds
from rlexp.compare.measures import MEASURES, RETURNS
from rlexp.compare.question import Question
from rlexp.compare.samples import Sample, mean_of
from rlexp.compare.statistics import Difference, Interval, aggregate_iqm

ALPHA = 0.05
LARGEST = 1e30  # of a score: the variance of larger ones is no number that can be computed with, or drawn
UNEVALUATED = "not evaluated"  # why a seed that was trained to the end has no score by the final evaluation
Word = Literal["better", "worse", "equivalent", "inconclusive", "interim"]


class Verdict(NamedTuple):
    """The answer on one arm: from one interval, at a level that is corrected for all comparisons and looks."""

    word: Word
    why: str = ""  # of inconclusive or interim, where the interval alone does not say it
    within: bool = False  # better or worse, and the whole interval is within the margin


@dataclass
class Result:
    """One arm by one measure on one environment; fields from `against` on compare it with the baseline."""

    task: Task
    arm: str
    measure: str
    scores: np.ndarray  # (seeds,), without NaN; diverged seeds at the floor
    mean: Interval
    iqm: Interval
    diverged: int = 0
    missing: dict[int, str] = field(default_factory=dict)  # seed -> reason; also those that have no score
    against: Difference = field(default=Difference())
    against_iqm: Interval = field(default=Interval())
    improvement: Interval = field(default=Interval())
    p_rank: float = np.nan
    margin: float = np.nan
    verdict: Verdict | None = None  # of the primary measure only; None also for the baseline

    @property
    def env(self) -> str:
        """The environment's id."""
        return self.task.env

    @property
    def agents(self) -> int:
        """Agents of which each score is the mean; 1: those of seeds."""
        return max((sample.agents for sample in self.task.arms.get(self.arm, ())), default=1)

    @functools.cached_property
    def seeds(self) -> Seeds:
        """The arm's seeds, for the notes on looks."""
        absent = self.task.absent.get(self.arm, {})
        held = {sample.seed for sample in self.task.arms.get(self.arm, ())}
        ended = held | {seed for seed, why in absent.items() if why == "diverged"}
        own = frozenset(held | {seed for seed, why in absent.items() if why != NEVER})
        unevaluated = frozenset(seed for seed, why in self.missing.items() if why == UNEVALUATED)
        runs = self.task.runs.get(self.arm, {})
        runs = runs | {sample.seed: sample.run.folder for sample in self.task.arms.get(self.arm, ())}
        scored = own - self.missing.keys()
        return Seeds(
            self.arm,
            self.task.id_of(self.arm),
            scored,
            frozenset(ended),
            own,
            unevaluated | {seed for seed, why in absent.items() if why in STILL_COMING},
            unevaluated,
            frozenset(seed for seed in scored if absent.get(seed) == "diverged"),
            runs,
        )

    @property
    def compared(self) -> bool:
        """Whether there is a difference from the baseline."""
        return not math.isnan(self.against.value)

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference, corrected as it is, excludes 0; never of too few seeds for a p."""
        return self.against.p <= self.against.alpha

    @property
    def ranks_differ(self) -> bool:
        """Whether the rank test, at the level of the difference, says otherwise: tells arms apart, or the other way."""
        agrees = self.differs and (self.against.value > 0) == (self.improvement.value > 0.5)
        return not agrees and self.p_rank <= self.against.alpha

    @property
    def planned(self) -> int:
        """Seeds that there should be."""
        return len(self.scores) + len(self.missing)


Pair = tuple[Result, Result]  # an arm and the baseline, by one measure on one environment


@dataclass(frozen=True)
class Overall:
    """One arm against the baseline over all environments that both ran on, in shares of their spans of scores."""

    arm: str
    envs: int
    seeds: str  # empty where every seed was scored, else how many were, of each arm
    against: Difference
    margin: float  # mean of the environments' margins, in shares of their spans
    verdict: Verdict


@dataclass(frozen=True)
class Judgement:
    """The answer to a question."""

    question: Question
    baseline: str
    results: list[Result]  # of every measure, the primary one first
    overall: list[Overall]
    tests: int  # comparisons that share the 5 %
    lost: dict[tuple[str, str], dict[int, str]] = field(default_factory=dict)  # environment, arm -> why no seed ended
    added: list[tuple[str, str]] = field(default_factory=list)  # environment, arm: those after the first verdict
    early: dict[str, list[int]] = field(default_factory=dict)  # environment -> fewer seeds that were shown before

    @property
    def primary(self) -> list[Result]:
        """Results by the primary measure, compared with the baseline."""
        return [r for r in self.results if r.measure == self.question.primary and r.verdict is not None]

    def baseline_of(self, r: Result) -> Result:
        """The baseline by the same measure on the same environment."""
        return next(x for x in self.results if (x.env, x.measure, x.arm) == (r.env, r.measure, self.baseline))

    def secondary(self, r: Result) -> list[Result]:
        """The other measures of the same arm on the same environment, compared with the baseline."""
        same = [other for other in self.results if (other.env, other.arm) == (r.env, r.arm)]
        return [other for other in same if other.measure != r.measure and other.compared]


def normalised(scores: np.ndarray, task: Task, measure: str) -> np.ndarray:
    """Scores scaled so that no skill is 0 and mastery is 1."""
    low, high = scale(task, measure)
    return (scores - low) / (high - low)


def scale(task: Task, measure: str) -> tuple[float, float]:
    """The environment's bounds, else the lowest and highest score, NaN where there is none; for retention 0 and 1."""
    if measure not in RETURNS:
        return 0.0, 1.0
    if task.bounds is not None:
        return task.bounds
    known = [x for sample in task.samples if not math.isnan(x := score(sample, task, measure))]
    low, high = min(known, default=math.nan), max(known, default=math.nan)
    return (low, low + 1.0) if low == high else (low, high)


def corrected(p: float, alpha: float) -> str:
    """A p-value times the number of comparisons and looks that its level α was corrected for, as text."""
    return "–" if math.isnan(p) else f"{min(1.0, p * ALPHA / alpha):.2g}"


def span(r: Result) -> float:
    """What a difference by this measure is divided by to be a share: the environment's span; 1 for retention."""
    low, high = scale(r.task, r.measure)
    return high - low


def score(sample: Sample, task: Task, measure: str) -> float:
    """Score of a seed, or of a population: the mean of its members, of which those that diverged have the floor's.

    Of retention, which a member may lack: the mean of those that have one. NaN if it is not finite or beyond LARGEST.
    """
    scores = [MEASURES[measure].of(member, task) for member in sample.each]
    if measure in RETURNS and sample.lost:
        low = floor(task, measure)
        scores += [math.nan if low is None else low] * len(sample.lost)
    value = float(np.mean(scores) if measure in RETURNS else mean_of(scores))
    return value if abs(value) <= LARGEST else math.nan


def floor(task: Task, measure: str) -> float | None:
    """What a diverged seed scores: the lowest possible return, else no skill's or the worst seed's, which is lower.

    The worst is of any arm of the task: that of the seed's own arm may be its best. None if nothing is known.
    """
    if task.limits is not None and task.limits[0] is not None:
        return task.limits[0]
    scores = [MEASURES[measure].of(member, task) for sample in task.samples for member in sample.each]
    known = [score for score in (*scores, *(task.bounds or ())[:1]) if abs(score) <= LARGEST]
    return min(known) if known else None


def normalised_iqms(comparison: Comparison, judgement: Judgement) -> dict[str, tuple[int, Interval]]:
    """For each arm, the number of environments and the IQM of all seeds' normalised primary scores."""
    found = {}
    for name in comparison.arm_names:
        ofs = [
            r for r in judgement.results if r.arm == name and r.measure == judgement.question.primary and len(r.scores)
        ]
        if ofs:
            found[name] = (len(ofs), aggregate_iqm([normalised(r.scores, r.task, r.measure) for r in ofs]))
    return found
