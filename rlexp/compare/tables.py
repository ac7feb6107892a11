"""Tables of a comparison for csv files: results, per-seed scores, learning curves, evaluations during training."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.audit import diverged
from rlexp.compare.measures import MEASURES, last, steps_to
from rlexp.compare.results import Judgement, score
from rlexp.compare.samples import Sample
from rlexp.compare.statistics import Difference, Interval
from rlexp.study.runs import Run, last_rows
from rlexp.text import natural, sanitize_csv_cell

CURVE_POINTS = 51

Row = dict[str, Any]


def results_table(judgement: Judgement) -> list[Row]:
    """One row per result."""
    return [
        {
            "env": r.env,
            "arm": r.arm,
            "measure": r.measure,
            "role": "primary" if r.measure == judgement.question.primary else "secondary",
        }
        | {"n": len(r.scores), "planned": r.planned, "diverged": r.diverged}
        | _interval("mean", r.mean)
        | _interval("iqm", r.iqm)
        | _interval("difference", r.against)
        | {"alpha": r.against.alpha if r.compared else np.nan, "p": r.against.p}
        | _interval("iqm_difference", r.against_iqm)
        | _interval("improvement", r.improvement)
        | {"p_rank": r.p_rank, "margin": r.margin}
        | {"verdict": r.verdict and r.verdict.word, "within_margin": r.verdict and r.verdict.within}
        | {"why": r.verdict and r.verdict.why}
        for r in judgement.results
    ]


def _interval(name: str, x: Interval | Difference) -> Row:
    return {name: x.value, f"{name}_low": x.low, f"{name}_high": x.high}


def scores_table(comparison: Comparison, judgement: Judgement) -> list[Row]:
    """One row per seed: every measure, its last 100 training episodes, steps to the threshold, its run's training time.

    A diverged seed has the scores that it is judged by, and nothing else. A population has one row, by the mean of its
    members, and columns for its best one.
    """
    rows = []
    for task in comparison.tasks:
        for name, samples in task.arms.items():
            for sample in samples:
                curve = sample.curve
                row: Row = {"env": task.env, "arm": name, "seed": sample.seed, "outcome": "done"}
                row |= {measure: score(sample, task, measure) for measure in MEASURES}
                row["last_100_episodes"] = last(curve.returns)  # as others report; its steps depend on their length
                first = np.inf if task.threshold is None else steps_to(task.threshold, curve.steps, curve.returns)
                row["steps_to_threshold"] = first if np.isfinite(first) else np.nan
                row |= {"steps": curve.steps[-1], "seconds_of_run": curve.seconds[-1], "run": sample.run.folder.name}
                rows.append(row | (_of_members(sample, task) if comparison.has_populations else {}))
    lost_in = {(r.env, r.arm): r for r in judgement.results if r.diverged}
    for (env, arm), r in lost_in.items():
        scored = {x.measure: x.scores[-1] for x in judgement.results if (x.env, x.arm) == (env, arm) and x.diverged}
        for seed in sorted(seed for seed, why in r.task.absent[arm].items() if why == "diverged"):
            lost: Row = {"env": env, "arm": arm, "seed": seed, "outcome": "diverged"}
            rows.append({**dict.fromkeys(rows[0]), **scored, **lost})
    return rows


def _of_members(sample: Sample, task: Task) -> Row:
    """How many members a population has, and the scores of its best one; an agent alone is its only member."""
    best = sample.best
    row: Row = {"members": sample.agents, "diverged_members": len(sample.lost)}
    return row | {"best_seed": best.seed} | {f"best_{name}": of(best, task) for name, (_, of) in MEASURES.items()}


def curves_table(comparison: Comparison) -> list[Row]:
    """Moving average over the last 100 episodes at equally spaced steps: one row per point, one column per seed."""
    seeds = sorted({s.seed for task in comparison.tasks for s in task.samples})
    rows = []
    for task in comparison.tasks:
        for name, samples in task.arms.items():
            grid = np.linspace(0, max(sample.curve.steps[-1] for sample in samples), CURVE_POINTS)[1:]
            columns = dict.fromkeys(seeds, np.full(len(grid), np.nan))
            for sample in samples:
                columns[sample.seed] = np.interp(grid, sample.curve.steps, sample.curve.returns, left=np.nan)
            for i, step in enumerate(grid):
                row: Row = {"env": task.env, "arm": name, "step": round(step)}
                rows.append(row | {f"seed_{seed}": column[i] for seed, column in columns.items()})
    return rows


def evaluations_table(comparison: Comparison) -> list[Row]:
    """Mean returns of frozen evaluations during training, a row for each of each run, a column per agent.

    Empty if there were none. Members of populations have columns of their own. An agent that diverged is there until
    then, if others of its run did not. step: mean over the agents evaluated.
    """
    rows: list[Row] = []
    for task in comparison.tasks:
        for name in task.arms:
            for run, seeds in _agents_by_run(task, name):
                curves = {seed: run.curves[seed] for seed in seeds}
                for actions, kind in (("deterministic", "evaluated"), ("sampled", "evaluated_sampled")):
                    found = {seed: getattr(curve, kind) for seed, curve in curves.items()}
                    for k in range(max(map(len, found.values()))):  # rows of metrics.csv, the same updates for all
                        made = {seed: x[k] for seed, x in found.items() if k < len(x) and np.isfinite(x[k])}
                        if made:
                            step = np.mean([curves[seed].steps[k] for seed in made])
                            row: Row = {"env": task.env, "arm": name, "actions": actions, "step": round(step)}
                            rows.append(row | {f"seed_{seed}": x for seed, x in made.items()})
    columns = sorted({column for row in rows for column in row if column.startswith("seed_")}, key=natural)
    return [dict.fromkeys([*list(row)[:4], *columns], np.nan) | row for row in rows]


def last_rows_table(comparison: Comparison) -> list[Row]:
    """All that each agent logged last, such as its entropy or the age of its anchor.

    Of one that diverged, before that, if others of its run did not.
    """
    rows: list[Row] = []
    for task in comparison.tasks:
        for name in task.arms:
            for run, seeds in _agents_by_run(task, name):
                found, lost = last_rows(run), diverged(run)
                for seed in (seed for seed in seeds if seed in found):
                    outcome = "diverged" if seed in lost else "done"
                    known: Row = {"env": task.env, "arm": name, "seed": seed, "outcome": outcome}
                    rows.append(known | found[seed] | known | {"run": run.folder.name})
    columns = dict.fromkeys(column for row in rows for column in row)
    return [dict.fromkeys(columns, np.nan) | row for row in rows]


def _agents_by_run(task: Task, arm: str) -> list[tuple[Run, list[int]]]:
    """An arm's runs with the seeds of their agents, members of populations and diverged ones included.

    A seed that was trained twice is in the run that counts.
    """
    runs = {sample.run.folder: sample.run for sample in task.arms[arm]}
    lost = {seed: task.runs[arm][seed] for seed, why in task.absent.get(arm, {}).items() if why == "diverged"}
    counts = lost | {sample.seed: sample.run.folder for sample in task.arms[arm]}  # by the first of a population
    agents = []
    for folder, run in runs.items():
        members = (seeds for first, seeds in run.populations.items() if counts.get(first) == folder)
        agents.append((run, list(itertools.chain(*members))))
    return agents


def write_csv(path: Path, rows: Sequence[Row], digits: int = 6) -> None:
    """Write rows as csv: floats with `digits` significant digits, NaN and None as empty cells."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(sanitize_csv_cell, rows[0]))
        writer.writerows([_cell(value, digits) for value in row.values()] for row in rows)


def _cell(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        if value != value:  # NaN
            return ""
        return int(value) if value.is_integer() else f"{value:.{digits}g}"
    return sanitize_csv_cell(value)
