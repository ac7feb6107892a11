"""Forest plot of a judgement: every arm's difference from the baseline, its interval, the margin, the verdict."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.patches import Rectangle

from rlexp.compare.results import Judgement, Overall, Result, Verdict, span
from rlexp.compare.style import Look, Sheet, arm_looks, minus, plain

MARKERS: dict[str, Any] = {"better": ">", "worse": "<", "equivalent": "D", "inconclusive": "o", "interim": "o"}
HOLLOW = ("inconclusive", "interim")
NOTES = ("ceiling", "floor", "one score", "too few seeds")  # reasons that stand beside the word
MARGIN = "#DDDDDD"
AWAY = 2.5  # bounds beyond so many times the largest difference or margin become arrows
MOST_ROWS = 30  # in one column of panels; more are in two, where there is room


class Row(NamedTuple):
    """One difference, in the unit of its panel."""

    label: str
    arm: str
    value: float
    low: float
    high: float
    margin: float
    verdict: Verdict


class Group(NamedTuple):
    """Rows of one panel."""

    title: str
    percent: bool  # of the span of scores; else in units of the score
    rows: list[Row]
    overall: int = 0  # rows at the end that are over several environments


def groups_of(judgement: Judgement) -> list[Group]:
    """A panel per environment, those in units of the score first, then one over all; of a single arm one per unit."""
    envs = list(dict.fromkeys(r.env for r in judgement.primary))
    percent = {env: judgement.question.in_percent(env) for env in envs}
    envs.sort(key=percent.__getitem__)
    if len(envs) > 1 and len({r.arm for r in judgement.primary}) == 1:
        groups = [Group("", False, [_row(r, r.env, False)]) for r in judgement.primary if not percent[r.env]]
        rows = [_row(r, r.env, True) for r in judgement.primary if percent[r.env]]
        rows += [_overall_row(o, f"over {o.envs} environments") for o in judgement.overall]
        return [*groups, Group("", True, rows, len(judgement.overall))]
    groups = [
        Group(env, percent[env], [_row(r, r.arm, percent[env]) for r in judgement.primary if r.env == env])
        for env in envs
    ]
    over_all = [_overall_row(o, o.arm) for o in judgement.overall]
    return groups + ([Group("over all environments", True, over_all, len(over_all))] if over_all else [])


def _row(r: Result, label: str, percent: bool) -> Row:
    unit = span(r) / 100 if percent else 1.0
    d = r.against
    return Row(
        label, r.arm, d.value / unit, d.low / unit, d.high / unit, r.margin / unit, r.verdict or Verdict("interim")
    )


def _overall_row(o: Overall, label: str) -> Row:
    d = o.against
    return Row(label, o.arm, 100 * d.value, 100 * d.low, 100 * d.high, 100 * o.margin, o.verdict)


def differences(judgement: Judgement, arm_names: Sequence[str], sheet: Sheet) -> Figure:
    """Difference of every arm from the baseline by the primary measure, with its corrected interval."""
    groups, looks = groups_of(judgement), arm_looks(arm_names, judgement.baseline)
    units = {group.percent for group in groups}
    columns = 2 if sum(len(group.rows) for group in groups) > MOST_ROWS and len(groups) > 1 and not sheet.narrow else 1
    labels = [list(dict.fromkeys(row.label for row in group.rows)) for group in groups]
    if columns > 1:  # panels side by side have the same rows
        everything = dict.fromkeys(label for each in labels for label in each)
        labels = [[name for name in arm_names if name in everything]] * len(groups)
    figure, panels = _lay_out(groups, labels, columns, sheet)
    common = _limits([row for group in groups if group.percent for row in group.rows])
    lowest = [k for k, group in enumerate(groups) if group.percent][-columns:]
    for k, (axes, group) in enumerate(zip(panels, groups, strict=True)):
        axes.set_xlim(common if group.percent else _limits(group.rows))
        _draw(axes, group, labels[k], looks, sheet, figures=columns == 1)
        axes.tick_params(labelbottom=not group.percent or k in lowest)
        axes.yaxis.set_visible(k % columns == 0)
        unit = "" if len(units) == 1 else "% of the span" if group.percent else "units of the score"
        axes.set_title(", ".join(filter(None, (group.title, unit))), weight="bold")
        if k + columns >= len(groups):
            _write_directions(axes, sheet)
    figure.supxlabel(_explanation(judgement, groups, sheet))
    return figure


def _lay_out(
    groups: Sequence[Group], labels: Sequence[Sequence[str]], columns: int, sheet: Sheet
) -> tuple[Figure, list[Axes]]:
    """Panels as high as their rows, which are of one height."""
    texts = [_label(name, sheet) for each in labels for name in each]
    texts += [_word(row, sheet) for group in groups for row in group.rows]
    row = (max(text.count("\n") for text in texts) + 1.2) * sheet.line
    heights = [max(1.5, len(labels[k])) * row + 0.2 * sheet.line for k in range(0, len(groups), columns)]
    extra = len(heights) * 2.0 * sheet.line + 4.5 * sheet.line
    figure = Figure(figsize=(sheet.width, sum(heights) + extra), layout="constrained")
    grid = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights}).flatten()
    for axes in grid[len(groups) :]:
        axes.remove()
    return figure, list(grid[: len(groups)])


def _label(text: str, sheet: Sheet) -> str:
    return sheet.wrap(text, sheet.label_width)


def _explanation(judgement: Judgement, groups: Sequence[Group], sheet: Sheet) -> str:
    """What the axis and the marks mean."""
    arms = {row.arm for group in groups for row in group.rows}
    units = {group.percent for group in groups}
    unit = "" if len(units) > 1 else ", % of the span of scores" if units == {True} else ", in units of the score"
    tests, who = judgement.tests, arms.pop() if len(arms) == 1 else "arm"
    note = "95 % interval" if tests == 1 else f"intervals: 95 % for all {tests} comparisons together"
    if any(math.isfinite(row.margin) for group in groups for row in group.rows):
        note += "; grey: within the margin"
    lines = (f"{who} − {judgement.baseline}, {judgement.question.primary}{unit}", note)
    return "\n".join(sheet.wrap(line, sheet.width - 0.2) for line in lines)


def _write_directions(axes: Axes, sheet: Sheet) -> None:
    """Which way is better, below the zero line."""
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
    down = -2.2 * sheet.font
    axes.annotate("← worse", (0, 0), (-4, down), ha="right", color="#555555", **place)
    axes.annotate("better →", (0, 0), (4, down), ha="left", color="#555555", **place)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Limits that hold 0, the differences and the margins, and bounds as far as they do not flatten the rest."""
    margins = [row.margin for row in rows if math.isfinite(row.margin)]
    ends = [x for row in rows for x in (row.low, row.high) if not math.isnan(x)]
    finite = [abs(x) for x in ends if math.isfinite(x)]
    sizes = [AWAY * abs(x) for x in (*margins, *(row.value for row in rows))]
    most = max([*sizes, 1.5 * float(np.quantile(finite or [0.0], 0.5, method="lower"))], default=0.0) or 1.0
    shown = [0.0, *(row.value for row in rows), *(1.2 * side * margin for margin in margins for side in (-1, 1))]
    shown += [float(np.clip(x, -most, most)) for x in ends]
    low, high = min(shown), max(shown)
    pad = 0.05 * (high - low or 2.0)
    return low - pad, high + pad


def _draw(axes: Axes, group: Group, labels: Sequence[str], looks: dict[str, Look], sheet: Sheet, figures: bool) -> None:
    """The rows of a panel, from above; the verdict on the right, and the figures themselves where there is room."""
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1.5)
    if 0 < group.overall < len(group.rows):
        axes.axhline(len(labels) - group.overall - 0.5, color="black", linewidth=0.5)
    heights = np.array([labels.index(row.label) for row in group.rows], float)
    _draw_rows(axes, group.rows, heights, [looks[row.arm]["color"] for row in group.rows])
    widest = max(sheet.length(_word(row, sheet)) for row in group.rows)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    for row, y in zip(group.rows, heights, strict=True):
        weight = "normal" if row.verdict.word in HOLLOW else "bold"
        axes.annotate(_word(row, sheet), (1, y), (6, 0), weight=weight, fontsize=sheet.font - sheet.narrow, **place)
        if figures and not sheet.narrow:
            axes.annotate(_figures(row), (1, y), (18 + 72 * 1.1 * widest, 0), **place)
    axes.set_yticks(range(len(labels)), [_label(name, sheet) for name in labels])
    axes.tick_params(axis="y", length=0, labelsize=sheet.font)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    plain(axes.xaxis, 6 if figures and not sheet.narrow else 4)


def _draw_rows(axes: Axes, rows: Sequence[Row], heights: np.ndarray, colours: Sequence[str]) -> None:
    """Margins, intervals, differences; an arrow where an interval goes on beyond the axis."""
    left, right = axes.get_xlim()
    low, high, margin = np.array([(row.low, row.high, row.margin) for row in rows]).T
    for y, half in zip(heights, margin, strict=True):
        if math.isfinite(half):
            axes.add_patch(Rectangle((-half, y - 0.5), 2 * half, 1, color=MARGIN, linewidth=0, zorder=0.5))
    dashes: Any = [":" if row.verdict.word == "interim" else "-" for row in rows]
    axes.hlines(heights, np.maximum(low, left), np.minimum(high, right), colours, linestyles=dashes, linewidth=1.4)
    for row, y, colour in zip(rows, heights, colours, strict=True):
        if row.low < left:
            axes.plot(left, y, marker=CARETLEFT, color=colour, markersize=5, clip_on=False)
        if row.high > right:
            axes.plot(right, y, marker=CARETRIGHT, color=colour, markersize=5, clip_on=False)
    for word, marker in MARKERS.items():
        chosen = [k for k, row in enumerate(rows) if row.verdict.word == word]
        edges = [colours[k] for k in chosen]
        faces = ["white"] * len(edges) if word in HOLLOW else edges
        values = [rows[k].value for k in chosen]
        axes.scatter(values, heights[chosen], s=25, marker=marker, facecolors=faces, edgecolors=edges, zorder=3)


def _word(row: Row, sheet: Sheet) -> str:
    """The verdict as it stands at the right."""
    notes = ["within margin"] if row.verdict.within else [note for note in NOTES if row.verdict.why.startswith(note)]
    return row.verdict.word + "".join(f"\n({note})" if sheet.narrow else f", {note}" for note in notes)


def _figures(row: Row) -> str:
    """Difference and interval, to two or three digits of the interval's half width."""
    half = (row.high - row.low) / 2
    size = half if math.isfinite(half) and half > 0 else abs(row.value) or 1.0
    digits = max(0, 1 - math.floor(math.log10(size / 2)))
    interval = "" if math.isnan(row.low) else f" [{row.low:,.{digits}f}, {row.high:,.{digits}f}]"
    return minus(f"{row.value:+,.{digits}f}{interval}")
