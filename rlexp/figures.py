"""Figures of a comparison: learning curves, intervals, performance profile, sample efficiency."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlexp import statistics
from rlexp.arms import Arm, Comparison, Setting
from rlexp.verdict import MEASURES, Result, normalised

# Okabe and Ito's palette: told apart by the colour-blind, and by lightness in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
DASHES = ("-", "--", "-.", ":")
POINTS = 200  # of a curve

STYLE: Any = {
    "svg.hashsalt": "rlexp",  # the same figure gives the same bytes
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def _look(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dash of every arm, the same in all figures."""
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}
        for i, name in enumerate(names)
    }


def _on_grid(arm: Arm, axis: Callable[[Any], np.ndarray], grid: np.ndarray) -> np.ndarray:
    """Every seed's moving average at the points of the grid (seeds, points); NaN outside its range."""
    rows = []
    for sample in arm.samples:
        x, y = axis(sample.curve), sample.curve.returns
        known = ~np.isnan(y)
        inside = np.interp(grid, x[known], y[known], left=np.nan, right=np.nan) if known.any() else grid * np.nan
        rows.append(inside)
    return np.array(rows)


def _curves(axes: Axes, setting: Setting, axis: Callable[[Any], np.ndarray], looks: dict[str, dict[str, Any]]) -> None:
    end = max(float(axis(sample.curve)[-1]) for arm in setting.arms.values() for sample in arm.samples)
    grid = np.linspace(0, end, POINTS)
    crowded = sum(len(arm.samples) for arm in setting.arms.values()) > 100
    for name, arm in setting.arms.items():
        colour = looks[name]["color"]
        seeds = _on_grid(arm, axis, grid)
        if not crowded:
            axes.plot(grid, seeds.T, color=colour, alpha=0.18, linewidth=0.6)
        whole = ~np.isnan(seeds).any(0)  # points that every seed has reached
        middle, low, high = statistics.iqm_band(seeds[:, whole].T)
        axes.fill_between(grid[whole], low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(grid[whole], middle, linewidth=1.8, label=f"{name} (n = {len(arm.samples)})", **looks[name])
    returns = np.concatenate([s.curve.returns for arm in setting.arms.values() for s in arm.samples])
    low, high = np.nanmin(returns), np.nanmax(returns)
    axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    if setting.threshold is not None:
        axes.axhline(setting.threshold, color="grey", linewidth=0.8, linestyle=":")


X_AXES: dict[str, tuple[str, Callable[[Any], np.ndarray]]] = {
    "steps": ("environment steps", lambda curve: curve.steps),
    "time": ("seconds of training, all seeds side by side", lambda curve: curve.seconds),
    "episodes": ("episodes", lambda curve: curve.episodes),
}


def learning_curves(comparison: Comparison, over: str) -> Figure:
    """Every seed faint behind the IQM of its arm and the 95 % band; one panel an environment."""
    label, axis = X_AXES[over]
    panels = len(comparison.settings)
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 3.2 * rows + 0.3), layout="constrained")
    looks = _look(comparison.arm_names)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, setting in zip(grid, comparison.settings, strict=False):
        _curves(axes, setting, axis, looks)
        axes.set_title(setting.env)
        axes.set_xlabel(label)
        axes.legend(fontsize=7)
    for axes in grid[panels:]:
        axes.set_visible(False)
    grid[0].set_ylabel("return, mean of the last 100 episodes\nIQM and 95 % interval over seeds")
    return figure


def intervals(results: list[Result], measure: str) -> Figure:
    """IQM and 95 % interval of every arm, seeds as dots; one panel an environment."""
    own = [r for r in results if r.measure == measure and len(r.scores)]
    envs = list(dict.fromkeys(r.env for r in own))
    names = sorted({r.arm for r in own})
    looks = _look(names)
    columns = min(len(envs), 3)
    rows = -(-len(envs) // columns)
    height = 0.42 * len(names) + 0.9
    figure = Figure(figsize=(4.2 * columns + 0.8, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, env in zip(grid, envs, strict=False):
        for r in (r for r in own if r.env == env):
            y, colour = names.index(r.arm), looks[r.arm]["color"]
            spread = 0.12 * np.sin(np.arange(len(r.scores)) * 2.4)  # apart, but the same every time
            axes.plot(r.scores, y + 0.12 + spread, ".", color=colour, alpha=0.35, markersize=4)
            if not np.isnan(r.iqm.low):
                axes.plot([r.iqm.low, r.iqm.high], [y - 0.2, y - 0.2], color=colour, linewidth=2.5)
            axes.plot(r.iqm.value, y - 0.2, "o", color=colour, markersize=6)
        axes.set_title(env)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
    for axes in grid[len(envs) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{MEASURES[measure][0]}: IQM, 95 % interval, seeds", fontsize=9)
    return figure


def profiles(comparison: Comparison, results: list[Result]) -> Figure:
    """Performance profile: share of seeds whose normalised final score exceeds τ, averaged over environments."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    looks = _look(comparison.arm_names)
    by_env = {setting.env: setting for setting in comparison.settings}
    scores = {
        name: [normalised(r.scores, by_env[r.env]) for r in results if r.arm == name and r.measure == "final"]
        for name in comparison.arm_names
    }
    every = np.concatenate([x for arrays in scores.values() for x in arrays])
    grid = np.linspace(min(0.0, float(every.min())), max(1.0, float(every.max())), POINTS)
    for name, arrays in scores.items():
        axes.plot(grid, statistics.profile(arrays, grid), label=name, **looks[name])
    axes.set_xlabel("normalised final score τ")
    axes.set_ylabel("share of seeds above τ")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=7)
    return figure


def sample_efficiency(comparison: Comparison) -> Figure:
    """IQM over all environments of the normalised moving average, over the share of training done."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    looks = _look(comparison.arm_names)
    grid = np.linspace(0, 1, POINTS)
    for name in comparison.arm_names:
        rows = [
            normalised(_on_grid(setting.arms[name], lambda curve: curve.steps / curve.steps[-1], grid), setting)
            for setting in comparison.settings
            if name in setting.arms
        ]
        seeds = np.concatenate(rows)
        whole = ~np.isnan(seeds).any(0)
        middle, low, high = statistics.iqm_band(seeds[:, whole].T)
        axes.fill_between(grid[whole], low, high, color=looks[name]["color"], alpha=0.2, linewidth=0)
        axes.plot(grid[whole], middle, label=name, **looks[name])
    axes.set_xlabel("share of training")
    axes.set_ylabel("normalised return, IQM over\nall seeds of all environments")
    axes.legend(fontsize=7)
    return figure


def draw(comparison: Comparison, results: list[Result], folder: Path) -> list[str]:
    """Write every figure as svg and png; their names, in the order in which they are to be read."""
    several = len(comparison.settings) > 1
    with mpl.rc_context(STYLE):
        made = {f"curves_{over}": learning_curves(comparison, over) for over in X_AXES}
        made |= {
            f"intervals_{measure}": intervals(results, measure)
            for measure in MEASURES
            if any(r.measure == measure and len(r.scores) for r in results)
        }
        made["profile"] = profiles(comparison, results)
        if several:
            made["sample_efficiency"] = sample_efficiency(comparison)
        for name, figure in made.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
            figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    return list(made)
