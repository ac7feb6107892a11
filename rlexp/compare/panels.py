"""Panels of a figure: one per environment; or, with many arms, one per arm beside the baseline, all of one size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.style import Legend, Look, Sheet

MOST_ARMS = 8  # in one panel; with more, each arm has a panel
MOST_PANELS = 80  # per figure; with more, all arms of an environment are in one panel
LEAST = {False: 2.1, True: 1.45}  # inches; width of a panel, of one that is an arm's


class Panel(NamedTuple):
    """One panel."""

    arms: list[str]  # drawn in it, the baseline first
    about: str = ""  # the arm that it is about, if there is one panel per arm


class Block(NamedTuple):
    """Panels that share their axes' limits: of one environment, or without a task of all together."""

    task: Task | None
    panels: list[Panel]


def blocks_of(comparison: Comparison, baseline: str, together: bool = False) -> list[Block]:
    """The panels of each environment; or of all of them together."""
    names = {task.env: list(task.arms) for task in comparison.tasks}
    tasks: list[tuple[Task | None, list[str]]] = [(task, names[task.env]) for task in comparison.tasks]
    if together:
        tasks = [(None, comparison.arm_names)]
    many = max(len(arms) for _, arms in tasks) > MOST_ARMS
    split = many and sum(len(arms) for _, arms in tasks) <= MOST_PANELS
    return [Block(task, _panels(arms, baseline, split)) for task, arms in tasks]


def _panels(arms: list[str], baseline: str, split: bool) -> list[Panel]:
    first = [name for name in arms if name == baseline]
    others = [name for name in arms if name != baseline]
    if not split:
        return [Panel([*first, *others])]
    return [Panel([*first, name], name) for name in others] or [Panel(first, baseline)]


def is_split(blocks: Sequence[Block]) -> bool:
    """Whether there is one panel per arm."""
    return any(panel.about for block in blocks for panel in block.panels)


def draw_blocks(
    blocks: Sequence[Block],
    sheet: Sheet,
    looks: dict[str, Look],
    more: Sequence[tuple[str, Look]],
    draw: Callable[[Axes, Task | None, Panel], None],
    finish: Callable[[Axes, Task | None], None],
) -> Figure:
    """A figure of all panels with titles and a legend.

    more: entries of the legend besides the arms. draw: draws a panel. finish: sets limits and ticks of a panel, after
    all panels of its block have been drawn.
    """
    split = is_split(blocks)
    shown = {name for block in blocks for panel in block.panels for name in panel.arms}
    entries = [(name, look) for name, look in looks.items() if name in shown]
    if split:  # the other arms have their names above their panels
        entries = [(f"{name} (baseline)", look) for name, look in entries[:1] if len(blocks[0].panels[0].arms) > 1]
    figure, cells = _lay_out(blocks, sheet, Legend([*entries, *more]), split)
    for block, axes_of in zip(blocks, cells, strict=True):
        for panel, axes in zip(block.panels, axes_of, strict=True):
            draw(axes, block.task, panel)
            _title(axes, block.task, panel, sheet, looks, first=axes is axes_of[0])
        _share(axes_of)
        for axes in axes_of:
            finish(axes, block.task)
    return figure


def _lay_out(blocks: Sequence[Block], sheet: Sheet, legend: Legend, split: bool) -> tuple[Figure, list[list[Axes]]]:
    """The figure and the axes of every block; with one panel per arm, a block begins a new row."""
    most = max(len(block.panels) for block in blocks) if split else len(blocks)
    columns = sheet.columns(most, LEAST[split])
    height = float(np.clip(0.62 * (sheet.width - 0.5) / columns, 1.0, 2.4))
    rows = sum(-(-len(block.panels) // columns) for block in blocks) if split else -(-most // columns)
    figure, grid = sheet.grid(rows, columns, height, legend, above=sheet.line * (2 if split else 0))
    cells: list[list[Axes]] = []
    free = list(grid.flatten())
    for block in blocks:
        count = len(block.panels)
        used = -(-count // columns) * columns if split else 1
        cells.append(free[:count])
        for axes in free[count:used]:
            axes.remove()
        free = free[used:]
    for axes in free:
        axes.remove()
    return figure, cells


def _title(axes: Axes, task: Task | None, panel: Panel, sheet: Sheet, looks: dict[str, Look], first: bool) -> None:
    """The environment; or the arm in its colour, with the environment above a block's first."""
    env = sheet.wrap(task.env, sheet.width, 1) if task else ""
    if not panel.about:
        axes.set_title(env)
        return
    spec = axes.get_gridspec()
    columns = spec.ncols if spec else 1
    name = sheet.wrap(panel.about, (sheet.width - 0.6) / columns - 0.05)
    axes.set_title(name, color=looks[panel.about]["color"], fontsize=sheet.font - 0.5)
    if first and env:
        up = 5 + (name.count("\n") + 1) * 1.25 * sheet.font
        axes.annotate(env, (0, 1), (0, up), "axes fraction", textcoords="offset points", weight="bold")


def _share(panels: Sequence[Axes]) -> None:
    """One pair of axes limits for all panels of a block; inner ones without tick labels."""
    if len(panels) < 2:
        return
    spec = panels[0].get_gridspec()
    columns = spec.ncols if spec else 1
    for k, axes in enumerate(panels):
        if k:
            axes.sharex(panels[0])
            axes.sharey(panels[0])
        axes.tick_params(labelleft=k % columns == 0, labelbottom=k + columns >= len(panels))
    panels[0].autoscale_view()
