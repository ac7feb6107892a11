"""Figures of a comparison, as a paper takes them: written as svg and png, at a width that was asked for as pdf too."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlexp.compare import statistics
from rlexp.compare.arms import Comparison, Task
from rlexp.compare.curves import X_AXES, evaluation_curves, has_evaluations, learning_curves, sample_efficiency
from rlexp.compare.forest import differences
from rlexp.compare.holders import holder_figure, holders
from rlexp.compare.measures import MEASURES, RETURNS
from rlexp.compare.panels import Panel, blocks_of, draw_blocks
from rlexp.compare.results import Judgement, Result, normalised
from rlexp.compare.style import WIDTH, Look, Sheet, arm_looks, plain

MOST_DOTS = 600  # per panel; with more, seeds are not drawn
POINTS = 400  # of a profile

NAMES = ["differences", *(f"curves_{over}" for over in X_AXES), "curves_evaluation"]
NAMES += [*(f"intervals_{measure}" for measure in MEASURES), "profile", "sample_efficiency", "holders"]
NO_DATES = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
DOTS_PER_INCH = 120  # of png; and of the seeds of crowded panels
FILES = [f"{name}.{kind}" for name in NAMES for kind in NO_DATES]


def intervals(results: list[Result], measure: str, looks: dict[str, Look], sheet: Sheet) -> Figure:
    """Mean and 95 % interval of every arm, its seeds as dots; one panel per environment."""
    shown = [r for r in results if r.measure == measure and len(r.scores)]
    envs = list(dict.fromkeys(r.env for r in shown))
    names = [name for name in looks if any(r.arm == name for r in shown)]
    labels = [sheet.wrap(name, sheet.label_width) for name in names]
    beside = max(map(sheet.length, labels))
    columns = min(len(envs), max(1, int((sheet.width - beside) / 1.7)))
    rows = -(-len(envs) // columns)
    columns = -(-len(envs) // rows)  # rows of like length
    tall = max(2.2, max(label.count("\n") for label in labels) + 1.3) * sheet.line
    size = (sheet.width, rows * (len(names) * tall + 3.2 * sheet.line) + 2 * sheet.line)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for k, (axes, env) in enumerate(zip(grid, envs, strict=False)):
        _draw_intervals(axes, [r for r in shown if r.env == env], names, looks)
        axes.set_title(env)
        axes.set(yticks=range(len(names)), yticklabels=labels, ylim=(len(names) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelsize=sheet.font)
        axes.yaxis.set_visible(k % columns == 0)
        plain(axes.xaxis, 4 if columns < 4 else 3)
    for axes in grid[len(envs) :]:
        axes.remove()
    diverged = "; ×: diverged" if any(r.diverged for r in shown) else ""
    text = f"{measure}: {MEASURES[measure].meaning}\nmean, 95 % interval, seeds{diverged}"
    figure.supxlabel("\n".join(sheet.wrap(line, sheet.width - 0.2) for line in text.split("\n")))
    return figure


def _draw_intervals(axes: Axes, results: list[Result], names: list[str], looks: dict[str, Look]) -> None:
    """Rows of one environment: the interval, and the seeds below it."""
    heights = np.array([names.index(r.arm) for r in results])
    colours = [looks[r.arm]["color"] for r in results]
    axes.hlines(heights - 0.15, [r.mean.low for r in results], [r.mean.high for r in results], colours, linewidth=2)
    axes.scatter([r.mean.value for r in results], heights - 0.15, c=colours, marker="|", s=80, linewidth=2, zorder=3)
    if heights[0] == 0:  # the baseline
        axes.axvline(results[0].mean.value, color=colours[0], linewidth=0.6, linestyle=":", zorder=1)
    if sum(len(r.scores) for r in results) > MOST_DOTS:
        return
    for r, height, colour in zip(results, heights, colours, strict=True):
        y = height + 0.25 + 0.09 * np.sin(np.arange(len(r.scores)) * 2.4)  # scattered, but the same every time
        trained = len(r.scores) - r.diverged
        seeds = {"color": colour, "linestyle": "none", "markeredgewidth": 0.5}
        axes.plot(r.scores[:trained], y[:trained], marker=".", markersize=4, alpha=0.5, **seeds)
        axes.plot(r.scores[trained:], y[trained:], marker="x", markersize=3.5, **seeds)


def profiles(comparison: Comparison, judgement: Judgement, sheet: Sheet) -> Figure:
    """Performance profile: fraction of seeds whose normalised score exceeds τ, averaged over environments."""
    measure = judgement.question.primary if judgement.question.primary in RETURNS else "final"
    looks = arm_looks(comparison.arm_names, judgement.baseline)
    scores: dict[str, list[np.ndarray]] = {}
    for r in judgement.results:
        if r.measure == measure and len(r.scores):
            scores.setdefault(r.arm, []).append(normalised(r.scores, r.task, r.measure))
    every = np.concatenate([x for arrays in scores.values() for x in arrays] or [np.zeros(1)])
    grid = np.linspace(min(0.0, float(every.min())), max(1.0, float(every.max())), POINTS)

    def draw(axes: Axes, _: Task | None, panel: Panel) -> None:
        for name in panel.arms:
            if name in scores:
                axes.plot(grid, statistics.profile(scores[name], grid), linewidth=1.5, **looks[name])

    def finish(axes: Axes, _: Task | None) -> None:
        axes.set(ylim=(-0.02, 1.02))
        plain(axes.xaxis, 5)
        plain(axes.yaxis, 5)

    blocks = blocks_of(comparison, judgement.baseline, together=True)
    figure = draw_blocks(blocks, sheet, looks, [], draw, finish)
    figure.supxlabel(f"τ: {measure}, normalised: 0 no skill, 1 mastery")
    figure.supylabel("fraction of seeds above τ")
    return figure


def _made(comparison: Comparison, judgement: Judgement, sheet: Sheet) -> dict[str, Callable[[], Figure]]:
    """What makes each figure that there is something for, in reading order."""
    baseline, results = judgement.baseline, judgement.results
    looks = arm_looks(comparison.arm_names, baseline)
    made: dict[str, Callable[[], Figure]] = {}
    if judgement.primary:
        made["differences"] = partial(differences, judgement, comparison.arm_names, sheet)
    for over in X_AXES:
        made[f"curves_{over}"] = partial(learning_curves, comparison, over, baseline, sheet)
    if has_evaluations(comparison):
        made["curves_evaluation"] = partial(evaluation_curves, comparison, baseline, sheet)
    for measure in MEASURES:
        if any(r.measure == measure and len(r.scores) for r in results):
            made[f"intervals_{measure}"] = partial(intervals, results, measure, looks, sheet)
    made["profile"] = partial(profiles, comparison, judgement, sheet)
    if len(comparison.tasks) > 1:
        made["sample_efficiency"] = partial(sample_efficiency, comparison, baseline, sheet)
    if comparison.has_populations and (found := holders(comparison)):
        made["holders"] = partial(holder_figure, found, sheet)
    return made


def draw(
    comparison: Comparison, judgement: Judgement, folder: Path, width: float | None = None, fonts: str = "text"
) -> list[str]:
    """Write every figure as svg and png, with a width also as pdf; returns their names, in reading order.

    Args:
        comparison: what was compared.
        judgement: the answer.
        folder: where to; it exists.
        width: of every figure in inches; default: both columns of a page.
        fonts: of svg files: "text", which can be selected and searched, or "paths", which look the same everywhere.
    """
    sheet = Sheet(width or WIDTH, fonts)
    made = _made(comparison, judgement, sheet)
    kinds = (
        ["svg", "png"] if width is None else ["svg", "pdf", "png"]
    )  # embedding fonts in a pdf takes as long as the rest
    with mpl.rc_context(sheet.settings):
        for name, make in made.items():
            figure = make()
            if layout := figure.get_layout_engine():
                layout.execute(figure)
            figure.set_layout_engine(None)  # the same for all files; "none" would compute it again for each
            for kind in kinds:
                figure.savefig(folder / f"{name}.{kind}", dpi=DOTS_PER_INCH, metadata=NO_DATES[kind])
    return list(made)
