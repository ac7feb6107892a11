import pytest
from helpers import jobs as runs
from helpers import record
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlexp.errors import ConfigError
from rlexp.sweep.grids import Grids, union


def jobs(*grids):
    return union(grids, OverridesParser.create())


def test_a_grid_is_a_product_and_several_are_a_union():
    assert jobs(["algo=ppo"], ["algo=apo", "c=1,5", "d=x,y"]) == [
        ["algo=ppo"],
        ["algo=apo", "c=1", "d=x"],
        ["algo=apo", "c=1", "d=y"],
        ["algo=apo", "c=5", "d=x"],
        ["algo=apo", "c=5", "d=y"],
    ]


def test_the_last_override_of_a_key_holds_and_no_job_runs_twice():
    assert jobs(["+a=1,2", "++a=3"]) == [["++a=3"]]
    assert jobs(["a=1", "b=2,3", "a=4"], ["b=3", "a=4"]) == [["a=4", "b=2"], ["a=4", "b=3"]]


def test_each_arm_is_joined_to_every_grid_and_wins():
    sweeper = Grids(grids=[["env=a", "c=1"], ["env=b"]], arms=[["algo=ppo"], ["algo=apo", "c=2,3"]])
    assert union(sweeper.grids, OverridesParser.create()) == [
        ["env=a", "c=1", "algo=ppo"],
        ["env=a", "c=2", "algo=apo"],
        ["env=a", "c=3", "algo=apo"],
        ["env=b", "algo=ppo"],
        ["env=b", "algo=apo", "c=2"],
        ["env=b", "algo=apo", "c=3"],
    ]


def test_an_interval_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^lr=interval\(0,1\): a grid needs a list of values"):
        jobs(["lr=interval(0,1)"])


def test_an_environment_of_a_grid_that_is_named_by_its_id_has_no_values_tuned_for_another(cli):
    words = (
        "total_steps=64",
        "env.num_envs=2",
        "algo.rollout_steps=8",
        "algo.minibatches=2",
        "study=s",
        "compile=false",
    )
    grids = "hydra.sweeper.grids=[['env.id=Acrobot-v1'],['env=acrobot'],['env.id=Acrobot-v1','tuned=ppo_acrobot']]"
    assert cli("-m", grids, *words).code == 0
    assert cli("env.id=Acrobot-v1", *words).code == 0  # the first of them
    tuned = [record(job)["choices"]["tuned"] for job in runs()]
    assert sorted(tuned) == ["none", "ppo_acrobot"]  # the other two are one


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            "arms: [[algo=ppo], algo=spo]",
            "hydra.sweeper.arms[1]=algo=spo: each is a list of overrides, as in [algo=spo]",
        ),
        ("arm: [[algo=ppo]]", "hydra.sweeper.arm: there is no such setting; did you mean hydra.sweeper.arms?"),
    ],
)
def test_a_study_that_is_written_wrongly_is_one_line(cli, tmp_path, key, told):
    study = tmp_path / "conf" / "experiment" / "mine.yaml"
    study.parent.mkdir(parents=True)
    study.write_text(f"# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    {key}\n")
    assert cli("experiment=mine").err == f"rlexp: {told}\n"
