"""Seeds that should be there and are not: which, of which arm, and why."""

import json

import pytest
from runs import write_run

from rlexp.compare.arms import compare_runs
from rlexp.compare.audit import waiting_jobs
from rlexp.compare.question import question_of
from rlexp.errors import ConfigError
from rlexp.run.lock import FolderLock
from rlexp.study.runs import StudyError, find_runs


def edit(folder, **entries):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def task_of(study):
    runs = find_runs([study])
    (task,) = compare_runs([*runs, *waiting_jobs([study], runs)]).tasks
    return task


def absent(study):
    return task_of(study).absent


def planned(study, name, algo="apo", seeds=(0,), **more):
    """A job in sweep.json that has not started: its entry is made of a run that is written, and removed."""
    folder = write_run(study / name, algo, seeds=list(seeds), **more)
    record = json.loads((folder / "run.json").read_text())
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    path = study / "sweep.json"
    content = json.loads(path.read_text()) if path.exists() else {"jobs": {}}
    entry = {key: record[key] for key in ("seeds", "config", "choices")}
    content["jobs"][name] = {"overrides": [f"algo={algo}", f"seed={seeds[0]}"]} | entry
    path.write_text(json.dumps(content))
    return content


def test_nothing_is_absent_where_all_arms_have_all_seeds(tmp_path):
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "apo", "apo")
    write_run(tmp_path / "tuned", "apo", seeds=range(1000, 1003), status="failed")
    write_run(tmp_path / "former", "apo", seeds=range(5, 8))
    (tmp_path / "superseded.json").write_text('["former"]')
    assert absent(tmp_path) == {}


def test_a_seed_of_another_arm_never_ran(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(4))
    write_run(tmp_path / "apo", "apo", seeds=range(1, 3))
    assert absent(tmp_path) == {"apo": {0: "never ran", 3: "never ran"}}


def test_each_seed_has_its_own_reason(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(9))
    error = "update 7: policy_loss of seed 1 is nan; there is no checkpoint yet. Lower the learning rate"
    write_run(tmp_path / "a0", "apo", seeds=[0])
    edit(write_run(tmp_path / "a1", "apo", seeds=[1, 2], status="failed"), error=f"DivergedError: {error}")
    edit(write_run(tmp_path / "a3", "apo", seeds=[3], status="failed"), error="RuntimeError: of seed 3 is lost")
    edit(write_run(tmp_path / "a4", "apo", seeds=[4], status="failed"), diverged={"4": {"step": 900}})
    write_run(tmp_path / "a5", "apo", seeds=[5], status="interrupted")
    write_run(tmp_path / "a6", "apo", seeds=[6], status="running")  # no process holds its lock
    broken = write_run(tmp_path / "a7", "apo", seeds=[7])
    (broken / "metrics.csv").write_text("seed,step\n7")
    alive = write_run(tmp_path / "a8", "apo", seeds=[8], status="running")
    with FolderLock(alive):
        assert absent(tmp_path) == {
            "apo": {
                1: "diverged",
                2: "failed",  # stopped with its neighbour
                3: "failed",
                4: "diverged",
                5: "interrupted",
                6: "killed",
                7: "unreadable",
                8: "running",
            }
        }


def test_a_diverged_seed_of_a_finished_run_is_no_sample(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(3))
    folder = write_run(tmp_path / "apo", "apo", seeds=range(3))
    rows = [row for row in (folder / "metrics.csv").read_text().splitlines() if not row.startswith("1,4000")]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    edit(folder, diverged={"1": {"step": 3000}}, result={"steps": [4000] * 3, "rows": [4] * 3})
    task = task_of(tmp_path)
    assert [sample.seed for sample in task.arms["apo"]] == [0, 2]
    assert task.absent == {"apo": {1: "diverged"}}


def test_a_seed_that_diverged_and_was_made_after_all_is_told(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(3))
    edit(write_run(tmp_path / "first", "apo", seeds=range(3)), diverged={"2": {"step": 3000}})
    write_run(tmp_path / "second", "apo", seeds=[2])
    comparison = compare_runs(find_runs([tmp_path]))
    assert [sample.seed for sample in comparison.tasks[0].arms["apo"]] == [0, 1, 2]
    told = f"apo, seed 2: trained twice; the run that started last counts, not {tmp_path}/first"
    assert any(told in remark for remark in comparison.remarks)


def test_a_seed_without_an_episode_is_absent(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(2))
    folder = write_run(tmp_path / "apo", "apo", seeds=range(2))
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    rows = [",".join([*c[:3], "" if c[0] == "1" else c[3], *c[4:]]) for c in cells]
    (folder / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")
    assert absent(tmp_path) == {"apo": {1: "no episode"}}


def test_an_arm_of_which_nothing_ended_is_absent_by_its_name(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(2))
    write_run(tmp_path / "apo1", "apo", seeds=range(2))
    write_run(tmp_path / "apo5", "apo", seeds=range(2), status="failed", anchor_coef=5)
    write_run(tmp_path / "again", "apo", seeds=[0], status="interrupted", anchor_coef=5)  # started last
    task = task_of(tmp_path)
    assert list(task.arms) == ["apo", "ppo"]  # the names of finished arms stay as they were
    assert task.absent == {"apo anchor_coef=5": {0: "interrupted", 1: "failed"}}
    write_run(tmp_path / "apo3", "apo", seeds=range(2), anchor_coef=3)
    task = task_of(tmp_path)
    assert list(task.arms) == ["apo anchor_coef=1", "apo anchor_coef=3", "ppo"]
    assert list(task.absent) == ["apo anchor_coef=5"]


def test_a_seed_that_failed_and_was_made_after_all_is_not_absent(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(2))
    write_run(tmp_path / "failed", "apo", seeds=range(2), status="failed")
    write_run(tmp_path / "apo", "apo", seeds=range(2))
    assert absent(tmp_path) == {}


def test_planned_jobs_that_never_started_are_waiting(tmp_path):
    write_run(tmp_path / "ppo", seeds=range(3))
    write_run(tmp_path / "apo", "apo", seeds=[0])
    planned(tmp_path, "a1", seeds=[1])
    planned(tmp_path, "a2", seeds=[2], anchor_coef=5)
    planned(tmp_path, "p3", "ppo", seeds=[3])
    content = planned(tmp_path, "a9", seeds=[9])
    for key, value in (("choices", 5), ("config", []), ("seeds", ["9"])):  # edited: left out
        content["jobs"][f"a9{key}"] = content["jobs"]["a9"] | {key: value}
    content["jobs"] |= {"a10": {"overrides": ["algo=apo", "seed=10"]}, "a11": None}  # of an older version
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    (tmp_path / "a9").mkdir()
    (tmp_path / "a9" / "metrics.csv").write_text("")  # it has run, and its run.json is gone
    assert absent(tmp_path) == {
        "apo": {1: "waiting", 2: "never ran", 3: "never ran", 9: "unreadable"},
        "apo anchor_coef=5": {0: "never ran", 1: "never ran", 2: "waiting", 3: "never ran", 9: "never ran"},
        "ppo": {3: "waiting", 9: "never ran"},
    }


def test_another_time_limit_is_another_task_with_its_own_limits(tmp_path):
    write_run(tmp_path / "short", seeds=range(2))
    for folder, limit in ((write_run(tmp_path / "long", seeds=range(2)), 2000), (tmp_path / "short", None)):
        config = json.loads((folder / "run.json").read_text())["config"]
        config["env"] = {"id": "CartPole-v1", "kwargs": {} if limit is None else {"max_episode_steps": limit}}
        edit(folder, config=config)
    short, long = compare_runs(find_runs([tmp_path])).tasks
    assert (short.env, short.limits, short.bounds, short.threshold) == ("CartPole-v1", (1, 500), (0, 500), 475)
    assert (long.env, long.limits) == ("CartPole-v1 (2000 steps)", (1, 2000))
    assert (long.bounds, long.threshold) == ((0, 2000), 1900)


def test_declared_limits_win(tmp_path):
    edit(write_run(tmp_path / "ppo"), declared={"primary": "final", "margin": 3, "limits": [None, 450]})
    task = task_of(tmp_path)
    assert task.limits == (None, 450)
    assert task.samples[0].run.declared.margin == 3


def test_a_share_of_a_span_that_is_not_known_is_refused(tmp_path):
    folder = write_run(tmp_path / "ppo", env="Maze-v0")
    declared = {"primary": "evaluation", "margin": "5%"}
    assert task_of(tmp_path).bounds == (0, 200)
    edit(folder, declared=declared)
    assert task_of(tmp_path).samples[0].run.declared.margin == "5%"
    config = json.loads((folder / "run.json").read_text())["config"]
    config["env"]["bounds"] = None
    edit(folder, config=config)
    told = r"^margin=5%: a share of the span .* not known of Maze-v0; .* env.bounds=\[low,high\], or give"
    with pytest.raises(ConfigError, match=told):
        question_of(compare_runs(find_runs([tmp_path])))
    assert question_of(compare_runs(find_runs([tmp_path])), margin=25.0).margins == {"Maze-v0": 25}


@pytest.mark.parametrize("declared", [{"primary": "scroe"}, {"primary": "final", "margin": -1}, {}])
def test_an_edited_declaration_is_refused_in_one_line(tmp_path, declared):
    edit(write_run(tmp_path / "ppo"), declared=declared)
    with pytest.raises(StudyError, match=r"^\S+/ppo/run\.json: declared\.[^\n]*; remove that folder, or train"):
        find_runs([tmp_path])
    edit(tmp_path / "ppo", declared=[])
    with pytest.raises(StudyError, match=r"^\S+/ppo/run\.json: cannot be read \(declared is \[\]\); fix or remove it"):
        find_runs([tmp_path])


def test_a_run_of_an_older_version_is_undeclared(tmp_path):
    write_run(tmp_path / "ppo")
    assert find_runs([tmp_path])[0].declared is None
