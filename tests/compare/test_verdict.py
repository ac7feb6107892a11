"""Verdicts and their sentences, from scores alone: what is said, and what is never said."""

import itertools
import math

import numpy as np
import pytest
from scored import TEN, comparison, task
from studies import Env, study

from rlexp.compare import report, verdict
from rlexp.compare.decision import decide
from rlexp.compare.look_book import LookBooks
from rlexp.compare.measures import MEASURES
from rlexp.compare.permutation import permutation_test
from rlexp.compare.question import Question
from rlexp.compare.results import normalised_iqms
from rlexp.compare.statistics import Difference
from rlexp.compare.verdict import Verdict

WORDS = ("better", "worse", "equivalent", "interim")


def question(margin=None, primary="evaluation", envs=("E",), written=None):
    if margin is None:
        return Question(primary)
    return Question(primary, dict.fromkeys(envs, float(margin)), dict.fromkeys(envs, written or f"{margin:g}"))


def judge(tmp_path, *tasks, margin=None, primary="evaluation", written=None):
    asked = question(margin, primary, [t.env for t in tasks], written)
    return verdict.judge(comparison(*tasks), "ppo", asked, LookBooks(tmp_path))


def said(judgement):
    """The sentences, in one line each."""
    return report.verdicts(judgement)


def of(judgement, arm="apo", env="E"):
    (found,) = [r for r in judgement.primary if (r.arm, r.env) == (arm, env)]
    return found


# decide --------------------------------------------------------------------------------------------------------------


def test_the_verdict_is_where_the_interval_lies():
    def word(low, high, margin=5.0, limit=""):
        return decide(Difference((low + high) / 2, low, high, 0.5), margin, limit)

    assert word(1, 9) == Verdict("better")
    assert word(-9, -1) == Verdict("worse")
    assert word(1, 4) == Verdict("better", within=True)
    assert word(-4, -1) == Verdict("worse", within=True)
    assert word(-4, 4) == Verdict("equivalent")
    assert word(-5, 5) == Verdict("equivalent")  # at its edges still
    assert word(-5.01, 1) == word(-1, 5.01) == word(-9, 9) == Verdict("inconclusive")
    assert word(0, 9) == word(-9, 0) == Verdict("inconclusive")  # 0 is not excluded
    assert word(0, 0) == Verdict("equivalent")
    assert word(-1, 1, math.nan) == Verdict("inconclusive")  # no margin, no equivalence
    assert word(1, 2, math.nan) == Verdict("better")
    for limit in ("ceiling", "floor"):
        assert word(-1, 1, limit=limit) == Verdict("inconclusive", limit)
        assert word(-9, 9, limit=limit) == Verdict("inconclusive", limit)
        assert word(1, 2, limit=limit) == Verdict("better", within=True)


def test_the_words_of_real_scores_follow_from_test_and_interval(tmp_path):
    for k, (shift, margin) in enumerate(itertools.product((-12, -4, -0.5, 0.5, 4, 12), (None, 2, 6, 30))):
        judgement = judge(tmp_path / str(k), task({"ppo": TEN, "apo": TEN + shift}), margin=margin)
        r = of(judgement)
        alone = permutation_test([(TEN + shift, TEN)])
        assert r.against == alone
        expected = "inconclusive"
        if alone.p <= 0.05:
            expected = "better" if shift > 0 else "worse"
        elif margin is not None and max(-alone.low, alone.high) <= margin:
            expected = "equivalent"
        assert r.verdict.word == expected, (shift, margin)
        assert f"**{expected}**" in said(judgement)[0]
        assert r.differs == (expected in ("better", "worse"))


# Sentences -----------------------------------------------------------------------------------------------------------


def test_better_within_the_margin_is_both(tmp_path):
    judgement = judge(tmp_path, task({"ppo": TEN, "apo": TEN + 5}, bounds=(0, 200)), margin=20, written="10%")
    (line,) = said(judgement)
    d = of(judgement).against
    assert line.startswith(
        f"apo is **better** than ppo on E (within 10 %): +2.5 % [{d.low / 2:.4g}, {d.high / 2:.4g}], 10 seeds each; "
    )


def test_equivalent_names_its_margin(tmp_path):
    judgement = judge(tmp_path, task({"ppo": TEN, "apo": TEN + 0.5}), margin=8)
    d = of(judgement).against
    (line,) = said(judgement)
    assert line.startswith(
        f"apo is **equivalent** to ppo on E within 8: +0.5 [{d.low:.4g}, {d.high:.4g}], 10 seeds each"
    )
    (line, reserved) = said(judge(tmp_path / "2", task({"ppo": TEN, "apo": TEN + 0.5})))
    assert line.startswith("apo against ppo on E is **inconclusive**: +0.5 [")
    assert reserved.startswith("No margin was declared, so no arm can be called equivalent")


@pytest.mark.parametrize("n", [2, 3, 4])
def test_below_five_seeds_there_are_intervals_and_no_verdict(tmp_path, n):
    scores = np.arange(n) * 1.0
    judgement = judge(tmp_path, task({"ppo": scores, "apo": scores + 100}), margin=1000)
    assert of(judgement).verdict == Verdict("inconclusive", "too few seeds: a verdict takes 5 of each arm")
    assert said(judgement)[0].startswith("apo against ppo on E is **inconclusive**: +100 [")
    assert f"], {n} seeds each; too few seeds: a verdict takes 5 of each arm" in said(judgement)[0]
    assert not [word for word in WORDS for line in said(judgement) if f"**{word}**" in line]
    one = judge(tmp_path, task({"ppo": np.arange(10.0), "apo": np.arange(4.0) + 100}), margin=1000)
    assert of(one).verdict.why.startswith("too few seeds")  # of one arm
    alone = judge(tmp_path, task({"ppo": [0.0], "apo": [5.0]}))
    assert said(alone)[0].startswith("apo against ppo on E is **inconclusive**: +5, 1 seed each; too few seeds")


def test_one_point_of_jitter_is_no_proof(tmp_path):
    arms = {"apo": [500.0, 500, 500], "ppo": [100.0, 100, 101]}
    judgement = judge(tmp_path, task(arms, finals={"apo": [9.0, 9, 9], "ppo": [1.0, 1, 2]}))
    assert of(judgement).verdict.word == "inconclusive"
    assert not any(r.differs for r in judgement.results)  # nor by another measure, whatever Student's t says
    assert "but" not in said(judgement)[0]


def test_five_seeds_and_sixteen_comparisons_say_that_they_cannot(tmp_path):
    arms = {f"apo{k}": np.arange(5) + 1000.0 for k in range(16)} | {"ppo": np.arange(5.0)}
    judgement = judge(tmp_path, task(arms), margin=1e6)
    assert judgement.tests == 16
    # 2 of C(10, 5) = 252 assignments: .0079, above .05/16
    why = "too few seeds: p cannot be below 0.0079, and so never reaches the level of 0.0031 that 16 comparisons leave"
    assert {r.verdict for r in judgement.primary} == {Verdict("inconclusive", why)}
    assert not LookBooks(tmp_path).judged
    assert why in said(judgement)[0]
    six = judge(tmp_path, task({name: arms[name] for name in ("ppo", *(f"apo{k}" for k in range(6)))}))
    assert {r.verdict.word for r in six.primary} == {"better"}  # .05/6 is within reach


# Limits --------------------------------------------------------------------------------------------------------------


def test_arms_at_the_ceiling_are_never_equivalent(tmp_path):
    ppo, apo = np.full(10, 500.0), np.array([500.0] * 8 + [499, 496])
    at = judge(tmp_path / "1", task({"ppo": ppo, "apo": apo}, limits=(0, 500)), margin=25)
    assert of(at).verdict == Verdict("inconclusive", "ceiling")
    assert "ceiling: nearly all seeds of both arms are at it, where no difference can show" in said(at)[0]
    unknown = judge(tmp_path / "2", task({"ppo": ppo, "apo": apo}), margin=25)
    assert of(unknown).verdict == Verdict("inconclusive", "one score")
    assert "nearly all seeds of both arms score exactly the same" in said(unknown)[0]
    spread = judge(tmp_path / "3", task({"ppo": ppo - np.arange(10), "apo": apo - np.arange(10)}), margin=25)
    assert of(spread).verdict.word == "equivalent"
    beside = np.array([500.0] * 7 + [480, 490, 485])  # seven of ten are not nearly all
    one = judge(tmp_path / "3", task({"ppo": ppo, "apo": beside}, limits=(0, 500)), margin=25)
    assert of(one).verdict.word == "equivalent"
    worse = judge(tmp_path / "4", task({"ppo": ppo, "apo": TEN + 400}, limits=(0, 500)), margin=25)
    assert of(worse).verdict.word == "worse"
    low = judge(
        tmp_path / "5", task({"ppo": ppo - 500, "apo": 500 - apo}, limits=(0, None), bounds=(0, 500)), margin=25
    )
    assert of(low).verdict == Verdict("inconclusive", "floor")


def test_intervals_stay_within_the_limits(tmp_path):
    arms = {"ppo": [0.0, 0, 0, 1, 0], "apo": [1.0, 1, 1, 1, 0]}
    judgement = judge(tmp_path, task(arms, limits=(0, 1)))
    for r in judgement.results:
        if len(r.scores):
            assert 0 <= r.mean.low <= r.mean.value <= r.mean.high <= 1, r
            assert 0 <= r.iqm.low <= r.iqm.high <= 1, r
    d = of(judgement).against
    assert (d.value, d.low >= -1, d.high) == (pytest.approx(0.6), True, 1)
    free = of(judge(tmp_path / "2", task(arms)))
    assert free.against.high > 1


# Diverged and missing seeds ------------------------------------------------------------------------------------------

DIVERGED = {"apo": {10: "diverged", 11: "diverged"}}


@pytest.mark.parametrize(
    ("known", "floor"),
    [
        ({"limits": (-50.0, 500.0), "bounds": (0.0, 500.0)}, -50),
        ({"limits": (None, 500.0), "bounds": (3.0, 500.0)}, 3),
        ({"bounds": (3.0, 500.0)}, 3),
        ({"bounds": (350.0, 500.0)}, 300 - 4.5),  # no skill is not the worst
        ({}, 300 - 4.5),  # the worst of any seed: the arm's own may be its best
    ],
)
def test_a_diverged_seed_scores_the_floor_and_that_is_said(tmp_path, known, floor):
    ppo = np.append(TEN, [0, 0]) + 300
    judgement = judge(tmp_path, task({"ppo": ppo, "apo": TEN + 400}, absent=DIVERGED, **known))
    r = of(judgement)
    assert r.scores.tolist() == [*(TEN + 400), floor, floor]
    assert (r.diverged, r.missing, r.planned) == (2, {}, 12)
    assert r.mean.value == pytest.approx((4000 + 2 * floor) / 12)
    assert r.against.value == pytest.approx((4000 + 2 * floor) / 12 - 300)
    assert f"12 seeds each (2 of apo diverged and scored {floor:g})" in said(judgement)[0]


def test_survivors_are_not_better(tmp_path):
    # six of ten diverged, the four left are far above
    absent = {"apo": dict.fromkeys(range(4, 10), "diverged")}
    apo = np.array([460.0, 470, 480, 490])
    judgement = judge(tmp_path, task({"ppo": TEN + 300, "apo": apo}, absent=absent, limits=(0, 500)))
    assert of(judgement).against.value == pytest.approx(apo.sum() / 10 - 300)
    assert of(judgement).verdict.word != "better"


def test_a_diverged_baseline_is_said_too(tmp_path):
    absent = {"ppo": {10: "diverged"}}
    judgement = judge(
        tmp_path, task({"ppo": TEN + 100, "apo": np.append(TEN, 0) + 400}, absent=absent, limits=(1, 500))
    )
    assert "11 seeds each (1 of ppo diverged and scored 1)" in said(judgement)[0]


def test_an_arm_with_missing_seeds_is_never_better_without_saying_how_many_it_has(tmp_path):
    reasons = ("failed", "no score", "never ran", "unreadable", "no episode")
    absent = {"apo": dict(enumerate(reasons, 5))}
    arms = {"ppo": TEN, "apo": np.arange(5) + 100.0}
    judgement = judge(tmp_path / "1", task(arms, absent=absent))
    assert of(judgement).verdict.word == "better"
    (line, *_) = said(judgement)
    assert "apo is **better** than ppo on E: " in line
    assert "5 of 10 seeds against 10" in line.split(";")[0]
    # one line for many arms; over environments; in tables
    many = {f"apo{k}": TEN for k in range(7)}
    lines = said(judge(tmp_path / "2", task(arms | many, absent=absent)))
    assert "apo +102 [" in lines[0]
    assert "**better**" in lines[0]
    assert "5 of 10 seeds against 10" in lines[0]
    two = judge(tmp_path / "3", task(arms, absent=absent), task(arms, "F", absent={"apo": {5: "diverged"}}))
    assert "**better**" in said(two)[-2]
    # 5 of each environment, and one that diverged, of 10 and 6
    assert said(two)[-2].endswith("of the span of scores, from 11 of 16 seeds of apo (1 diverged).")
    assert "5 of 10" in report.plain(comparison(task(arms, absent=absent)), judgement).split("evaluation:")[1]
    assert [row[1] for row in report.measure_rows([of(judgement)], judgement)] == ["n", "5 of 10"]


def test_a_seed_without_a_score_is_missing(tmp_path):
    arms = {"ppo": TEN, "apo": np.array([100.0, 101, 102, 103, 104, *[np.nan] * 5])}
    judgement = judge(tmp_path, task(arms, finals={"ppo": TEN, "apo": TEN}))
    assert of(judgement).missing == dict.fromkeys(range(5, 10), "not evaluated")
    assert "5 of 10 seeds against 10; 5 of 20 seeds are still to come, of which 5 by python" in said(judgement)[0]
    arms["apo"][5:] = np.inf
    judgement = judge(tmp_path / "2", task(arms, finals={"ppo": TEN, "apo": TEN}))
    assert of(judgement).missing == dict.fromkeys(range(5, 10), "no score")
    assert of(judgement).verdict.word == "better"
    assert "5 of 10 seeds against 10" in said(judgement)[0]


@pytest.mark.parametrize("why", ["running", "waiting", "interrupted", "killed"])
def test_seeds_still_to_come_make_it_interim(tmp_path, why):
    arms = {"ppo": TEN, "apo": TEN[:8] + 100, "other": TEN + 100}
    judgement = judge(tmp_path, task(arms, absent={"apo": {8: why, 9: "failed"}}), margin=1000)
    assert of(judgement).verdict == Verdict("interim", "1 of 20 seeds is still to come")
    assert of(judgement, "other").verdict.word == "better"
    assert said(judgement)[0].startswith("apo against ppo on E is **interim**: +99 [")
    base = judge(tmp_path / "2", task(arms | {"ppo": TEN[:8]}, absent={"ppo": {8: why}}))
    assert {r.verdict.word for r in base.primary} == {"interim"}
    assert not (tmp_path / "2" / "looks.json").exists()


def test_an_arm_all_of_whose_seeds_diverged_has_their_scores(tmp_path):
    absent = {"apo": dict.fromkeys(range(10), "diverged")}
    judgement = judge(tmp_path, task({"ppo": TEN + 100}, absent=absent, limits=(0, 200)))
    assert of(judgement).verdict.word == "worse"
    assert "(10 of apo diverged and scored 0)" in said(judgement)[0]


def test_an_arm_of_which_nothing_is_left_is_named(tmp_path):
    absent = {
        "apo": {0: "unreadable", 1: "unreadable", 2: "failed", 3: "never ran"},
        "later": {0: "waiting", 1: "never ran", 2: "killed"},
    }
    judgement = judge(tmp_path, task({"ppo": TEN, "other": TEN + 1}, absent=absent))
    (line,) = [line for line in said(judgement) if "apo" in line]
    assert line.startswith("apo on E has no seed to compare: 2 unreadable, 1 failed.")
    assert not [line for line in said(judgement) if "later" in line]  # nothing is known of it yet
    alone = said(judge(tmp_path / "alone", task({"ppo": TEN}, absent=absent)))
    assert [line for line in alone if line.startswith("apo on E has no seed to compare")]


def test_a_primary_measure_without_any_score_is_said(tmp_path):
    nothing = np.full(10, np.nan)
    arms = {"ppo": nothing, "apo": nothing}
    judgement = judge(tmp_path, task(arms, finals={"ppo": TEN, "apo": TEN + 9}))
    (line,) = said(judgement)
    assert line.startswith(
        "No seed has a score by the primary measure, evaluation: train with evaluation.episodes, or "
    )
    assert line.endswith("; or choose one that the runs have, as in primary=final.")
    alone = judge(tmp_path / "alone", task({"ppo": TEN}))
    assert said(alone) == ["There is nothing to compare with ppo: no other arm has a score on its environments."]


def test_a_score_that_is_not_finite_is_missing(tmp_path):
    for odd in (np.inf, -np.inf):
        judgement = judge(tmp_path / str(odd), task({"ppo": np.append(TEN, odd), "apo": np.append(TEN, 3) + 50}))
        assert of(judgement).verdict.word == "better"
        assert "11 seeds against 10 of 11" in said(judgement)[0]


@pytest.mark.parametrize("odd", [np.inf, 1e35])
def test_a_score_that_is_missing_is_no_end_of_the_span(tmp_path, odd):
    arms = {"ppo": np.append(TEN, odd), "apo": np.append(TEN, 3)}  # known are -4.5 to 4.5
    (o,) = judge(tmp_path, *(task(arms, env) for env in "AB")).overall
    assert o.against.value == pytest.approx(3 / 11 / 9)


def test_retention_is_a_share_already(tmp_path):
    both = study([Env(env, threshold=100.0, bounds=(0.0, 500.0)) for env in "AB"], {"ppo": (0.8, 6), "apo": (0.9, 8)})
    judgement = verdict.judge(both, "ppo", Question("retention"), LookBooks(tmp_path))
    assert [iqm.value for _, iqm in normalised_iqms(both, judgement).values()] == pytest.approx([1, 1], abs=0.1)
    told = "Normalised scores map these spans to 0 to 1: A 0 to 500; B 0 to 500."  # of returns, in figures
    assert report._footnotes(both, judgement)[-1] == told


def test_limits_that_scores_are_beyond_are_not_used(tmp_path):
    one = task({"ppo": TEN, "apo": TEN + 50}, limits=(0, 20), bounds=(0, 20))
    whole = comparison(one)
    judgement = verdict.judge(whole, "ppo", Question("evaluation"), LookBooks(tmp_path))
    assert of(judgement).against.high > 20
    assert "a score of -4.5 is beyond the limits 0 to 20, which are not used" in whole.remarks[-1]


def test_ranks_that_contradict_the_means_are_said(tmp_path):
    # four seeds of five are lower by 10, the fifth is higher by far
    ppo = np.linspace(100, 101, 20)
    apo = np.append(np.linspace(90, 91, 16), [700, 701, 702, 703])
    judgement = judge(tmp_path, task({"ppo": ppo, "apo": apo}))
    r = of(judgement)
    assert r.against.value > 0
    assert r.improvement.value == pytest.approx(0.2)
    assert r.ranks_differ
    assert "by ranks they differ" in said(judgement)[0]


def test_arms_at_a_limit_on_one_environment_are_not_equivalent_over_all(tmp_path):
    full = np.full(10, 500.0)
    tasks = [task({"ppo": TEN, "apo": TEN + 0.1}, env="A", bounds=(0, 500))]
    tasks.append(task({"ppo": full, "apo": full}, env="B", bounds=(0, 500), limits=(0, 500)))
    judgement = judge(tmp_path, *tasks, margin=50)
    assert [r.verdict.word for r in judgement.primary] == ["equivalent", "inconclusive"]
    (overall,) = judgement.overall
    assert (overall.verdict.word, overall.verdict.why) == ("inconclusive", "ceiling on 1 of them")


def test_better_here_and_worse_there_is_said_of_the_whole(tmp_path):
    tasks = [task({"ppo": TEN, "apo": TEN + shift}, env=env, bounds=(0, 500)) for env, shift in (("A", 90), ("B", -90))]
    judgement = judge(tmp_path, *tasks, margin=50)
    assert said(judgement)[2].endswith("; better on A and worse on B.")


def test_arms_without_a_score_so_far_are_counted_as_comparisons(tmp_path):
    absent = {"later": dict.fromkeys(range(10), "waiting")}
    judgement = judge(tmp_path, task({"ppo": TEN, "apo": TEN + 5}, absent=absent))
    assert judgement.tests == 2
    assert of(judgement).against.alpha == 0.025


# Secondary measures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primary", ["evaluation", "final"])
def test_only_the_primary_measure_has_verdicts(tmp_path, primary):
    arms = {"ppo": TEN, "apo": TEN + 0.5}
    data = task(arms, finals={"ppo": TEN, "apo": TEN - 20})
    judgement = judge(tmp_path, data, primary=primary, margin=100)
    assert {r.measure for r in judgement.results if r.verdict} == {primary}
    assert judgement.results[0].measure == primary
    for r in judgement.results:
        if r.measure != primary and len(r.scores):
            rows = report.measure_rows([x for x in judgement.results if x.measure == r.measure], judgement)
            cells = " ".join(cell for row in rows for cell in row)
            assert not [
                word for word in (*WORDS, "inconclusive", "verdict") if f" {word}" in cells.replace("P(better)", "")
            ]


def test_a_disagreement_is_in_the_same_sentence(tmp_path):
    finals = {"ppo": TEN, "apo": TEN - 20}
    for shift, word in ((0.5, "inconclusive"), (30, "better")):
        judgement = judge(tmp_path / word, task({"ppo": TEN, "apo": TEN + shift}, finals=finals))
        (line,) = [line for line in said(judgement) if line.startswith("apo")]
        assert f"**{word}**" in line
        assert "; but final is lower, -20 [" in line
        assert "area is lower, -20 [" in line
    agreed = judge(tmp_path / "3", task({"ppo": TEN, "apo": TEN - 30}, finals=finals))
    (line,) = [line for line in said(agreed) if line.startswith("apo")]
    assert "but" not in line
    assert "; secondary: final -20 [" in line
    many = {f"apo{k}": TEN + 0.5 for k in range(7)} | {"ppo": TEN}
    finals = {name: TEN - 20 * (name != "ppo") for name in many}
    line = said(judge(tmp_path / "4", task(many, finals=finals)))[0]
    assert line.count("but final -20 [") == 7


def test_secondary_measures_are_corrected_among_themselves(tmp_path):
    arms = {"ppo": TEN, "apo": TEN + 1, "other": TEN}
    judgement = judge(tmp_path, task(arms, threshold=None))
    levels = {r.measure: r.against.alpha for r in judgement.results if r.compared}
    # two comparisons by the primary measure; two each by final and area, as nothing else has scores
    assert levels == {"evaluation": 0.025, "final": 0.05 / 4, "area": 0.05 / 4}
    assert set(MEASURES) == {"evaluation", "evaluation_sampled", "final", "area", "retention"}


def test_a_rank_test_that_tells_another_story_is_said(tmp_path):
    # 5 points higher, beside one seed in ten that fails: the means differ less than a failure
    g = np.random.default_rng(0)
    ppo, apo = g.normal(480, 2, 20), g.normal(485, 2, 20)
    ppo[:2], apo[:2] = 100, (80, 120)
    judgement = judge(tmp_path, task({"ppo": ppo, "apo": apo}))
    r = of(judgement)
    assert r.verdict.word == "inconclusive"
    assert r.p_rank < 0.01
    assert (
        f"; by ranks they differ (p = {r.p_rank:.2g}): a seed of apo is above one of the baseline in "
        in said(judgement)[0]
    )
    assert f"in {r.improvement.value:.0%} of pairs [" in said(judgement)[0]
    same = of(judge(tmp_path / "2", task({"ppo": ppo, "apo": ppo + 0.1})))
    assert not same.ranks_differ
    both = of(judge(tmp_path / "3", task({"ppo": TEN, "apo": TEN + 50})))
    assert both.differs
    assert both.p_rank < 0.01
    assert not both.ranks_differ  # nothing to add


# The family ----------------------------------------------------------------------------------------------------------


def test_the_5_percent_are_shared_by_arms_and_environments_and_the_whole(tmp_path):
    def envs(*names, arms):
        return [task(dict.fromkeys(("ppo", *arms), TEN), env) for env in names]

    for tasks, tests in (
        (envs("A", arms=["x"]), 1),
        (envs("A", arms=["x", "y", "z"]), 3),
        (envs("A", "B", arms=["x"]), 3),  # two environments, and over both
        (envs("A", "B", "C", arms=["x", "y"]), 8),
        ([*envs("A", "B", arms=["x"]), *envs("C", arms=["y"])], 4),  # y is on one alone
    ):
        judgement = judge(tmp_path / str(tests), *tasks, margin=3)
        assert judgement.tests == tests
        assert {r.against.alpha for r in judgement.primary} == {0.05 / tests}
        assert {o.against.alpha for o in judgement.overall} <= {0.05 / tests}
        alone = permutation_test([(TEN, TEN)], 0.05 / tests)
        assert all(r.against == alone for r in judgement.primary)


def test_over_environments_the_spans_are_what_counts(tmp_path):
    arms = {"ppo": TEN + 50, "apo": TEN + 56}
    big = {name: 100 * scores for name, scores in arms.items()}
    tasks = task(arms, "A", bounds=(0, 100)), task(big, "B", bounds=(0, 10_000))
    judgement = judge(tmp_path, *tasks, margin=1000)
    (o,) = judgement.overall
    assert (o.arm, o.envs, o.against.value) == ("apo", 2, pytest.approx(0.06))
    assert o.margin == pytest.approx((1000 / 100 + 1000 / 10_000) / 2)
    assert o.verdict == Verdict("better", within=True)
    line = said(judgement)[-1]
    assert line.startswith("Over 2 environments apo is **better** than ppo within 505 %: +6 % [")
    assert line.endswith("] of the span of scores.")
    same = judge(
        tmp_path / "2", *(task({"ppo": TEN + 50, "apo": TEN + 50}, e, bounds=(0, 100)) for e in "AB"), margin=5
    )
    assert said(same)[-1].startswith("Over 2 environments apo is **equivalent** to ppo within 5 %: +0 % [")
    few = judge(tmp_path / "3", task(arms, "A"), task({name: x[:4] for name, x in arms.items()}, "B"))
    assert "Over 2 environments apo against ppo is **inconclusive** (too few seeds): " in "\n".join(said(few))
