"""Figures of a comparison: learning curves, intervals, performance profile, sample efficiency."""

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
from rlexp.compare.arms import Arm, Comparison, Task
from rlexp.compare.verdict import MEASURES, Result, normalised

# Okabe and Ito's palette less its yellow, too faint on white: told apart by the colour-blind, and by lightness in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BASELINE = "#000000"
DASHES = ("-", "--", "-.", ":")
TOGETHER = len(COLOURS)  # arms beside the baseline that one panel can hold; more are drawn a few to a panel
GROUP = 4
MOST_PANELS = 16  # of a figure; beyond, an environment keeps to one
MANY = 30  # curves in a panel that no one will follow one by one
CROWDED = 120  # curves in a panel that can no longer be told apart
DOTS = 600  # the same of dots
POINTS = 200  # of a curve

STYLE: Any = {
    "svg.hashsalt": "rlexp",  # the same figure gives the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are no formulas
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


NAMES = (  # of all figures that can be drawn
    *(f"curves_{over}" for over in ("steps", "time", "episodes")),
    *(f"intervals_{measure}" for measure in MEASURES),
    "profile",
    "sample_efficiency",
)


def _look(names: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """Colour and dash of every arm; the baseline black."""
    others = [name for name in names if name != baseline]
    looks = {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}
        for i, name in enumerate(others)
    }
    return {baseline: {"color": BASELINE, "linestyle": "-"}} | looks


def _panels(comparison: Comparison, baseline: str) -> list[tuple[Task, list[str]]]:
    """An environment a panel; where it has many arms, several panels with the baseline in each, as far as they fit."""
    panels = []
    fits = sum(-(-len(task.arms) // GROUP) for task in comparison.tasks) <= MOST_PANELS
    for task in comparison.tasks:
        first = [baseline] if baseline in task.arms else []
        others = [name for name in task.arms if name != baseline]
        size = GROUP if len(others) > TOGETHER and fits else max(1, len(others))
        chunks = [others[k : k + size] for k in range(0, len(others), size)] or [[]]
        panels += [(task, [*first, *chunk]) for chunk in chunks]
    return panels


def _on_grid(arm: Arm, axis: Callable[[Any], np.ndarray], grid: np.ndarray) -> np.ndarray:
    """Every seed's moving average at the points of the grid (seeds, points); NaN outside its range."""
    rows = []
    for sample in arm.samples:
        x, y = axis(sample.curve), sample.curve.returns
        known = ~np.isnan(y)
        inside = np.interp(grid, x[known], y[known], left=np.nan, right=np.nan) if known.any() else grid * np.nan
        rows.append(inside)
    return np.array(rows)


def _curves(
    axes: Axes, task: Task, names: list[str], axis: Callable[[Any], np.ndarray], looks: dict[str, dict[str, Any]]
) -> None:
    end = max(float(axis(sample.curve)[-1]) for arm in task.arms.values() for sample in arm.samples)
    grid = np.linspace(0, end, POINTS)
    curves = sum(len(task.arms[name].samples) for name in names)
    if curves > MANY:
        axes.set_rasterization_zorder(0)  # they become one image behind the lines, as their paths would take megabytes
    for name in names:
        arm, colour = task.arms[name], looks[name]["color"]
        seeds = _on_grid(arm, axis, grid)
        if curves <= CROWDED:
            axes.plot(grid, seeds.T, color=colour, alpha=0.18, linewidth=0.6, zorder=-1)
        whole = ~np.isnan(seeds).any(0)  # points that every seed has reached
        middle, low, high = statistics.iqm_band(seeds[:, whole].T)
        axes.fill_between(grid[whole], low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(grid[whole], middle, linewidth=1.8, label=f"{name} (n = {len(arm.samples)})", **looks[name])
    returns = np.concatenate([s.curve.returns for arm in task.arms.values() for s in arm.samples])
    low, high = np.nanmin(returns), np.nanmax(returns)
    axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    if task.threshold is not None:
        axes.axhline(task.threshold, color="grey", linewidth=0.8, linestyle=":")


X_AXES: dict[str, tuple[str, Callable[[Any], np.ndarray]]] = {
    "steps": ("environment steps", lambda curve: curve.steps),
    "time": ("seconds of a run's training, all its seeds, compiling included", lambda curve: curve.seconds),
    "episodes": ("episodes", lambda curve: curve.episodes),
}


def learning_curves(comparison: Comparison, over: str, baseline: str) -> Figure:
    """Every seed faint behind the IQM of its arm and the 95 % band, for a panel as `_panels` says."""
    label, axis = X_AXES[over]
    panels = _panels(comparison, baseline)
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    split = len(panels) > len(comparison.tasks)
    figure = Figure(figsize=(4.4 * columns + 0.6, (4.0 if split else 3.2) * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    looks = _look(comparison.arm_names, baseline)
    for axes, (task, names) in zip(grid, panels, strict=False):
        _curves(axes, task, names, axis, _look(names, baseline) if split else looks)
        axes.set_title(task.env)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.locator_params(nbins=5)
        if split or len(panels) == 1:
            axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.17), borderaxespad=0)
    if not split and len(panels) > 1:
        _legend_below(figure, looks)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].set_ylabel("return, mean of the last 100 episodes\nIQM and 95 % interval over seeds")
    return figure


def _legend_below(figure: Figure, looks: dict[str, dict[str, Any]]) -> None:
    lines = [Line2D([], [], linewidth=1.8, label=name, **look) for name, look in looks.items()]
    across = max(1, int(11 * figure.get_figwidth() / max(len(name) + 6 for name in looks)))
    figure.legend(handles=lines, loc="outside lower center", ncols=min(across, len(lines)), fontsize=8)


def intervals(results: list[Result], measure: str, baseline: str) -> Figure:
    """IQM and 95 % interval of every arm, seeds as dots; one panel an environment."""
    own = [r for r in results if r.measure == measure and len(r.scores)]
    envs = list(dict.fromkeys(r.env for r in own))
    names = list(dict.fromkeys(r.arm for r in own))
    looks = _look(names, baseline)
    columns = min(len(envs), 3)
    rows = -(-len(envs) // columns)
    labels = 0.075 * max(map(len, names))  # inches that the names take
    size = (max(6.0, labels + 3.4 * columns), (0.36 * len(names) + 0.9) * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, env in zip(grid, envs, strict=False):
        here = [r for r in own if r.env == env]
        crowded = sum(len(r.scores) for r in here) > DOTS
        places = np.array([names.index(r.arm) for r in here]) - 0.2
        colours = [looks[r.arm]["color"] for r in here]
        axes.hlines(places, [r.iqm.low for r in here], [r.iqm.high for r in here], colors=colours, linewidth=2.2)
        axes.scatter([r.iqm.value for r in here], places, color=colours, marker="|", s=120, linewidth=2.2)
        for r, place, colour in zip(here, places, colours, strict=True):
            spread = 0.35 + 0.12 * np.sin(np.arange(len(r.scores)) * 2.4)  # apart, but the same every time
            if not crowded:
                axes.plot(r.scores, place + spread, ".", color=colour, alpha=0.35, markersize=4)
        axes.set_title(env)
        axes.set_yticks(range(len(names)), names)
        axes.locator_params(axis="x", nbins=4)
        axes.set_ylim(len(names) - 0.4, -0.6)
    for axes in grid[len(envs) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{MEASURES[measure][0]}: IQM, 95 % interval, seeds", fontsize=9)
    return figure


def profiles(comparison: Comparison, results: list[Result], baseline: str) -> Figure:
    """Performance profile: share of seeds whose normalised final score exceeds τ, averaged over environments."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    looks = _look(comparison.arm_names, baseline)
    by_env = {task.env: task for task in comparison.tasks}
    scores = {
        name: [normalised(r.scores, by_env[r.env]) for r in results if r.arm == name and r.measure == "final"]
        for name in comparison.arm_names
    }
    every = np.concatenate([x for arrays in scores.values() for x in arrays])
    grid = np.linspace(min(0.0, float(every.min())), max(1.0, float(every.max())), POINTS)
    for name, arrays in scores.items():
        axes.plot(grid, statistics.profile(arrays, grid), **looks[name])
    axes.set_xlabel("normalised final score τ")
    axes.set_ylabel("share of seeds above τ")
    axes.set_ylim(-0.02, 1.02)
    _legend_below(figure, looks)
    return figure


def sample_efficiency(comparison: Comparison, baseline: str) -> Figure:
    """IQM over all environments of the normalised moving average, over the share of training done."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    looks = _look(comparison.arm_names, baseline)
    grid = np.linspace(0, 1, POINTS)
    for name in comparison.arm_names:
        rows = [
            normalised(_on_grid(task.arms[name], lambda curve: curve.steps / curve.steps[-1], grid), task)
            for task in comparison.tasks
            if name in task.arms
        ]
        seeds = np.concatenate(rows)
        whole = ~np.isnan(seeds).any(0)
        middle, low, high = statistics.iqm_band(seeds[:, whole].T)
        axes.fill_between(grid[whole], low, high, color=looks[name]["color"], alpha=0.2, linewidth=0)
        axes.plot(grid[whole], middle, **looks[name])
    axes.set_xlabel("share of training")
    axes.set_ylabel("normalised return, IQM over\nall seeds of all environments")
    _legend_below(figure, looks)
    return figure


def draw(comparison: Comparison, results: list[Result], baseline: str, folder: Path) -> list[str]:
    """Write every figure as svg and png; their names, in the order in which they are to be read."""
    several = len(comparison.tasks) > 1
    with mpl.rc_context(STYLE):
        made = {f"curves_{over}": learning_curves(comparison, over, baseline) for over in X_AXES}
        made |= {
            f"intervals_{measure}": intervals(results, measure, baseline)
            for measure in MEASURES
            if any(r.measure == measure and len(r.scores) for r in results)
        }
        made["profile"] = profiles(comparison, results, baseline)
        if several:
            made["sample_efficiency"] = sample_efficiency(comparison, baseline)
        for name, figure in made.items():
            figure.draw_without_rendering()  # lays it out, once for both files
            figure.set_layout_engine(None)  # "none" would lay it out again for each
            figure.savefig(folder / f"{name}.svg", dpi=90, metadata={"Date": None, "Creator": None})
            figure.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})
    return list(made)
