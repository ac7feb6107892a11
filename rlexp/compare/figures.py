"""Figures of a comparison: learning curves, intervals, performance profile, sample efficiency."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from rlexp.compare import statistics
from rlexp.compare.arms import Comparison, Sample, Task
from rlexp.compare.measures import MEASURES
from rlexp.compare.verdict import Result, normalised

# Okabe and Ito's colour-blind-safe palette without yellow, too faint on white; lightness differs too, for print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BASELINE = "#000000"
DASHES = ("-", "--", "-.", ":")
MOST_ARMS = len(COLOURS)  # in one panel, besides the baseline; with more, an environment is split into several panels
ARMS_PER_PANEL = 4  # of a split environment
MOST_PANELS = 16  # per figure; with more, no environment is split
MOST_VECTOR_CURVES = 30  # per panel; more are rasterized
MOST_CURVES = 120  # per panel; with more, seeds are not drawn
MOST_DOTS = 600  # per panel; with more, seeds are not drawn
POINTS = 200  # per curve

STYLE: Any = {
    "svg.hashsalt": "rlexp",  # identical figures are identical bytes
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name starts no formula
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
X_AXES: dict[str, tuple[str, Callable[[Any], np.ndarray]]] = {
    "steps": ("environment steps", lambda curve: curve.steps),
    "time": ("seconds of training per run, all its seeds, compilation included", lambda curve: curve.seconds),
    "episodes": ("episodes", lambda curve: curve.episodes),
}
NAMES = [*(f"curves_{over}" for over in X_AXES), *(f"intervals_{measure}" for measure in MEASURES)]
NAMES += ["profile", "sample_efficiency"]
FILES = [f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")]


def _axes(figure: Figure, panels: int, columns: int, **shared: Any) -> Sequence[Axes]:
    """Axes of the panels, row by row; what is left of the last row stays empty."""
    grid = figure.subplots(-(-panels // columns), columns, squeeze=False, **shared).flatten()
    for axes in grid[panels:]:
        axes.set_visible(False)
    return grid[:panels]


def _line_styles(names: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """Colour and dashes of every arm; the baseline is black."""
    looks = itertools.cycle({"color": colour, "linestyle": dashes} for dashes in DASHES for colour in COLOURS)
    others = {name: next(looks) for name in names if name != baseline}
    return {baseline: {"color": BASELINE, "linestyle": "-"}} | others


def _panels(comparison: Comparison, baseline: str) -> list[tuple[Task, list[str]]]:
    """One panel per environment; one with many arms is split into several, each with the baseline, if they fit."""
    panels = []
    fits = sum(-(-len(task.arms) // ARMS_PER_PANEL) for task in comparison.tasks) <= MOST_PANELS
    for task in comparison.tasks:
        first = [baseline] if baseline in task.arms else []
        others = [name for name in task.arms if name != baseline]
        size = ARMS_PER_PANEL if len(others) > MOST_ARMS and fits else max(1, len(others))
        chunks = [others[k : k + size] for k in range(0, len(others), size)] or [[]]
        panels += [(task, [*first, *chunk]) for chunk in chunks]
    return panels


def _on_grid(samples: list[Sample], axis: Callable[[Any], np.ndarray], grid: np.ndarray) -> np.ndarray:
    """Every seed's moving average interpolated on the grid (seeds, points); NaN outside its range."""
    curves = [(axis(sample.curve), sample.curve.returns, ~np.isnan(sample.curve.returns)) for sample in samples]
    return np.array([np.interp(grid, x[known], y[known], left=np.nan, right=np.nan) for x, y, known in curves])


def _draw_band(axes: Axes, grid: np.ndarray, seeds: np.ndarray, style: dict[str, Any], **line: Any) -> None:
    """IQM and 95 % band, as far as every seed has a value."""
    whole = ~np.isnan(seeds).any(0)
    middle, low, high = statistics.iqm_band(seeds[:, whole].T)
    axes.fill_between(grid[whole], low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(grid[whole], middle, **line, **style)


def _curves(
    axes: Axes, task: Task, names: list[str], axis: Callable[[Any], np.ndarray], styles: dict[str, dict[str, Any]]
) -> None:
    grid = np.linspace(0, max(float(axis(sample.curve)[-1]) for sample in task.samples), POINTS)
    curves = sum(len(task.arms[name]) for name in names)
    if curves > MOST_VECTOR_CURVES:
        axes.set_rasterization_zorder(0)  # seeds become one image: as paths they would take megabytes
    for name in names:
        seeds = _on_grid(task.arms[name], axis, grid)
        if curves <= MOST_CURVES:
            axes.plot(grid, seeds.T, color=styles[name]["color"], alpha=0.18, linewidth=0.6, zorder=-1)
        _draw_band(axes, grid, seeds, styles[name], linewidth=1.8, label=f"{name} (n = {len(seeds)})")
    returns = np.concatenate([s.curve.returns for s in task.samples])
    low, high = np.nanmin(returns), np.nanmax(returns)
    axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    if task.threshold is not None:
        axes.axhline(task.threshold, color="grey", linewidth=0.8, linestyle=":")


def learning_curves(comparison: Comparison, over: str, baseline: str) -> Figure:
    """Every arm's IQM and 95 % band, its seeds faint behind; panels as in `_panels`."""
    label, axis = X_AXES[over]
    panels = _panels(comparison, baseline)
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    split = len(panels) > len(comparison.tasks)
    height = (4.0 if split else 3.2) * -(-len(panels) // columns) + 0.4
    figure = Figure(figsize=(4.4 * columns + 0.6, height), layout="constrained")
    grid = _axes(figure, len(panels), columns)
    styles = _line_styles(comparison.arm_names, baseline)
    for axes, (task, names) in zip(grid, panels, strict=True):
        _curves(axes, task, names, axis, _line_styles(names, baseline) if split else styles)
        axes.set(title=task.env, xlabel=label)
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.locator_params(nbins=5)
        if split or len(panels) == 1:
            axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.17), borderaxespad=0)
    if not split and len(panels) > 1:
        _legend_below(figure, styles)
    grid[0].set_ylabel("return, mean of the last 100 episodes\nIQM and 95 % interval over seeds")
    return figure


def _legend_below(figure: Figure, styles: dict[str, dict[str, Any]]) -> None:
    lines = [Line2D([], [], linewidth=1.8, label=name, **style) for name, style in styles.items()]
    across = max(1, int(11 * figure.get_figwidth() / max(len(name) + 6 for name in styles)))
    figure.legend(handles=lines, loc="outside lower center", ncols=min(across, len(lines)), fontsize=8)


def intervals(results: list[Result], measure: str, baseline: str) -> Figure:
    """IQM and 95 % interval of every arm, seeds as dots; one panel per environment."""
    shown = [r for r in results if r.measure == measure and len(r.scores)]
    envs = list(dict.fromkeys(r.env for r in shown))
    names = list(dict.fromkeys(r.arm for r in shown))
    styles = _line_styles(names, baseline)
    columns = min(len(envs), 3)
    labels = 0.075 * max(map(len, names))  # inches
    size = (max(6.0, labels + 3.4 * columns), (0.36 * len(names) + 0.9) * -(-len(envs) // columns))
    figure = Figure(figsize=size, layout="constrained")
    for axes, env in zip(_axes(figure, len(envs), columns, sharey=True), envs, strict=True):
        here = [r for r in shown if r.env == env]
        crowded = sum(len(r.scores) for r in here) > MOST_DOTS
        heights = np.array([names.index(r.arm) for r in here]) - 0.2
        colours = [styles[r.arm]["color"] for r in here]
        axes.hlines(heights, [r.iqm.low for r in here], [r.iqm.high for r in here], colors=colours, linewidth=2.2)
        axes.scatter([r.iqm.value for r in here], heights, color=colours, marker="|", s=120, linewidth=2.2)
        for r, height, colour in () if crowded else zip(here, heights, colours, strict=True):
            jitter = 0.35 + 0.12 * np.sin(np.arange(len(r.scores)) * 2.4)  # deterministic
            axes.plot(r.scores, height + jitter, ".", color=colour, alpha=0.35, markersize=4)
        axes.set_yticks(range(len(names)), names)
        axes.locator_params(axis="x", nbins=4)
        axes.set(title=env, ylim=(len(names) - 0.4, -0.6))
    figure.supxlabel(f"{MEASURES[measure].meaning}: IQM, 95 % interval, seeds", fontsize=9)
    return figure


def profiles(comparison: Comparison, results: list[Result], baseline: str) -> Figure:
    """Performance profile: fraction of seeds whose normalised final score exceeds τ, averaged over environments."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    styles = _line_styles(comparison.arm_names, baseline)
    scores = {
        name: [normalised(r.scores, r.task) for r in results if r.arm == name and r.measure == "final"]
        for name in comparison.arm_names
    }
    every = np.concatenate([x for arrays in scores.values() for x in arrays])
    grid = np.linspace(min(0.0, float(every.min())), max(1.0, float(every.max())), POINTS)
    for name, arrays in scores.items():
        axes.plot(grid, statistics.profile(arrays, grid), **styles[name])
    axes.set(xlabel="normalised final score τ", ylabel="fraction of seeds above τ", ylim=(-0.02, 1.02))
    _legend_below(figure, styles)
    return figure


def sample_efficiency(comparison: Comparison, baseline: str) -> Figure:
    """IQM over all environments of the normalised moving average, against the fraction of training."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    styles = _line_styles(comparison.arm_names, baseline)
    grid = np.linspace(0, 1, POINTS)
    for name in comparison.arm_names:
        rows = [
            normalised(_on_grid(task.arms[name], lambda curve: curve.steps / curve.steps[-1], grid), task)
            for task in comparison.tasks
            if name in task.arms
        ]
        _draw_band(axes, grid, np.concatenate(rows), styles[name])
    axes.set(xlabel="fraction of training", ylabel="normalised return, IQM over\nall seeds of all environments")
    _legend_below(figure, styles)
    return figure


def draw(comparison: Comparison, results: list[Result], baseline: str, folder: Path) -> list[str]:
    """Write every figure as svg and png; returns their names, in reading order."""
    with mpl.rc_context(STYLE):
        made = {f"curves_{over}": learning_curves(comparison, over, baseline) for over in X_AXES}
        made |= {
            f"intervals_{measure}": intervals(results, measure, baseline)
            for measure in MEASURES
            if any(r.measure == measure and len(r.scores) for r in results)
        }
        made["profile"] = profiles(comparison, results, baseline)
        if len(comparison.tasks) > 1:
            made["sample_efficiency"] = sample_efficiency(comparison, baseline)
        for name, figure in made.items():
            figure.draw_without_rendering()  # computes the layout once for both files
            figure.set_layout_engine(None)  # "none" would compute it again for each
            figure.savefig(folder / f"{name}.svg", dpi=90, metadata={"Date": None, "Creator": None})
            figure.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})
    return list(made)
