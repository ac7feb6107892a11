"""Where one algorithm would be trained with tuned values and another without, that is said before anything is."""

import pytest

import rlexp.train  # noqa: F401  (registers the schema and the search path)
from rlexp.config.messages import compose_config
from rlexp.config.search_path import untuned

DIFFER = "tuned values on cartpole differ: ppo has tuned=ppo_cartpole, mine none; tuned=ppo_cartpole or tuned=none "
DIFFER += "applies to all"
WITHOUT = "no tuned values for mine on acrobot; others have tuned=ppo_acrobot, tuned=apo_acrobot"
MANY = "no tuned values for mine on acrobot; others have tuned=ppo_acrobot, tuned=aaa_acrobot, tuned=aab_acrobot, ..."
SMALL = ("total_steps=64", "env.num_envs=2", "algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=1")
SMALL += ("evaluation.episodes=0", "progress=none", "compile=false", "study=s")


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    (tmp_path / "conf" / "algo" / "mine.yaml").write_text("defaults: [ppo, _self_]\n")


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ([["algo=ppo"], ["algo=mine"]], [DIFFER]),
        ([["algo=ppo"], ["algo=apo"]], []),
        ([["algo=ppo", "tuned=ppo_cartpole"], ["algo=mine", "tuned=ppo_cartpole"]], []),
        ([["algo=ppo", "tuned=none", "env=acrobot"], ["algo=mine", "env=acrobot"]], [WITHOUT]),
        ([["algo=mine", "tuned=none"]], []),
        ([["algo=ppo", "env=pendulum"], ["algo=mine", "env=acrobot"]], [WITHOUT]),
    ],
)
def test_tuned_values_that_not_all_have_are_told(jobs, told):
    assert untuned([compose_config(words, return_hydra_config=True).hydra for words in jobs]) == told


def test_of_many_three_are_named_first_those_of_the_default_algorithm(tmp_path):
    for name in ("aab", "aaa"):
        (tmp_path / "conf" / "algo" / f"{name}.yaml").write_text("defaults: [ppo, _self_]\n")
        (tmp_path / "conf" / "tuned").mkdir(exist_ok=True)
        (tmp_path / "conf" / "tuned" / f"{name}_acrobot.yaml").write_text("# @package _global_\n")
    assert untuned([compose_config(["algo=mine", "env=acrobot"], return_hydra_config=True).hydra]) == [MANY]


def test_a_sweep_and_a_run_say_it_before_they_begin(cli):
    said = cli("-m", "algo=ppo,mine", *SMALL).out
    assert said.index("2 jobs: 2 to run") < said.index(DIFFER) < said.index("training seed 0")
    said = cli("algo=mine", "env=acrobot", *SMALL).out
    assert said.index(WITHOUT) < said.index("training seed 0")
