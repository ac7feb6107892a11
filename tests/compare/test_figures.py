"""Figures: drawn for odd studies too, one colour an arm, bands whole, a forest plot that says what was judged."""

import dataclasses
import itertools
import math

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose
from studies import CARTPOLE, CEILING, LARGE, NEGATIVE, TINY, study

from rlexp.compare import curves, figures, forest, results, statistics, style, verdict
from rlexp.compare.arms import Comparison
from rlexp.compare.decision import decide
from rlexp.compare.look_book import LookBooks
from rlexp.compare.panels import blocks_of
from rlexp.compare.question import Question
from rlexp.compare.style import PlainNumbers, Sheet, arm_looks, palette

TWO = {"ppo": (0.8, 4), "apo": (0.9, 6)}
NINE = {"ppo": (0.8, 4)} | {f"apo anchor_coef={k}": (0.7 + 0.03 * k, 3 + k) for k in range(8)}
SEVENTEEN = {"ppo": (0.8, 4)} | {
    f"apo anchor_coef={k} direction={way} replace_on_tie={tie}": (0.7 + 0.02 * k, 3 + k)
    for k, way, tie in itertools.product((1, 2, 5, 10), ("forward", "reverse"), (False, True))
}


def judged(tmp_path, comparison, margin="5%", primary="evaluation"):
    spans = {task.env: float(np.diff(results.scale(task, "final"))[0]) for task in comparison.tasks}
    margins = {env: span * 0.05 for env, span in spans.items()} if margin else {}
    question = Question(primary, margins, dict.fromkeys(margins, margin))
    return verdict.judge(comparison, "ppo", question, LookBooks(tmp_path))


def without(comparison, **fields):
    """The same comparison with these fields of every seed's curve set to NaN."""
    for task in comparison.tasks:
        for samples in task.arms.values():
            for k, sample in enumerate(samples):
                nothing = {name: np.full(len(sample.curve.steps), np.nan) for name in fields}
                samples[k] = dataclasses.replace(sample, curve=dataclasses.replace(sample.curve, **nothing))
    return comparison


def partly_known():
    """Seeds whose curves have no step in common, and one that was never evaluated."""
    comparison = study([NEGATIVE], TWO, 3)
    for k, sample in enumerate(comparison.tasks[0].arms["apo"]):
        sample.curve.returns[: 20 * k] = np.nan
        sample.curve.returns[20 * k + 20 :] = np.nan
        if k == 0:
            sample.curve.evaluated[:] = np.nan
    return comparison


ODD = {
    "one arm": lambda: study([CARTPOLE], {"ppo": (0.8, 4)}, 5),
    "one arm, one seed": lambda: study([CARTPOLE], {"ppo": (0.8, 4)}, 1),
    "one seed of each": lambda: study([NEGATIVE, TINY], TWO, 1),
    "two seeds": lambda: study([CARTPOLE, LARGE], TWO, 2),
    "nothing evaluated": lambda: study([TINY], TWO, 5, evaluations=False),
    "at the ceiling": lambda: study([CEILING], {"ppo": (1.5, 9), "apo": (1.5, 9)}, 5),
    "parts of curves": partly_known,
    "no curve at all": lambda: without(study([CARTPOLE], TWO, 5), evaluated=0, evaluated_sampled=0, row_returns=0),
    "no environment in common": lambda: study(
        [CARTPOLE, TINY], TWO, 5, skip=[("CartPole-v1", "ppo"), ("Tiny-v0", "apo")]
    ),
    "diverged": lambda: study([CARTPOLE, NEGATIVE, TINY], TWO, 5, diverged=2),
    "all of one arm diverged": lambda: study(
        [CARTPOLE, NEGATIVE], TWO, 5, diverged=5, skip=[("CartPole-v1", "apo"), ("Acrobot-v1", "apo")]
    ),
    "nine arms, two environments": lambda: study([CARTPOLE, NEGATIVE], NINE, 5),
}


# the most arms draw nothing that fewer do not, and take a second each
@pytest.mark.few(4)
@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x.startswith("nine") else x for x in ODD])
def test_every_figure_is_drawn_for_odd_studies(tmp_path, name):
    comparison = ODD[name]()
    drawn = figures.draw(comparison, judged(tmp_path, comparison), tmp_path)
    assert [each for each in figures.NAMES if each in drawn] == drawn
    assert {"curves_steps", "curves_time", "curves_episodes", "intervals_evaluation", "profile"} <= {*drawn}
    compared = not name.startswith(("one arm", "no environment"))
    assert ("differences" in drawn) == compared
    assert ("curves_evaluation" in drawn) == (name not in ("nothing evaluated", "no curve at all"))
    assert ("sample_efficiency" in drawn) == (len(comparison.tasks) > 1)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{each}.{kind}" for each in drawn for kind in ("svg", "png")} <= {*figures.FILES}


@pytest.mark.slow
def test_a_figure_for_a_paper_has_its_width_and_its_fonts_and_the_same_bytes_every_time(tmp_path):
    comparison = study([CARTPOLE], TWO, 20)  # with rasterized seeds
    judgement = judged(tmp_path, comparison)
    for folder, fonts in (("a", "text"), ("b", "text"), ("c", "paths")):
        (tmp_path / folder).mkdir()
        figures.draw(comparison, judgement, tmp_path / folder, 3.4, fonts)
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in "abc")
    assert a == b
    assert {name.rpartition(".")[2] for name in a} == {"svg", "pdf", "png"}
    for name in [name for name in a if name.endswith(".svg")]:
        assert b'width="244.8pt"' in a[name]  # 3.4 · 72
        assert b"<text" in a[name]
        assert b"<text" not in c[name]


# Colours --------------------------------------------------------------------------------------------------------------


def test_sixteen_colours_are_as_far_apart_as_okabe_and_itos():
    def nearest(colours):
        lab = style._as_seen(np.array([to_rgb(colour) for colour in colours]))
        distances = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1)  # in OKLab, by each kind of eyes
        return [np.min(each[~np.eye(len(colours), dtype=bool)]) for each in distances]

    few, many = nearest([style.BASELINE, *style.OKABE_ITO]), nearest([style.BASELINE, *palette(16)])
    assert min(many[1:]) >= 0.99 * min(few)  # by red-blind and green-blind eyes
    assert many[0] > 0.12  # by normal ones; a difference is just noticeable at about 0.02
    assert palette(16)[:8] == palette(8)  # an arm more leaves the others' colours
    assert len({*palette(40)}) == 40


def drawn_colours(axes):
    return {mpl.colors.to_hex(line.get_color()).upper() for line in axes.get_lines()} - {"#777777"}


@pytest.mark.parametrize("arms", [TWO, NINE, SEVENTEEN])
def test_an_arm_has_one_colour_in_every_figure_and_environment(tmp_path, arms):
    lacking = list(arms)[1]
    comparison = study([CARTPOLE, NEGATIVE], arms, 5, skip=[("CartPole-v1", lacking)])
    looks, sheet = arm_looks(comparison.arm_names, "ppo"), Sheet()
    assert len({look["color"] for look in looks.values()}) == len(arms)
    assert looks["ppo"] == {"color": "#000000", "linestyle": "-"}
    for over in ("steps", "time"):
        figure = curves.learning_curves(comparison, over, "ppo", sheet)
        panels = [(block.task, panel) for block in blocks_of(comparison, "ppo") for panel in block.panels]
        for axes, (task, panel) in zip(figure.axes, panels, strict=True):
            assert drawn_colours(axes) == {looks[name]["color"] for name in panel.arms}
            assert (lacking in panel.arms) <= (task.env != "CartPole-v1")
    rows = forest.groups_of(judged(tmp_path, comparison))
    figure = forest.differences(judged(tmp_path, comparison), comparison.arm_names, sheet)
    for axes, group in zip(figure.axes, rows, strict=True):
        (lines,) = [each for each in axes.collections if isinstance(each, LineCollection)]
        assert [mpl.colors.to_hex(c).upper() for c in lines.get_colors()] == [looks[r.arm]["color"] for r in group.rows]


# Curves ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("arms", [TWO, NINE])
def test_bands_are_within_the_axes_and_the_limits(seeds, arms):
    comparison = study([CARTPOLE, CEILING, NEGATIVE, TINY], arms, seeds)
    for make in (
        lambda: curves.learning_curves(comparison, "steps", "ppo", Sheet()),
        lambda: curves.evaluation_curves(comparison, "ppo", Sheet(3.4)),
    ):
        with mpl.rc_context(Sheet().settings):
            figure = make()
        tasks = [block.task for block in blocks_of(comparison, "ppo") for _ in block.panels]
        for axes, task in zip(figure.axes, tasks, strict=True):
            low, high = axes.get_ylim()
            y = np.concatenate(
                [c.get_paths()[0].vertices[:, 1] for c in axes.collections if isinstance(c, PolyCollection)]
            )
            assert low < y.min()
            assert y.max() < high
            if task.limits:
                assert task.limits[0] <= y.min()
                assert y.max() <= task.limits[1]


def test_the_band_of_a_curve_is_the_interval_of_its_mean():
    g = np.random.default_rng(1)
    scores = np.vstack([g.normal(0.9, 0.2, (20, 6)), np.full((1, 6), 0.1)])  # whose computed variance is not quite 0
    for limits in ((None, None), (0.0, 1.0), (None, 0.95)):
        expected = [statistics.mean_interval(point, limits) for point in scores]
        assert_allclose(np.transpose(statistics.mean_band(scores, limits)), expected)
    assert np.isnan(statistics.mean_band(scores[:, :1]).low).all()


@pytest.mark.few(1)
@pytest.mark.parametrize(("arms", "width"), [(NINE, 3.4), (SEVENTEEN, 7.0), (NINE, 12.0)])
def test_many_arms_have_panels_of_one_size_that_no_legend_squeezes(arms, width):
    sheet = Sheet(width)
    comparison = study([CARTPOLE, NEGATIVE], arms, 5)
    with mpl.rc_context(sheet.settings):
        for make in (lambda: curves.learning_curves(comparison, "steps", "ppo", sheet),
                     lambda: curves.sample_efficiency(comparison, "ppo", sheet)):  # fmt: skip
            figure = make()
            figure.draw_without_rendering()
            inches = [axes.get_window_extent().size / figure.dpi for axes in figure.axes]
            assert_allclose(inches, [inches[0]] * len(inches), rtol=1e-6)
            assert len(inches) % (len(arms) - 1) == 0
            assert inches[0][0] > 0.9
            assert inches[0][1] > 0.6
            assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_ticks_are_plain_numbers():
    label = PlainNumbers().format_ticks
    assert label([-200.0, -150, -100]) == ["−200", "−150", "−100"]
    assert label([-0.05, -1e-17, 0.05]) == ["−0.05", "0.00", "0.05"]
    assert label([0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert label([499.95, 500.0, 500.05]) == ["499.95", "500.00", "500.05"]
    assert label([0, 2500, 5000]) == ["0", "2,500", "5,000"]
    assert label([0, 500_000, 1_000_000]) == ["0", "500k", "1,000k"]
    assert label([]) == []


# Sample efficiency ----------------------------------------------------------------------------------------------------


def test_the_band_of_sample_efficiency_is_the_aggregate_at_each_point():
    comparison = study([CARTPOLE, NEGATIVE], TWO, 8)
    x, band = curves.efficiencies(comparison)["apo"]
    grid = np.linspace(0, 1, curves.POINTS + 1)
    for k in (0, len(x) - 1):  # ends are never interpolated
        at = int(np.flatnonzero(grid == x[k])[0])
        scores = []
        for task in comparison.tasks:
            returns = [np.interp(grid[at], s.curve.steps[2:] / 1e5, s.curve.returns[2:]) for s in task.arms["apo"]]
            scores.append(results.normalised(np.array(returns), task, "final"))
        assert_allclose([band.value[k], band.low[k], band.high[k]], statistics.aggregate_iqm(scores))
    assert (band.low < band.value).all()
    assert (band.value < band.high).all()


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_band_of_sample_efficiency_covers_the_truth(seeds):
    g = np.random.default_rng(7)
    levels = np.array([[0.1, 0.2, 0.3], [0.2, 0.5, 0.8], [0.6, 0.6, 0.9]])  # of three environments at three points
    everything = np.sort((levels[..., None] + g.normal(0, 0.15, (3, 3, 100_000))).reshape(3, -1))
    truth = everything[:, 75_000:-75_000].mean(-1)
    covered = []
    for _ in range(400):
        scores = levels[..., None] + g.normal(0, 0.15, (3, 3, seeds))  # (points, environments, seeds)
        band = statistics.aggregate_band([scores[:, k] for k in range(3)])
        covered.append((band.low <= truth) & (truth <= band.high))
    # 400 studies: two standard errors are 2.2 %
    assert (np.mean(covered, 0) >= 0.92).all()
    assert (np.mean(covered, 0) <= 0.985).all()


# Differences ----------------------------------------------------------------------------------------------------------


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def segments_of(axes):
    (lines,) = [each for each in axes.collections if isinstance(each, LineCollection)]
    return [segment[:, 0] for segment in lines.get_segments()]


@pytest.mark.parametrize("width", [3.4, 7.0])
@pytest.mark.parametrize("envs", [[CARTPOLE], [CARTPOLE, NEGATIVE, TINY]])
@pytest.mark.parametrize("margin", ["5%", "", "25"])
def test_the_forest_says_what_was_judged(tmp_path, width, envs, margin):
    comparison = study(envs, {"ppo": (0.8, 4), "apo": (1.0, 6), "sil": (0.3, 4)}, 10)
    judgement = judged(tmp_path, comparison, margin)
    figure = forest.differences(judgement, comparison.arm_names, Sheet(width))
    assert len(figure.axes) == (1 if len(envs) == 1 else len(envs) + 1)
    for axes, env in zip(figure.axes, envs, strict=False):
        unit = np.diff(results.scale(next(t for t in comparison.tasks if t.env == env.name), "evaluation"))[0] / 100
        unit = unit if margin == "5%" else 1.0
        found = [r for r in judgement.primary if r.env == env.name]
        assert_allclose(segments_of(axes), [(r.against.low / unit, r.against.high / unit) for r in found])
        assert [text for text in texts_of(axes) if text in forest.MARKERS] == [r.verdict.word for r in found]
        bands = [(patch.get_x(), patch.get_width()) for patch in axes.patches]
        assert_allclose(bands, [(-r.margin / unit, 2 * r.margin / unit) for r in found] if margin else [])
        low, high = axes.get_xlim()
        assert low < min(0, *(r.against.value / unit for r in found))
        assert high > max(0, *(r.against.value / unit for r in found))
    if len(envs) > 1:
        over_all = [(100 * o.against.low, 100 * o.against.high) for o in judgement.overall]
        assert_allclose(segments_of(figure.axes[-1]), over_all)
        assert "better" in texts_of(figure.axes[-1])


def test_one_arm_has_a_row_for_each_environment_and_one_over_all(tmp_path):
    comparison = study([CARTPOLE, NEGATIVE], TWO, 10)
    judgement = judged(tmp_path, comparison)
    (axes,) = forest.differences(judgement, comparison.arm_names, Sheet()).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["CartPole-v1", "Acrobot-v1", "over 2 environments"]
    assert len(segments_of(axes)) == 3


@pytest.mark.parametrize(
    ("low", "high", "arrows"),
    [(-math.inf, math.inf, 2), (math.nan, math.nan, 0), (-3.0, math.inf, 1), (-1e6, 12.0, 1), (11.0, 13.0, 0)],
)
def test_bounds_without_end_become_arrows(tmp_path, low, high, arrows):
    comparison = study([CARTPOLE], TWO, 5)
    judgement = judged(tmp_path, comparison, "25")
    (r,) = judgement.primary
    r.against = r.against._replace(value=12.0, low=low, high=high)
    r.verdict = decide(r.against, r.margin)
    with mpl.rc_context(Sheet().settings):
        figure = forest.differences(judgement, comparison.arm_names, Sheet())
        figure.draw_without_rendering()
    (axes,) = figure.axes
    assert np.isfinite(axes.get_xlim()).all()
    assert sum(line.get_marker() in (4, 5) for line in axes.get_lines()) == arrows
    if arrows < 2 and not math.isnan(low):
        assert axes.get_xlim()[1] < 1000  # a bound far away does not flatten the rest


def test_a_seed_that_diverged_has_a_mark_of_its_own(tmp_path):
    comparison = study([CARTPOLE], TWO, 5, diverged=2)
    judgement = judged(tmp_path, comparison)
    looks = arm_looks(comparison.arm_names, "ppo")
    figure = figures.intervals(judgement.results, "evaluation", looks, Sheet())
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses if len(line.get_xdata())] == [
        [0.0, 0.0]
    ]  # the floor of CartPole
    assert "diverged" in figure.get_supxlabel()


def test_a_study_without_environments_in_common_has_no_colour_twice():
    comparison = Comparison(
        [*study([CARTPOLE], TWO, 2).tasks, *study([TINY], {"ppo": (1, 1), "sil": (1, 1)}, 2).tasks], []
    )
    looks = arm_looks(comparison.arm_names, "ppo")
    assert len({look["color"] for look in looks.values()}) == 3
