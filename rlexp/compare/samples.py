"""Samples, the units of every statistic: seeds of an arm, or its populations, each with its learning curve."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlexp.compare.audit import abbreviate, diverged
from rlexp.study.runs import Curve, Run


@dataclass(frozen=True)
class Sample:
    """One seed of one arm, or one population, named by its first seed: the unit of every statistic.

    Of a population curve and evaluation are as `curve_of` says; `results.score` is its score.
    """

    seed: int
    curve: Curve
    evaluation: float | None
    run: Run
    members: tuple["Sample", ...] = ()  # of a population, without those that diverged
    lost: tuple[int, ...] = ()  # seeds of its members that diverged

    @property
    def each(self) -> tuple["Sample", ...]:
        """Its members; an agent alone is the only one."""
        return self.members or (self,)

    @property
    def agents(self) -> int:
        """How many members it has, those that diverged included."""
        return len(self.each) + len(self.lost)

    @property
    def best(self) -> "Sample":
        """The member with the highest mean of the last training episodes, never by what it is scored by."""
        return max(self.each, key=lambda member: float(np.nan_to_num(member.curve.returns[-1], nan=-np.inf)))

    @property
    def last_seed(self) -> int:
        """The last of its members' seeds."""
        return max((*(member.seed for member in self.each), *self.lost))


def samples_of(name: str, runs: Iterable[Run], remarks: list[str]) -> list[Sample]:
    """The seeds or populations of an arm, in order; for one trained twice, the last of the runs counts."""
    found: dict[int, Sample] = {}
    last: dict[int, Path] = {}
    again: dict[int, None] = {}
    others: dict[Path, None] = {}
    for run in runs:
        for seed, members in run.populations.items():
            if seed in last:
                found.pop(seed, None)
                again[seed] = others[last[seed]] = None
            last[seed] = run.folder
            if diverged(run).issuperset(members):  # it is absent, as diverged
                continue
            sample = _sample(run, members)
            if np.isnan(sample.curve.returns).all():
                remarks.append(f"{run.folder}: seed {seed} is left out: it finished no training episode")
                continue
            found[seed] = sample
    if again:
        told = f"not {abbreviate(list(others))}"
        remarks.append(
            f"{name}, seed {abbreviate(sorted(again))}: trained twice; the run that started last counts, {told}"
        )
    samples = [found[seed] for seed in sorted(found)]
    if lost := [seed for sample in samples for seed in sample.lost]:
        remarks.append(
            f"{name}: members {abbreviate(lost)} diverged, and count in their populations as diverged seeds do"
        )
    if shared := [one.seed for one, other in itertools.pairwise(samples) if one.last_seed >= other.seed]:
        remarks.append(
            f"{name}: populations {abbreviate(shared)} have members of the same seeds as the next, so they are not "
            f"independent; train them with seed= a multiple of population apart"
        )
    return samples


def _sample(run: Run, seeds: Sequence[int]) -> Sample:
    """A population of these seeds, some of which have not diverged; an agent alone if it is one."""
    left = [seed for seed in seeds if seed not in diverged(run)]
    each = [Sample(seed, run.curves[seed], run.evaluations.get(seed), run) for seed in left]
    if len(seeds) == 1:
        return each[0]
    lost = tuple(seed for seed in seeds if seed not in left)
    evaluations = [sample.evaluation for sample in each if sample.evaluation is not None]
    mean = float(np.mean(evaluations)) if len(evaluations) == len(each) else None
    return Sample(seeds[0], curve_of(run, left, lost), mean, run, tuple(each), lost)


def curve_of(run: Run, members: Sequence[int], lost: Sequence[int] = ()) -> Curve:
    """Learning curve of a population, from those of its members (seeds), and of those that diverged (lost).

        steps, episodes = Σ over all      returns, evaluations = mean over the members that have one
        row_returns = mean over all members' episodes since the row before      seconds: of the run, as they are

    A diverged member counts in the sums, from then on with what it had by then.
    """
    curves = [run.curves[seed] for seed in members]
    rows = min(len(curve.steps) for curve in curves)
    made = [(curve.steps[:rows], curve.episodes[:rows]) for curve in curves]
    made += [_ended(run, seed, rows) for seed in lost]
    steps, episodes = (np.sum(each, axis=0) for each in zip(*made, strict=True))
    counts = np.array([np.diff(curve.episodes[:rows], prepend=0.0) for curve in curves])  # (members, rows)
    of_rows = np.array([curve.row_returns[:rows] for curve in curves])
    counts[np.isnan(of_rows)] = 0
    total = counts.sum(0)
    summed = np.where(counts > 0, counts * of_rows, 0.0).sum(0)
    row_returns = np.divide(summed, total, out=np.full(rows, np.nan), where=total > 0)
    means = [
        mean_of([getattr(c, name)[:rows] for c in curves]) for name in ("returns", "evaluated", "evaluated_sampled")
    ]
    returns, evaluated, sampled = means
    return Curve(steps, curves[0].seconds[:rows], returns, episodes, row_returns, evaluated, sampled)


def _ended(run: Run, seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and episodes of a diverged agent at each of so many rows, which go on after its last."""
    curve, end = run.curves[seed], run.diverged.get(seed, {}).get("step")
    known = len(curve.steps[:rows])
    steps, episodes = np.zeros(rows), np.zeros(rows)
    for whole, part in ((steps, curve.steps), (episodes, curve.episodes)):
        whole[:known] = part[:rows]
        whole[known:] = part[-1] if known else 0.0
    if isinstance(end, int):
        steps[known:] = end
    return steps, episodes


def mean_of(values: Sequence[np.ndarray | float]) -> np.ndarray:
    """Mean over the first axis of what is known; NaN where nothing is."""
    x = np.array(values, float)
    known = ~np.isnan(x)
    count = known.sum(0)
    total = np.where(known, x, 0.0).sum(0)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)
