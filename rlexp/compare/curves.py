"""Figures over training: learning curves, curves of frozen evaluation, sample efficiency over environments."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlexp.compare import statistics
from rlexp.compare.arms import Comparison, Task
from rlexp.compare.panels import Panel, blocks_of, draw_blocks, is_split
from rlexp.compare.results import normalised
from rlexp.compare.samples import Sample
from rlexp.compare.statistics import Band
from rlexp.compare.style import Look, Sheet, arm_looks, plain
from rlexp.study.runs import Curve

MOST_VECTOR_CURVES = 30  # of seeds, per panel; more are rasterized
MOST_CURVES = 120  # per panel; with more, seeds are not drawn
POINTS = 200  # per curve
BAND_POINTS = 51  # of sample efficiency, at most; each takes RESAMPLES sorts of all seeds of an arm
BAND_SCORES = 120_000  # of all arms, at all of these points

Values = Callable[[Curve], np.ndarray]
X_AXES: dict[str, tuple[str, Values]] = {
    "steps": ("environment steps", lambda curve: curve.steps),
    "time": ("{unit} of training per run, all its seeds, compilation included", lambda curve: curve.seconds),
    "episodes": ("episodes", lambda curve: curve.episodes),
}
UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
GREY = "#777777"
THRESHOLD: Look = {"color": GREY, "linestyle": ":", "linewidth": 0.9}
DETERMINISTIC: Look = {"marker": ".", "markersize": 4}
SAMPLED: Look = {"linewidth": 0.7}


def learning_curves(comparison: Comparison, over: str, baseline: str, sheet: Sheet) -> Figure:
    """Mean training return of every arm with its 95 % interval over steps, time or episodes; seeds faint behind."""
    label, x_of = X_AXES[over]
    label += ", summed over a population" if comparison.has_populations and over != "time" else ""
    unit = _time_unit(comparison) if over == "time" else "seconds"
    looks = arm_looks(comparison.arm_names, baseline)

    def draw(axes: Axes, task: Task, panel: Panel) -> None:
        _draw_returns(axes, task, panel, lambda curve: x_of(curve) / UNITS[unit], looks)

    figure = _curves(comparison, baseline, sheet, looks, [], draw)
    figure.supxlabel(sheet.wrap(label.format(unit=unit), sheet.width - 0.4))
    figure.supylabel(f"return, last 100 episodes\nmean, 95 % interval, {_seed_counts(comparison)}", ma="center")
    return figure


def evaluation_curves(comparison: Comparison, baseline: str, sheet: Sheet) -> Figure:
    """Mean return in the frozen evaluations made during training, with its 95 % interval, over steps."""
    looks = arm_looks(comparison.arm_names, baseline)
    kinds = [("deterministic actions", _deterministic, DETERMINISTIC), ("sampled actions", _sampled, SAMPLED)]
    kinds = [kind for kind in kinds if _has(comparison, kind[1])]
    more = [(name, {"color": GREY, **look}) for name, _, look in kinds] if len(kinds) > 1 else []

    def draw(axes: Axes, task: Task, panel: Panel) -> None:
        for _, y_of, look in kinds:
            _draw_evaluations(axes, task, panel, y_of, {name: {**x, **look} for name, x in looks.items()})

    figure = _curves(comparison, baseline, sheet, looks, more, draw)
    figure.supxlabel(X_AXES["steps"][0] + (", summed over a population" if comparison.has_populations else ""))
    figure.supylabel(f"return, frozen policy\nmean, 95 % interval, {_seed_counts(comparison)}", ma="center")
    return figure


def has_evaluations(comparison: Comparison) -> bool:
    """Whether any seed was evaluated during training."""
    return _has(comparison, _deterministic) or _has(comparison, _sampled)


def _deterministic(curve: Curve) -> np.ndarray:
    return curve.evaluated


def _sampled(curve: Curve) -> np.ndarray:
    return curve.evaluated_sampled


def _has(comparison: Comparison, y_of: Values) -> bool:
    return any(np.isfinite(y_of(sample.curve)).any() for task in comparison.tasks for sample in task.samples)


def _seed_counts(comparison: Comparison) -> str:
    counts = {len(samples) for task in comparison.tasks for samples in task.arms.values()}
    numbers = f"{min(counts)}–{max(counts)}" if len(counts) > 1 else str(max(counts))
    unit = f"seed{'' if counts == {1} else 's'}"
    return f"{numbers} {unit}" + (" or populations" if comparison.has_populations else "")


def _time_unit(comparison: Comparison) -> str:
    longest = max(float(sample.curve.seconds[-1]) for task in comparison.tasks for sample in task.samples)
    return next(unit for unit in reversed(UNITS) if longest >= 3 * UNITS[unit] or unit == "seconds")


def _curves(
    comparison: Comparison,
    baseline: str,
    sheet: Sheet,
    looks: dict[str, Look],
    more: Sequence[tuple[str, Look]],
    draw: Callable[[Axes, Task, Panel], None],
) -> Figure:
    blocks = blocks_of(comparison, baseline)
    split = is_split(blocks)
    if any(task.threshold is not None for task in comparison.tasks):
        more = [*more, ("threshold", THRESHOLD)]

    def finish(axes: Axes, task: Task | None) -> None:
        axes.set_ylim(axes.get_ylim())  # a threshold out of reach does not flatten the curves
        if task is not None and task.threshold is not None:
            axes.axhline(task.threshold, zorder=1, **THRESHOLD)
        plain(axes.yaxis, 4 if split else 6)
        axes.xaxis.set_major_locator(MaxNLocator(3 if split else 5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    def draw_panel(axes: Axes, task: Task | None, panel: Panel) -> None:
        if task is not None:
            draw(axes, task, panel)

    return draw_blocks(blocks, sheet, looks, more, draw_panel, finish)


def _on_grid(samples: Sequence[Sample], x_of: Values, y_of: Values, grid: np.ndarray) -> np.ndarray:
    """Every seed's values interpolated on the grid (seeds, points); NaN outside its range."""
    seeds = np.full((len(samples), len(grid)), np.nan)
    for row, sample in zip(seeds, samples, strict=True):
        x, y = x_of(sample.curve), y_of(sample.curve)
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            row[:] = np.interp(grid, x[known], y[known], left=np.nan, right=np.nan)
    return seeds


def _draw_mean(axes: Axes, task: Task, x: np.ndarray, seeds: np.ndarray, look: Look) -> None:
    """Mean and 95 % interval, as far as every seed has a value."""
    whole = ~np.isnan(seeds).any(0)
    _draw_band(axes, x[whole], statistics.mean_band(seeds[:, whole].T, task.limits or (None, None)), look)


def _draw_band(axes: Axes, x: np.ndarray, band: Band, look: Look) -> None:
    axes.fill_between(x, band.low, band.high, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(x, band.value, **{"linewidth": 1.5, **look})


def _draw_returns(axes: Axes, task: Task, panel: Panel, x_of: Values, looks: dict[str, Look]) -> None:
    """Moving averages: the seeds of all arms, or of the one that the panel is about, and every arm's mean."""
    grid = np.linspace(0, max(float(x_of(sample.curve)[-1]) for sample in task.samples), POINTS)
    faint = [panel.about] if panel.about else panel.arms
    curves = sum(len(task.arms[name]) for name in faint)
    if curves > MOST_VECTOR_CURVES:
        axes.set_rasterization_zorder(0)  # seeds become one image: as paths they would take megabytes
    for name in panel.arms:
        seeds = _on_grid(task.arms[name], x_of, lambda curve: curve.returns, grid)
        if name in faint and curves <= MOST_CURVES:
            axes.plot(grid, seeds.T, color=looks[name]["color"], alpha=0.25, linewidth=0.5, zorder=-1)
        _draw_mean(axes, task, grid, seeds, looks[name])


def _draw_evaluations(axes: Axes, task: Task, panel: Panel, y_of: Values, looks: dict[str, Look]) -> None:
    """Means at the points of evaluation; sampled actions without a band."""
    for name in panel.arms:
        samples = [sample for sample in task.arms[name] if np.isfinite(y_of(sample.curve)).any()]
        if not samples:
            continue
        own = [s.curve.steps[np.isfinite(y_of(s.curve))] for s in samples]
        points = np.unique(np.concatenate(own))
        if len(points) > (
            most := max(map(len, own))
        ):  # seeds made different numbers of steps: as many points as one has
            points = np.linspace(max(x[0] for x in own), min(x[-1] for x in own), most)
        seeds = _on_grid(samples, lambda curve: curve.steps, y_of, points)
        if y_of is _sampled:
            axes.plot(points, seeds.mean(0), **looks[name])
        else:
            _draw_mean(axes, task, points, seeds, looks[name])


def sample_efficiency(comparison: Comparison, baseline: str, sheet: Sheet) -> Figure:
    """IQM and interval over all environments of the normalised moving average, against the fraction of training."""
    looks = arm_looks(comparison.arm_names, baseline)
    found = efficiencies(comparison)

    def draw(axes: Axes, _: Task | None, panel: Panel) -> None:
        for name in filter(found.__contains__, panel.arms):  # all seeds of the others diverged
            _draw_band(axes, *found[name], looks[name])

    def finish(axes: Axes, _: Task | None) -> None:
        plain(axes.xaxis, 5)
        plain(axes.yaxis, 5)

    figure = draw_blocks(blocks_of(comparison, baseline, together=True), sheet, looks, [], draw, finish)
    figure.supxlabel("fraction of training")
    envs = len(comparison.tasks)
    figure.supylabel(f"normalised return, IQM\n95 % interval, {envs} environments", ma="center")
    return figure


def efficiencies(comparison: Comparison) -> dict[str, tuple[np.ndarray, Band]]:
    """Of every arm with a curve: fractions of training, and `aggregate_iqm` of all its seeds' normalised returns there.

    The bounds are those of the stratified bootstrap at some of the points; between these, their distances from the IQM
    are interpolated.
    """
    grid = np.linspace(0, 1, POINTS + 1)
    samples = sum(len(task.samples) for task in comparison.tasks)
    count = int(np.clip(BAND_SCORES // samples, 6, BAND_POINTS))
    found = {}
    for name in dict.fromkeys(name for task in comparison.tasks for name in task.arms):
        scores = [
            normalised(_on_grid(task.arms[name], _fraction, lambda curve: curve.returns, grid), task, "final").T
            for task in comparison.tasks
            if name in task.arms
        ]
        whole = np.flatnonzero(~np.isnan(np.concatenate(scores, -1)).any(-1))
        some = np.unique(whole[np.linspace(0, len(whole) - 1, count).round().astype(int)]) if len(whole) else whole
        value = statistics.iqm(np.concatenate(scores, -1)[whole])
        exact = statistics.aggregate_band([x[some] for x in scores])
        sides = [np.interp(whole, some, side - exact.value) if len(some) else value for side in exact[1:]]
        found[name] = grid[whole], Band(value, value + sides[0], value + sides[1])
    return found


def _fraction(curve: Curve) -> np.ndarray:
    return curve.steps / curve.steps[-1]
