"""Tables of a comparison for csv files: results, per-seed scores, learning curves."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.compare.arms import Comparison
from rlexp.compare.measures import MEASURES, steps_to
from rlexp.compare.verdict import Result
from rlexp.text import sanitize_csv_cell

CURVE_POINTS = 51

Row = dict[str, Any]


def results_table(results: list[Result]) -> list[Row]:
    """One row per result."""
    rows = []
    for r in results:
        against, improvement = r.against, r.improvement
        rows.append(
            {
                "env": r.env,
                "arm": r.arm,
                "measure": r.measure,
                "n": len(r.scores),
                "mean": r.mean,
                "iqm": r.iqm.value,
                "iqm_low": r.iqm.low,
                "iqm_high": r.iqm.high,
                "difference": against.value if against else None,
                "difference_low": against.low if against else None,
                "difference_high": against.high if against else None,
                "p_welch": against.p if against else None,
                "p_holm": r.p_holm if against else None,
                "improvement": improvement.value if improvement else None,
                "improvement_low": improvement.low if improvement else None,
                "improvement_high": improvement.high if improvement else None,
                "detectable": r.detectable if against else None,
                "seeds_to_settle": r.seeds_to_settle,
                "verdict": r.verdict,
            }
        )
    return rows


def scores_table(comparison: Comparison) -> list[Row]:
    """One row per seed: every measure, steps to the threshold, and the training time of the run it was part of."""
    rows = []
    for task in comparison.tasks:
        for name, arm in task.arms.items():
            for sample in arm.samples:
                row: Row = {"env": task.env, "arm": name, "seed": sample.seed}
                row |= {name: measure.of(sample, task) for name, measure in MEASURES.items()}
                first = np.nan
                if task.threshold is not None:
                    first = steps_to(task.threshold, sample.curve.steps, sample.curve.returns)
                row["steps_to_threshold"] = first if np.isfinite(first) else np.nan
                row |= {"steps": sample.curve.steps[-1], "seconds_of_run": sample.curve.seconds[-1]}
                row["run"] = sample.run.folder.name
                rows.append(row)
    return rows


def curves_table(comparison: Comparison) -> list[Row]:
    """Moving average over the last 100 episodes at equally spaced steps: one row per point, one column per seed."""
    seeds = sorted({s.seed for task in comparison.tasks for arm in task.arms.values() for s in arm.samples})
    rows = []
    for task in comparison.tasks:
        for name, arm in task.arms.items():
            grid = np.linspace(0, max(sample.curve.steps[-1] for sample in arm.samples), CURVE_POINTS)[1:]
            curves = {sample.seed: sample.curve for sample in arm.samples}
            returns = {seed: np.interp(grid, curve.steps, curve.returns, left=np.nan) for seed, curve in curves.items()}
            for i, step in enumerate(grid):
                row: Row = {"env": task.env, "arm": name, "step": round(step)}
                rows.append(row | {f"seed_{seed}": returns[seed][i] if seed in returns else np.nan for seed in seeds})
    return rows


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
