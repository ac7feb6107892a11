"""compare counts a population as one: the mean of its members, with all their steps; worked out by hand."""

import csv
import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from runs import write_run

from rlexp.compare import __main__ as compare
from rlexp.compare.arms import compare_runs
from rlexp.compare.holders import holder_figure, holders
from rlexp.compare.results import score
from rlexp.compare.style import Sheet, palette
from rlexp.study.runs import StudyError, find_runs
from rlexp.sweep.tune.objective import score as trial_score

# seed k ends training at level + k and is evaluated at level + 2k; rows at each quarter of training, 10 episodes each
HALF = {"population": 2, "total_steps": 2000}


def edit(folder, **more):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def compared(folder, **kwargs):
    return compare_runs(find_runs([folder]), **kwargs)


def lose(run, seed, rows, step):
    """The seed diverges after so many of its rows, at a step."""
    lines = (run / "metrics.csv").read_text().splitlines()
    own = [line for line in lines if line.startswith(f"{seed},")]
    (run / "metrics.csv").write_text("\n".join(line for line in lines if line not in own[rows:]) + "\n")
    known = json.loads((run / "run.json").read_text()).get("diverged", {})
    entry = {"step": step, "update": 3, "metric": "loss", "value": "nan"}
    edit(run, diverged=known | {str(seed): entry})


@pytest.fixture
def study(tmp_path):
    """A baseline of four seeds, and two populations of two that make as many steps: seeds 0, 1 and 2, 3."""
    write_run(tmp_path / "ppo", env="A-v0", seeds=range(4))
    write_run(tmp_path / "apo", "apo", "A-v0", range(4), **HALF)
    return tmp_path


def test_a_population_is_one_sample_named_by_its_first_seed(study):
    (task,) = compared(study).tasks
    first, second = task.arms["apo"]
    assert (first.seed, second.seed) == (0, 2)
    assert [member.seed for member in second.members] == [2, 3]
    assert len(task.arms["ppo"]) == 4
    assert all(sample.members == () for sample in task.arms["ppo"])


def test_its_score_is_the_mean_of_its_members(study):
    (task,) = compared(study).tasks
    first, second = task.arms["apo"]
    assert [score(x, task, "evaluation") for x in (first, second)] == [(100 + 102) / 2, (104 + 106) / 2]
    assert [score(x, task, "final") for x in (first, second)] == [100.5, 102.5]
    # seed 0: 50, 75, 100 at steps 1000, 1500, 2000: (50·1000 + 62.5·500 + 87.5·500)/2000 = 62.5; seed k: k % more
    assert score(first, task, "area") == pytest.approx(62.5 * 1.005)
    assert np.isnan(score(first, task, "evaluation_sampled"))
    assert score(task.arms["ppo"][3], task, "evaluation") == 106


def test_its_steps_and_episodes_are_the_sum_and_its_time_as_it_is(study):
    (task,) = compared(study).tasks
    curve = task.arms["apo"][0].curve
    assert curve.steps.tolist() == [1000, 2000, 3000, 4000]
    assert curve.episodes.tolist() == [0, 40, 60, 80]
    assert curve.seconds.tolist() == [1, 2, 3, 4]
    assert np.isnan(curve.returns[0])
    assert curve.returns[1:].tolist() == pytest.approx([50.25, 75.375, 100.5])


def test_returns_by_row_are_those_of_all_its_episodes(tmp_path):
    run = write_run(tmp_path / "apo", "apo", "A-v0", range(2), **HALF)
    rows = ["0,500,1,10,1,10,4", "1,500,1,,0,,", "0,1000,2,10,3,20,8", "1,1000,2,50,6,50,6"]
    head = "seed,step,wall_time,episodic_return,episodes,row_return,evaluation_return"
    (run / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    ((sample,),) = compared(tmp_path).tasks[0].arms.values()
    # row 1: one episode of 10; row 2: 2 of 20 and 6 of 50 are (40 + 300)/8
    assert sample.curve.row_returns.tolist() == [10, 42.5]
    assert sample.curve.returns.tolist() == [10, 30]
    assert sample.curve.evaluated.tolist() == [4, 7]


def test_its_best_member_is_the_one_with_the_highest_training_returns_whatever_its_evaluation(study):
    (task,) = compared(study).tasks
    assert [sample.best.seed for sample in task.arms["apo"]] == [1, 3]
    agents = [{"seed": k, "mean_return": 500.0 - k, "episodes": []} for k in range(4)]
    (study / "apo" / "evaluation.json").write_text(json.dumps({"agents": agents}))
    (task,) = compared(study).tasks
    assert [sample.best.seed for sample in task.arms["apo"]] == [1, 3]
    assert [sample.best.evaluation for sample in task.arms["apo"]] == [499, 497]
    assert task.arms["ppo"][0].best.seed == 0  # an agent alone is its own


def test_a_member_that_diverged_has_the_floor_in_the_mean_and_its_steps_in_the_sum(study):
    lose(study / "apo", 1, rows=1, step=700)
    comparison = compared(study)
    (task,) = comparison.tasks
    first = task.arms["apo"][0]
    assert first.lost == (1,)
    assert score(first, task, "evaluation") == (100 + 0) / 2  # no skill is 0, and no seed is worse
    assert score(first, task, "final") == 50
    assert first.curve.steps.tolist() == [500 + 500, 1000 + 700, 1500 + 700, 2000 + 700]
    assert first.curve.episodes.tolist() == [0, 20, 30, 40]
    assert first.curve.returns[1:].tolist() == [50, 75, 100]  # of those left
    assert first.best.seed == 0
    assert task.absent == {}
    assert any("members 1 diverged" in remark for remark in comparison.remarks)


def test_a_population_of_which_all_have_diverged_is_a_diverged_one(study):
    for seed in (2, 3):
        lose(study / "apo", seed, rows=1, step=700)
    (task,) = compared(study).tasks
    assert [sample.seed for sample in task.arms["apo"]] == [0]
    assert task.absent == {"apo": {2: "diverged"}}


def test_a_member_without_an_evaluation_leaves_its_population_without_one(study):
    agents = [{"seed": k, "mean_return": 9.0, "episodes": []} for k in (0, 2, 3)]
    (study / "apo" / "evaluation.json").write_text(json.dumps({"agents": agents}))
    (task,) = compared(study).tasks
    assert [sample.evaluation for sample in task.arms["apo"]] == [None, 9]
    assert np.isnan(score(task.arms["apo"][0], task, "evaluation"))


def test_populations_and_seeds_are_not_paired(tmp_path):
    write_run(tmp_path / "ppo", env="A-v0", seeds=range(5))
    write_run(tmp_path / "apo", "apo", "A-v0", range(2, 8), **HALF)
    write_run(tmp_path / "more", "apo", "A-v0", range(4), **HALF, anchor_coef=5)
    (task,) = compared(tmp_path).tasks
    # those of one size are: populations 2, 4, 6 of one arm and 0, 2 of the other
    assert task.absent == {
        "apo anchor_coef=1": {0: "never ran"},
        "apo anchor_coef=5": {4: "never ran", 6: "never ran"},
    }


def test_populations_may_differ_together_with_total_steps_where_all_make_as_many(study):
    comparison = compared(study)
    assert set(comparison.tasks[0].arms) == {"ppo", "apo"}
    (told,) = [remark for remark in comparison.remarks if "differ in population" in remark]
    assert "agents x total_steps: 1 x 4000 and 2 x 2000, equally many rows" in told
    assert not any("number of environment steps" in remark for remark in comparison.remarks)
    assert not any("lacks seeds" in remark for remark in comparison.remarks)  # 1 and 3 name no population
    assert comparison.tasks[0].differing["population"] == {"apo": 2, "ppo": 1}


def test_arms_of_one_algorithm_are_named_by_their_population(tmp_path):
    write_run(tmp_path / "one", "apo", "A-v0", range(2))
    write_run(tmp_path / "two", "apo", "A-v0", range(2), **HALF)
    write_run(tmp_path / "shared", "apo", "A-v0", range(2), **HALF, anchor_share=True)
    (task,) = compared(tmp_path).tasks
    assert list(task.arms) == [
        "apo",
        "apo anchor_share=True population=2",
        "apo population=2",
    ]


@pytest.mark.parametrize("total_steps", [4000, 1000])
def test_populations_that_make_other_numbers_of_steps_are_another_term(tmp_path, total_steps):
    write_run(tmp_path / "ppo", env="A-v0")
    write_run(tmp_path / "apo", "apo", "A-v0", range(4), population=2, total_steps=total_steps)
    with pytest.raises(
        StudyError, match=r"population: 1 in ppo, 2 in apo.*population x total_steps is the same"
    ) as said:
        compared(tmp_path)
    assert "\n" not in str(said.value)
    allowed = compared(tmp_path, allow=["population", "total_steps"])
    assert any("not equally many rows" in remark for remark in allowed.remarks)


def test_a_population_of_the_same_algorithm_that_makes_more_steps_is_refused_too(tmp_path):
    write_run(tmp_path / "one", "apo", "A-v0", range(2))
    write_run(tmp_path / "two", "apo", "A-v0", range(4), population=2)
    with pytest.raises(
        StudyError,
        match=r"population: 1 in 1 of 2 arms of apo, 2 in 1 of 2 arms of apo.*population x total_steps is the same",
    ):
        compared(tmp_path)
    (told,) = [remark for remark in compared(tmp_path, allow=["population"]).remarks if "agents x" in remark]
    assert "1 x 4000 and 2 x 4000, not equally many rows" in told


def test_populations_with_members_of_the_same_seeds_are_told(tmp_path):
    write_run(tmp_path / "a", "apo", "A-v0", range(2), **HALF)
    write_run(tmp_path / "b", "apo", "A-v0", range(1, 3), **HALF)
    assert any("populations 0 have members of the same seeds as the next" in x for x in compared(tmp_path).remarks)


def test_what_is_written_of_them(tmp_path, capsys):
    write_run(tmp_path / "ppo", env="A-v0", seeds=range(6))
    write_run(tmp_path / "apo", "apo", "A-v0", range(12), **HALF)
    compare.main([str(tmp_path), "margin=5%", "figures=true"])
    said = capsys.readouterr().out
    # populations 0, 2, ... 10 by their means: 101, 105, ... 121, in the mean 111; seeds 100, 102, ... 110: 105
    assert "6 populations of 2 against 6 seeds" in " ".join(said.split())
    with open(tmp_path / "compare" / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "apo"]
    assert [row["seed"] for row in rows] == ["0", "2", "4", "6", "8", "10"]
    assert [float(row["evaluation"]) for row in rows] == [101, 105, 109, 113, 117, 121]
    assert [row["best_seed"] for row in rows] == ["1", "3", "5", "7", "9", "11"]
    assert [float(row["best_evaluation"]) for row in rows] == [102, 106, 110, 114, 118, 122]
    assert {row["members"] for row in rows} == {"2"}
    assert {float(row["steps"]) for row in rows} == {4000}
    page = (tmp_path / "compare" / "compare.md").read_text()
    table = page.partition("best member of each population")[2].partition("###")[0]
    (line,) = [line for line in table.splitlines() if line.startswith("| apo ")]
    assert "112" in line  # the mean of 102, 106, ... 122
    with open(tmp_path / "compare" / "compare.csv", newline="") as file:
        results = {(row["arm"], row["measure"]): row for row in csv.DictReader(file)}
    assert float(results["apo", "evaluation"]["mean"]) == 111
    assert float(results["apo", "evaluation"]["difference"]) == 6
    assert results["apo", "evaluation"]["n"] == "6"


def test_a_study_without_populations_has_no_columns_for_them(tmp_path):
    write_run(tmp_path / "ppo", env="A-v0", seeds=range(5))
    write_run(tmp_path / "apo", "apo", "A-v0", seeds=range(5))
    compare.main([str(tmp_path), "figures=false"])
    assert "best_" not in (tmp_path / "compare" / "scores.csv").read_text()
    assert "population" not in (tmp_path / "compare" / "compare.md").read_text()


def test_a_trial_of_a_tuning_counts_populations(tmp_path):
    run = write_run(tmp_path / "trial", "apo", "A-v0", range(10), **HALF)
    # last returns of populations: 100.5, 102.5, ... 108.5; without a quarter of five at each end 102.5, 104.5, 106.5
    assert trial_score(run, "final", "iqm") == pytest.approx(104.5)


def test_a_population_that_is_no_number_is_refused_in_one_line(tmp_path):
    run = write_run(tmp_path / "a", "apo", "A-v0", range(2), **HALF)
    config = json.loads((run / "run.json").read_text())["config"]
    edit(run, config=config | {"population": "two"})
    with pytest.raises(StudyError, match="population=two is not a whole number"):
        find_runs([tmp_path])


def test_who_holds_the_shared_anchor_is_drawn(study):
    path = study / "apo" / "metrics.csv"
    head, *rows = path.read_text().splitlines()
    held = {"0": ",0,1,1", "1": ",0,1,1", "2": "1,1,1,0", "3": "1,1,1,0"}  # after each row; at first nobody
    cells = {seed: iter(text.split(",")) for seed, text in held.items()}
    rows = [f"{row},{next(cells[row[0]])}" for row in rows]
    path.write_text("\n".join([f"{head},anchor_holder", *rows]) + "\n")
    found = holders(compared(study))
    assert list(found) == ["apo"]
    (first, of_first), (second, of_second) = found["apo"]
    assert (first.seed, second.seed) == (0, 2)
    assert of_first.tolist()[1:] == [0, 1, 1]
    assert np.isnan(of_first[0])
    assert of_second.tolist() == [1, 1, 1, 0]
    (axes,) = holder_figure(found, Sheet()).axes
    bars = sorted((bar.get_y(), bar.get_x(), bar.get_width(), bar.get_facecolor()[:3]) for bar in axes.patches)
    one, other = map(to_rgb, palette(2))
    # steps are those of both: 1000, 2000, 3000, 4000
    assert bars == [
        (-0.4, 1000, 1000, one),
        (-0.4, 2000, 1000, other),
        (-0.4, 3000, 1000, other),
        (0.6, 0, 1000, other),
        (0.6, 1000, 1000, other),
        (0.6, 2000, 1000, other),
        (0.6, 3000, 1000, one),
    ]


def test_where_nothing_is_shared_no_holder_is_drawn(study):
    assert holders(compared(study)) == {}
