"""How figures look: a colour and dashes for every arm, type and panels for a given width, plain tick labels."""

import functools
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, MaxNLocator

Look = dict[str, Any]  # colour and dashes of an arm, as matplotlib's lines take them

# Okabe and Ito's colour-blind-safe palette without yellow, too faint on white, and black, which is the baseline's
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BASELINE = "#000000"
DASHES = ("-", "--", "-.", ":")
WIDTH = 7.0  # inches: both columns of a paper's page
NARROW = 5.0  # inches; below, figures are for one column and leave out what a table has as well
CHARACTER = 0.56  # width of one on average, in units of the font size

# Linear sRGB as seen without red or without green cones (Machado et al. 2009, severity 1); to OKLab (Ottosson 2020)
_SEEN = (
    np.eye(3),
    np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
)
_TO_LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
_TO_LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
_WEIGHTS = np.array([1.0, 1.5, 1.5])[:, None]  # of distances: the colour-blind see colours closer together


def _as_seen(rgb: np.ndarray) -> np.ndarray:
    """OKLab coordinates of colours (n, 3) by normal, red-blind and green-blind eyes (3, n, 3)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.stack([np.cbrt(np.clip(linear @ eyes.T, 0, 1) @ _TO_LMS.T) @ _TO_LAB.T for eyes in _SEEN])


@functools.lru_cache(maxsize=8)
def palette(count: int) -> tuple[str, ...]:
    """So many colours, all different: Okabe and Ito's, then each the farthest from black and those before it.

    Far is the smallest distance in OKLab by normal, red-blind and green-blind eyes; none is too dark, pale or grey. Up
    to 16 are no closer together by any eyes than Okabe and Ito's are by green-blind ones. Shades of one hue for the
    settings of one algorithm would say more by fewer colours: five shades are told apart, sixteen are not.
    """
    levels = np.linspace(0, 1, 18)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _as_seen(grid)
    lightness, chroma = lab[0, :, 0], np.hypot(lab[0, :, 1], lab[0, :, 2])
    usable = (lightness > 0.38) & (lightness < 0.8) & (chroma > 0.06)
    grid, lab = grid[usable], lab[:, usable]

    def distance(colour: np.ndarray) -> np.ndarray:
        return (np.linalg.norm(lab - _as_seen(colour[None]), axis=-1) * _WEIGHTS).min(0)

    found = list(OKABE_ITO[:count])
    nearest = np.min([distance(np.array(mpl.colors.to_rgb(colour))) for colour in (BASELINE, *found)], axis=0)
    while len(found) < count:
        chosen = grid[nearest.argmax()]
        found.append(mpl.colors.to_hex(chosen).upper())
        nearest = np.minimum(nearest, distance(chosen))
    return tuple(found)


def arm_looks(names: Sequence[str], baseline: str) -> dict[str, Look]:
    """Colour and dashes of every arm, in the order of legends: the baseline, black, then the others."""
    others = [name for name in names if name != baseline]
    found: dict[str, Look] = {baseline: {"color": BASELINE, "linestyle": "-"}}
    for k, (name, colour) in enumerate(zip(others, palette(len(others)), strict=True)):
        found[name] = {"color": colour, "linestyle": DASHES[k % len(DASHES)]}
    return found


class PlainNumbers(Formatter):
    """Tick labels without offsets or powers, with the decimals that their distance needs: 0.05; −200; 7,500; 1,250k."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Labels of all ticks of an axis."""
        most = max(map(abs, values), default=0.0)
        unit, suffix = next(
            each for each in ((1e6, "M"), (1e3, "k"), (1.0, "")) if most >= 100 * each[0] or not each[1]
        )
        step = float(min(np.diff(np.sort(values)), default=1.0)) / unit
        digits = next((d for d in range(10) if math.isclose(step, round(step, d), rel_tol=1e-3)), 0)
        return [minus(f"{value / unit + 0.0:,.{digits}f}{suffix * bool(value)}") for value in values]

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Label of one number."""
        return minus(f"{x:,.4g}")


def minus(text: str) -> str:
    """Numbers with a minus sign in place of the hyphen; −0 is 0."""
    text = text.replace("inf", "∞")
    return re.sub(r"-(?=[\d.∞])", "−", re.sub(r"-(?=0(?:\.0*)?(?![\d.]))", "", text))


def plain(axis: Axis, ticks: int = 5) -> None:
    """Give an axis at most so many ticks, labelled in full."""
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(PlainNumbers())


@dataclass(frozen=True)
class Sheet:
    """What figures of one width have in common; lengths are in inches."""

    width: float = WIDTH
    fonts: str = "text"  # in svg files: "text", or "paths" that look the same everywhere

    @property
    def font(self) -> float:
        """Size of the type in points, never below 7."""
        return float(np.clip(8 * self.width / WIDTH, 7, 12))

    @property
    def narrow(self) -> bool:
        """Whether the figure is for one column of a paper."""
        return self.width < NARROW

    @property
    def line(self) -> float:
        """Height of a line of text."""
        return 1.35 * self.font / 72

    @property
    def settings(self) -> Any:
        """Of matplotlib, for all figures."""
        return {
            "svg.hashsalt": "rlexp",  # identical figures are identical bytes
            "svg.fonttype": "none" if self.fonts == "text" else "path",
            "pdf.fonttype": 42,  # TrueType, which publishers ask for
            "text.parse_math": False,  # a $ in a name starts no formula
            "font.size": self.font,
            "axes.titlesize": self.font,
            "axes.labelsize": self.font,
            "legend.fontsize": self.font,
            "figure.labelsize": self.font,
            "xtick.labelsize": self.font - 1,
            "ytick.labelsize": self.font - 1,
            "axes.titlelocation": "left",
            "axes.titlepad": 3,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.5,
            "legend.frameon": False,
            "figure.constrained_layout.h_pad": 0.05,
            "figure.constrained_layout.w_pad": 0.05,
        }

    def length(self, text: str) -> float:
        """About the width of the longest line of a text."""
        return max(map(len, text.split("\n"))) * CHARACTER * self.font / 72

    @property
    def label_width(self) -> float:
        """Of the names of arms at the left of rows."""
        return (0.38 if self.narrow else 0.34) * self.width

    def wrap(self, text: str, width: float, lines: int = 3) -> str:
        """A text in lines of that width; what does not fit is cut out of its middle, as names differ at their ends."""
        most = max(6, int(width * 72 / (CHARACTER * self.font)))
        found = textwrap.wrap(text, most, break_on_hyphens=False)
        if len(found) > lines:
            kept = int(0.8 * most * lines)
            found = textwrap.wrap(f"{text[: kept // 3]}…{text[kept // 3 - kept :]}", most, break_on_hyphens=False)
        return "\n".join(found)

    def columns(self, panels: int, least: float) -> int:
        """Columns of so many panels, each at least that wide."""
        most = max(1, int(self.width / least))
        return 2 if panels == 4 and most in (2, 3) else min(panels, most)

    def grid(self, rows: int, columns: int, height: float, legend: "Legend", above: float = 0.0) -> tuple[Figure, Any]:
        """A figure and its axes (rows, columns) of that height each, with the legend beside or above them.

        above: height of titles of each row beyond one line.
        """
        beside = legend.beside(self, rows * columns)
        high = 0.0 if beside else legend.height(self)
        total = rows * (height + above + 2 * self.line) + 2 * self.line + high
        figure = Figure(figsize=(self.width, total), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        legend.draw(figure, self, beside)
        return figure, axes


@dataclass(frozen=True)
class Legend:
    """Entries of a figure's legend: names and lines."""

    entries: Sequence[tuple[str, Look]] = ()

    def _names(self, sheet: Sheet, width: float) -> list[str]:
        return [sheet.wrap(name, width - 0.5) for name, _ in self.entries]

    def beside(self, sheet: Sheet, panels: int) -> bool:
        """Whether it goes to the right of the panels: of a single one, where there is room."""
        lines = sum(name.count("\n") + 1 for name in self._names(sheet, 0.36 * sheet.width))
        return panels == 1 and not sheet.narrow and 0 < lines <= 20

    def across(self, sheet: Sheet) -> int:
        """Columns of a legend above."""
        widest = max(sheet.length(name) for name in self._names(sheet, sheet.width))
        return max(1, min(len(self.entries), int(sheet.width / (widest + 0.55))))

    def height(self, sheet: Sheet) -> float:
        """Of a legend above."""
        if not self.entries:
            return 0.0
        lines = max(name.count("\n") + 1 for name in self._names(sheet, sheet.width))
        return -(-len(self.entries) // self.across(sheet)) * lines * sheet.line + 0.1

    def draw(self, figure: Figure, sheet: Sheet, beside: bool) -> None:
        """Draw it on the figure."""
        if not self.entries:
            return
        names = self._names(sheet, 0.36 * sheet.width if beside else sheet.width)
        lines = [Line2D([], [], **{"linewidth": 1.6, **look}) for _, look in self.entries]
        where: Any = "outside right upper" if beside else "outside upper center"
        columns = 1 if beside else self.across(sheet)
        figure.legend(lines, names, loc=where, ncols=columns, handlelength=1.8, labelspacing=0.35, columnspacing=1.2)
