"""Environments of one id with other arguments or wrappers: tasks of their own, or the tested term."""

import json

import pytest
from runs import write_run

from rlexp.compare.arms import compare_runs
from rlexp.config.identity import config_hash
from rlexp.study.runs import StudyError, find_runs

DRIFTS = {"_target_": "rlexp.envs.wrappers.DriftingStarts", "every": 500}


def write(folder, algo="ppo", wrappers=(), status="done", kwargs=None, **more):
    """A run with arguments and wrappers of its environment."""
    write_run(folder, algo, status=status, **more)
    record = json.loads((folder / "run.json").read_text())
    record["config"]["env"] |= {"wrappers": list(wrappers)} | ({"kwargs": kwargs} if kwargs else {})
    record["config_hash"] = config_hash(record["config"])
    (folder / "run.json").write_text(json.dumps(record))


def tasks(folder, *allow):
    return {task.env: [*task.arms] for task in compare_runs(find_runs([folder]), allow).all_tasks}


def test_arguments_with_which_all_arms_were_run_make_tasks(tmp_path):
    for number, kwargs in enumerate((None, {"size": 5}, {"size": 8, "max_episode_steps": 40})):
        for algo in ("ppo", "apo"):
            write(tmp_path / f"{algo}{number}", algo, kwargs=kwargs)
    found = tasks(tmp_path)
    names = ("CartPole-v1", "CartPole-v1 (size=5)", "CartPole-v1 (40 steps)")
    assert found == {name: ["apo", "ppo"] for name in names}


def test_arguments_of_one_algorithm_are_the_tested_term(tmp_path):
    for size in (5, 8):
        write(tmp_path / f"ppo{size}", kwargs={"size": size})
    assert tasks(tmp_path) == {"CartPole-v1": ["ppo env.kwargs.size=5", "ppo env.kwargs.size=8"]}


def test_wrappers_are_told_by_their_arguments_where_their_names_do_not_tell_them_apart(tmp_path):
    for number, wrappers in enumerate(((), (DRIFTS,), (DRIFTS, {"_target_": "pkg.Noise"}))):
        for algo in ("ppo", "apo"):
            write(tmp_path / "some" / f"{algo}{number}", algo, wrappers)
    names = ("CartPole-v1", "CartPole-v1 (DriftingStarts)", "CartPole-v1 (DriftingStarts, Noise)")
    assert [*tasks(tmp_path / "some")] == [*names]
    for algo in ("ppo", "apo"):
        write(tmp_path / "some" / f"{algo}slow", algo, (DRIFTS | {"every": 900},))
    slow, fast = (f"CartPole-v1 (DriftingStarts(every={every}))" for every in (900, 500))
    assert {slow, fast} < {*tasks(tmp_path / "some")}


def test_arguments_that_may_change_what_scores_mean_are_told(tmp_path):
    for algo in ("ppo", "apo"):
        write(tmp_path / algo, algo, kwargs={"sutton_barto_reward": True})
        record = json.loads((tmp_path / algo / "run.json").read_text())
        del record["config"]["env"]["bounds"]
        (tmp_path / algo / "run.json").write_text(json.dumps(record | {"config_hash": config_hash(record["config"])}))
    told = "CartPole-v1: no skill is 0 and mastery 500 by default, and env.kwargs.sutton_barto_reward may change that; "
    assert f"{told}set env.bounds" in compare_runs(find_runs([tmp_path])).remarks


@pytest.mark.parametrize(
    ("wrapper", "told"),
    [
        ("pkg.Scaled", True),
        ("gymnasium.wrappers.TransformReward", True),
        ("gymnasium.wrappers.TimeAwareObservation", False),
        ("rlexp.envs.wrappers.DriftingStarts", False),
    ],
)
def test_wrappers_that_may_change_what_scores_mean_are_told(tmp_path, wrapper, told):
    write(tmp_path / "ppo", wrappers=[{"_target_": wrapper}])
    record = json.loads((tmp_path / "ppo" / "run.json").read_text())
    del record["config"]["env"]["bounds"]
    (tmp_path / "ppo" / "run.json").write_text(json.dumps(record | {"config_hash": config_hash(record["config"])}))
    found = compare_runs(find_runs([tmp_path]))
    assert any("env.wrappers may change that; set env.bounds" in remark for remark in found.remarks) == told
    assert found.tasks[0].limits == (None if told else (1, 500))


def test_with_allow_they_are_arms(tmp_path):
    for size in (5, 8):
        for algo in ("ppo", "apo"):
            write(tmp_path / f"{algo}{size}", algo, kwargs={"size": size})
    for word in ("env.kwargs.size", "all"):
        (arms,) = tasks(tmp_path, word).values()
        assert len(arms) == 4


def test_arms_that_were_not_run_on_both_are_refused_and_planned_ones_count(tmp_path):
    write(tmp_path / "ppo5", kwargs={"size": 5})
    write(tmp_path / "apo5", "apo", kwargs={"size": 5})
    write(tmp_path / "ppo8", kwargs={"size": 8})
    with pytest.raises(StudyError, match=r"more than the tested term \(env.kwargs.size: ") as refused:
        tasks(tmp_path)
    lone = f"With size=8 only one arm was run ({tmp_path / 'ppo8'}): leave that out, or run a second arm, and each"
    assert lone in str(refused.value)
    write(tmp_path / "apo8", "apo", kwargs={"size": 8}, status="interrupted")
    assert tasks(tmp_path) == {"CartPole-v1 (size=5)": ["apo", "ppo"], "CartPole-v1 (size=8)": ["ppo"]}


def test_a_refusal_of_arms_in_one_environment_tells_nothing_of_variants(tmp_path):
    write(tmp_path / "ppo")
    write(tmp_path / "apo", "apo", lr=0.5)
    with pytest.raises(StudyError, match="more than the tested term") as refused:
        tasks(tmp_path)
    assert "only one arm" not in str(refused.value)
