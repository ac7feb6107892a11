"""Figure of who holds what the agents of a population share, over training."""

import csv
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlexp.compare.arms import Comparison
from rlexp.compare.samples import Sample
from rlexp.compare.style import Sheet, palette
from rlexp.errors import UserError

HOLDER = "_holder"  # how a column of metrics.csv ends that has indices within the population
MOST = 30  # populations of an arm that are drawn

Held = list[tuple[Sample, np.ndarray]]  # a population, and who holds at each of its rows; NaN: nobody


def holders(comparison: Comparison) -> dict[str, Held]:
    """The populations that say who holds, by a title for each arm of each environment."""
    found: dict[str, Held] = {}
    for task in comparison.tasks:
        for name, samples in task.arms.items():
            each = [(sample, _holder(sample)) for sample in samples if sample.members]
            held = [(sample, values) for sample, values in each if np.isfinite(values).any()]
            title = name if len(comparison.tasks) == 1 else f"{name}, {task.env}"
            found |= {title: held[:MOST]} if held else {}
    return found


def _holder(sample: Sample) -> np.ndarray:
    """The column of a member that did not diverge, which all share."""
    member, rows = sample.members[0].seed, len(sample.curve.steps)
    try:
        with open(sample.run.folder / "metrics.csv", newline="", encoding="utf-8") as file:
            of_member = [row for row in csv.DictReader(file) if float(row["seed"]) == member]
            column = next((name for name in of_member[0] if name.endswith(HOLDER)), "") if of_member else ""
            values = np.array([float(row.get(column) or "nan") for row in of_member])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{sample.run.folder}/metrics.csv: cannot be read ({error})") from None
    return values[:rows]


def holder_figure(found: dict[str, Held], sheet: Sheet) -> Figure:
    """A bar for each population, in the colour of the agent that recorded the first episode of the shared anchor."""
    most = max(sample.agents for held in found.values() for sample, _ in held)
    colours = palette(most)
    heights = [len(held) + 2.0 for held in found.values()]
    size = (sheet.width, 1.1 * sheet.line * sum(heights) + 4 * sheet.line)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (title, held) in zip(panels, found.items(), strict=True):
        _draw(axes, held, colours)
        axes.set_title(sheet.wrap(title, sheet.width - 1))
    patches = [Patch(color=colour, label=f"agent {k}") for k, colour in enumerate(colours)]
    columns = max(1, int(sheet.width / (sheet.length("agent 00") + 4 * sheet.line)))
    figure.legend(handles=patches, loc="outside upper center", ncols=min(columns, most))
    figure.supxlabel("environment steps, summed over a population")
    figure.supylabel("population, by its first seed")
    return figure


def _draw(axes: Axes, held: Held, colours: Sequence[str]) -> None:
    for y, (sample, values) in enumerate(held):
        ends = sample.curve.steps[: len(values)]
        starts = np.concatenate([[0.0], ends[:-1]])
        for k, colour in enumerate(colours):
            own = values == k
            bars = {"left": starts[own], "height": 0.8, "color": colour, "linewidth": 0}
            axes.barh(np.full(own.sum(), y), (ends - starts)[own], **bars)
    axes.set(yticks=range(len(held)), yticklabels=[str(sample.seed) for sample, _ in held])
    axes.set_ylim(len(held) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
