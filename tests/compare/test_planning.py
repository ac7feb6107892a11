"""Numbers of seeds: power that verdicts keep, ranges from a pilot, and what a plan declares and refuses."""

import json
import math
import re
import time

import numpy as np
import pytest
from looking import held, refused, run, study, write_looks
from runs import write_run
from scipy import stats

from rlexp.compare import planning
from rlexp.compare.decision import decide
from rlexp.compare.looks import SHARES
from rlexp.compare.permutation import permutation_test, smallest_p
from rlexp.compare.planning import like, looks_at, margin_for, power, seeds_for, spread
from rlexp.compare.verdict import ALPHA

DRAWS = {
    "normal": lambda g, size: g.normal(0, 1, size),
    "bimodal": lambda g, size: np.where(g.random(size) < 0.7, 500.0, 100.0) + g.normal(0, 1, size),
}


# Power ---------------------------------------------------------------------------------------------------------------


def margin_of(draw, n, alpha):
    """One that is found in about half to most of the studies."""
    deviation = float(draw(np.random.default_rng(9), (100_000,)).std())
    return deviation * (stats.norm.ppf(1 - alpha / 2) + 1.1) * (2 / n) ** 0.5


@pytest.mark.parametrize("shape", DRAWS)
@pytest.mark.parametrize(("n", "tests"), [(5, 1), (10, 16)])
def test_power_is_how_often_the_verdict_finds_it(shape, n, tests):
    draw, alpha, studies = DRAWS[shape], ALPHA / tests, 60
    margin = margin_of(draw, n, alpha)
    told = power(draw, n, margin, alpha, studies, seed=4)
    g = np.random.default_rng(4)  # the same studies, each judged as `compare` does
    x, y = draw(g, (studies, n)), draw(g, (studies, n))
    found, equal = (
        [decide(permutation_test([pair], alpha), margin).word for pair in zip(x + shift, y, strict=True)]
        for shift in (margin, 0.0)
    )
    assert told.found == pytest.approx(found.count("better") / studies, abs=0.035)
    assert told.equivalent == pytest.approx(equal.count("equivalent") / studies, abs=0.035)
    assert 0.2 < told.found < 0.99


@pytest.mark.parametrize("shape", DRAWS)
@pytest.mark.parametrize(("n", "tests"), [(5, 1), (10, 1), (10, 16), (20, 16)])
def test_power_is_right_within_five_points(shape, n, tests):
    draw, alpha = DRAWS[shape], ALPHA / tests
    margin = margin_of(draw, n, alpha)
    told, other = power(draw, n, margin, alpha), power(draw, n, margin, alpha, studies=2000, seed=1)
    assert told == pytest.approx(other, abs=0.05)
    if shape == "normal":  # Student's noncentral t finds as much
        dof, quantile = 2 * n - 2, stats.t.ppf(1 - alpha / 2, 2 * n - 2)
        exact = stats.nct.sf(quantile, dof, margin / (2 / n) ** 0.5)
        assert told.found == pytest.approx(exact, abs=0.05)


def test_five_seeds_and_sixteen_comparisons_have_no_power():
    assert power(DRAWS["normal"], 5, 100.0, ALPHA / 16) == (0, 0)  # 2 of 252 is above .05/16
    assert power(DRAWS["normal"], 6, 100.0, ALPHA / 16) == (1, 1)


def test_seeds_for_is_the_fewest_with_the_power():
    margin = 1.5
    n = seeds_for(DRAWS["normal"], margin, ALPHA)
    assert min(power(DRAWS["normal"], n, margin, ALPHA)) >= 0.8
    assert min(power(DRAWS["normal"], n - 1, margin, ALPHA)) < 0.8
    # by the normal approximation 2 (z_.975 + z_.8)²/1.5² = 7 to find it, 2 (z_.975 + z_.9)²/1.5² = 9.3 within ± it
    assert 9 <= n <= 13
    assert seeds_for(DRAWS["normal"], 0.3, ALPHA, 40) is None
    assert seeds_for(DRAWS["normal"], 100.0, ALPHA / 16, 40) == 6


def test_margin_for_is_the_smallest_with_the_power():
    margin = margin_for(DRAWS["normal"], 12, ALPHA, 1.0)
    assert min(power(DRAWS["normal"], 12, margin, ALPHA)) >= 0.8
    assert min(power(DRAWS["normal"], 12, margin * 0.97, ALPHA)) < 0.8
    # equivalence: (z_.975 + z_.9) √(2/12) = 1.32 by the normal approximation, with Student's t of 22 degrees 1.39
    assert margin == pytest.approx(1.38, abs=0.12)
    assert margin_for(DRAWS["normal"], 5, ALPHA / 16, 1.0) == math.inf


# The pilot -----------------------------------------------------------------------------------------------------------


def test_spread_by_hand():
    # sums of squares 2 and 18, 2 + 2 degrees of freedom: 20/4; χ²_4: .9 quantile 7.7794, .1 1.0636, .2 1.6488
    found = spread([np.array([1.0, 2, 3]), np.array([10.0, 13, 16])])
    assert found.value == pytest.approx(math.sqrt(5))
    assert found.low == pytest.approx(math.sqrt(20 / 7.7794), rel=1e-4)
    assert found.high == pytest.approx(math.sqrt(20 / 1.0636), rel=1e-4)
    assert found.planned == pytest.approx(math.sqrt(20 / 1.6488), rel=1e-4)
    # whatever the arms' means
    assert spread([np.array([1.0, 2, 3]), np.array([0.0, 3, 6])]) == pytest.approx(found)


def test_a_pilots_range_holds_the_truth_as_often_as_it_says():
    g = np.random.default_rng(2)
    found = [spread([g.normal(0, 1, 3), g.normal(5, 1, 3)]) for _ in range(2000)]
    assert np.mean([s.low <= 1 <= s.high for s in found]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([s.planned >= 1 for s in found]) == pytest.approx(0.8, abs=0.03)


def test_scores_like_a_pilots():
    arms = [np.array([100.0, 500, 500]), np.array([200.0, 600, 600])]
    scores = like(arms, 20.0)(np.random.default_rng(3), (500, 40))
    assert scores.std() == pytest.approx(20, rel=0.02)
    lower = scores.mean() - 1.0 * scores.std()
    assert (scores < lower).mean() == pytest.approx(1 / 3, abs=0.02)  # as lumpy as the pilot
    assert abs(scores.mean()) < 0.5
    assert np.isfinite(like([np.full(3, 5.0)], 1.0)(np.random.default_rng(3), (9,))).all()


def test_looks_are_later_than_the_pilot():
    assert looks_at(40, 5) == [20, 30, 40]
    assert looks_at(9, 5) == [7, 9]
    assert looks_at(9, 7) == [9]
    assert looks_at(9, 9) == [9]
    assert looks_at(9, 12) == [12]
    for seeds in range(1, 60):
        assert 1 <= len(looks_at(seeds, 3)) <= 3


# plan=true -----------------------------------------------------------------------------------------------------------


def test_a_plan_proposes_seeds_and_declares_looks(tmp_path, capsys):
    folder = study(tmp_path / "s", 4)
    begin = time.time()
    said = run(capsys, folder, "plan=true", "margin=4%")  # 8 of a span of 200; evaluations 2 apart: a deviation of 2.58
    assert time.time() - begin < 60
    assert "CartPole-v1: margin 8 (4%), deviation over seeds 2.582 [1.938, 4.26]" in said.replace("4 %", "4%")
    assert "a pilot of 4 seeds" in said
    least, most = re.search(r"(\d+) to (\d+|more than \d+) seeds per arm to find the margin", said).groups()
    planned = int(re.search(r"Planned: (\d+), with a chance of (\d+)% and (\d+)%", said)[1])
    assert int(least) <= planned <= int(most)
    entry = held(tmp_path / "s")["envs"]["CartPole-v1"]
    assert entry["planned"][-1] == planned
    assert (entry["taken"], entry["pilot"]) == ([], 4)
    assert f"Looks at {', '.join(map(str, entry['planned']))} seeds, with " in said
    assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "4%"}
    assert "60" not in said.replace(str(tmp_path), "")  # nor any other word of the difference
    assert not re.search("better|worse|apo", said)
    # what is declared is what is judged
    assert "is interim" in run(capsys, folder, "margin=4%")
    study(tmp_path / "s", planned)
    assert "apo is better than ppo" in run(capsys, folder, "margin=4%")
    assert (
        f"declared looks at {', '.join(map(str, entry['planned']))} seeds"
        in (tmp_path / "s" / "compare" / "compare.md").read_text()
    )
    study(tmp_path / "s", planned + 1)
    assert "is interim" in run(capsys, folder, "margin=4%")


def test_new_seeds_follow_those_that_diverged(tmp_path, capsys):
    folder = study(tmp_path / "s", 4)
    for algo in ("ppo", "apo"):
        record = json.loads((tmp_path / "s" / algo / "run.json").read_text())
        (tmp_path / "s" / algo / "run.json").write_text(json.dumps(record | {"diverged": {"3": {"step": 900}}}))
    assert "with seed=4 num_seeds=6 added" in run(capsys, folder, "plan=true", "margin=5", "most=10")


def test_a_capped_plan_says_the_margin_that_it_attains(tmp_path, capsys):
    folder = study(tmp_path / "s", 4)
    said = run(capsys, folder, "plan=true", "margin=0.5", "most=10")
    assert " more than 10 seeds per arm to find the margin" in said
    assert "to more than" not in said
    attained = float(
        re.search(r" 10 seeds can do so for a margin of ([\d.]+); the study is planned with them", said)[1]
    )
    assert held(tmp_path / "s")["envs"]["CartPole-v1"]["planned"][-1] == 10
    evaluations = np.arange(4) * 2.0
    found = spread([evaluations, evaluations])
    draw = like([evaluations, evaluations], found.planned)
    alpha = ALPHA * SHARES[3][-1]
    assert attained == pytest.approx(margin_for(draw, 10, alpha, found.planned), rel=1e-3)
    assert min(power(draw, 10, attained * 1.001, alpha)) >= 0.8


def test_declared_looks_are_within_reach(tmp_path, capsys):
    folder = study(tmp_path / "s", 3)
    for coef in range(5):
        write_run(tmp_path / "s" / f"apo{coef}", "apo", seeds=range(3), anchor_coef=coef + 2)
    run(capsys, folder, "plan=true", "margin=20")
    looks = held(tmp_path / "s")["envs"]["CartPole-v1"]["planned"]
    for n, share in zip(looks, SHARES[len(looks)], strict=True):
        assert n >= 5
        assert smallest_p([(n, n)], ALPHA / 6 * share) <= ALPHA / 6 * share


def test_what_a_plan_refuses(tmp_path, capsys):
    folder = study(tmp_path / "s", 4)
    assert "plan=true: CartPole-v1 has no margin; give one" in refused(capsys, folder, "plan=true")
    assert "most=4: a verdict takes 5 seeds of each arm" in refused(capsys, folder, "plan=true", "margin=5", "most=4")
    for name in range(15):
        write_run(tmp_path / "s" / f"apo{name}", "apo", seeds=range(4), anchor_coef=name + 2)
    told = refused(capsys, folder, "plan=true", "margin=50", "most=5")
    assert "5 seeds of each arm cannot tell arms apart over 16 comparisons; raise most=" in told
    assert not (tmp_path / "s" / "looks.json").exists()
    single = study(tmp_path / "one", 1)
    assert "has no arm of two seeds, so their spread is unknown" in refused(capsys, single, "plan=true", "margin=5")
    same = study(tmp_path / "same", 4)
    for algo in ("ppo", "apo"):
        agents = [{"seed": k, "mean_return": 500} for k in range(4)]
        (tmp_path / "same" / algo / "evaluation.json").write_text(json.dumps({"agents": agents}))
    assert "all seeds of an arm score the same on CartPole-v1" in refused(capsys, same, "plan=true", "margin=5")


def test_an_environment_without_spread_follows_the_plan_of_the_others(tmp_path, capsys):
    folder = study(tmp_path / "s", 4)
    for algo in ("ppo", "apo"):
        run_folder = write_run(tmp_path / "s" / f"{algo}_flat", algo, env="Flat-v0", seeds=range(4))
        agents = [{"seed": k, "mean_return": 500} for k in range(4)]
        (run_folder / "evaluation.json").write_text(json.dumps({"agents": agents}))
    said = run(capsys, folder, "plan=true", "margin=2", "most=8")
    assert "Flat-v0: all seeds of an arm score the same, so it does not affect how many it takes." in said
    assert "Looked at there with the most seeds of the others, 8." in said
    envs = held(tmp_path / "s")["envs"]
    assert envs["CartPole-v1"]["planned"][-1] == 8
    assert envs["Flat-v0"]["planned"] == [8]


def test_a_plan_after_a_verdict_is_refused(tmp_path, capsys):
    folder = study(tmp_path / "s", 5)
    run(capsys, folder)
    said = refused(capsys, folder, "plan=true", "margin=5")
    assert (
        f"plan=true: the 5 % of CartPole-v1 were spent at 5 seeds ({folder}/looks.json), and looks are declared" in said
    )
    assert held(tmp_path / "s")["envs"]["CartPole-v1"]["planned"] == []


def test_another_plan_is_refused_once_there_are_more_seeds(tmp_path, capsys):
    folder = study(tmp_path / "s", 3)
    run(capsys, folder, "plan=true", "margin=2", "most=8")
    first = held(tmp_path / "s")
    run(capsys, folder, "plan=true", "margin=2", "most=6")  # nothing has been trained since
    assert held(tmp_path / "s")["envs"] != first["envs"]
    study(tmp_path / "s", 6)
    before = held(tmp_path / "s")
    said = refused(capsys, folder, "plan=true", "margin=2", "most=7")
    assert "when there were 3; with 6 seeds others could be chosen by what these show" in said
    assert held(tmp_path / "s") == before


def test_the_plan_of_another_study_is_not_this_ones(tmp_path, capsys):
    write_looks(tmp_path / "s", planned=[9], env="Other-v0")
    folder = study(tmp_path / "s", 5)
    assert "apo is better" in run(capsys, folder)
    assert held(tmp_path / "s")["envs"]["Other-v0"]["planned"] == [9]


def test_simulated_studies_are_the_same_every_time():
    assert planning.power(DRAWS["normal"], 8, 1.0, 0.05) == planning.power(DRAWS["normal"], 8, 1.0, 0.05)
