"""A config is one run, however it is written; what cannot change results is no part of it."""

import contextlib
import json
from dataclasses import dataclass
from functools import cache

import pytest
from helpers import compose_config
from omegaconf import OmegaConf

import rlexp.train  # noqa: F401  (registers the schema and the resolvers)
from rlexp import build
from rlexp.algos.base import added
from rlexp.algos.ppo import PPO
from rlexp.config.identity import (
    COPIES,
    NOT_IDENTITY,
    config_hash,
    flatten,
    identity,
    neutral,
    typed_config,
)
from rlexp.config.schema import seeds_of
from rlexp.errors import ConfigError

OTHER = {  # keys that are no part of a run's identity: a value that is not the default
    "study": "y",
    "outputs": "elsewhere",
    "device": "cuda",
    "torch_threads": 2,
    "compile": "false",
    "batching": "loop",
    "resume": "never",
    "retry_failed": True,
    "stale": "keep",
    "stop_at": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "progress": "none",
    "profile": True,
    "debug": True,
    "primary": "area",
    "margin": "5%",
    "env.timeout": 9.0,
    "env.install": "make game",
    "env.limits": [0, 500],
    "evaluation.every": "5e4",
    "evaluation.curve_episodes": 3,
    "evaluation.video_every": "5e4",
    "live_ranges": "{algo: {clip_coef: [0, 1]}}",
    "logger": "mlflow",
    "tags": "[x]",
}


@cache
def make(*overrides):
    return compose_config("study=x", *overrides)


def hash_of(*overrides):
    return config_hash(identity(make(*overrides)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("total_steps=5e5", "total_steps=500000"),
        ("total_steps=500_000", "total_steps=500000"),
        ("env.clip_obs=10", "env.clip_obs=10.0"),
        ("optimizer.lr=[1,0.0]", "optimizer.lr=[1.0,0]"),
        ("env.num_envs=4.0", "env.num_envs=4"),
        ("algo.clip_coef=1", "algo.clip_coef=1.0"),
        ("network.torso.hidden=[8.0,8]", "network.torso.hidden=[8,8]"),
    ],
)
def test_a_number_written_in_two_ways_is_one_setting(one, other):
    assert hash_of("tuned=none", one) == hash_of("tuned=none", other)


def test_a_number_that_no_annotation_asks_for_is_another_setting_when_it_is_another_type():
    assert hash_of("+env.kwargs.start=2") != hash_of("+env.kwargs.start=2.0")


def test_keys_that_are_numbers_are_as_run_json_gives_them_back():
    settings = identity(make("+env.kwargs.rewards={0: 1.5}"))
    assert json.loads(json.dumps(settings)) == settings
    assert settings["env"]["kwargs"] == {"rewards": {"0": 1.5}}
    assert flatten({"rewards": {0: 1.5}}) == {"rewards.0": 1.5}


def test_5e5_steps_are_a_budget_of_500000():
    cfg = make("total_steps=5e5")
    build.check(cfg)
    assert identity(cfg)["total_steps"] == 500_000


def test_rows_between_evaluations_may_be_written_as_5e4():
    words = ("evaluation.every=5e4", "evaluation.every=50000")
    plain = [OmegaConf.to_container(make(word), resolve=True) for word in words]
    one, other = (typed_config(values)["evaluation"] for values in plain)
    assert repr(one) == repr(other)  # a batch of jobs must have the same


@pytest.mark.parametrize("key", OTHER)
def test_what_cannot_change_results_does_not_change_the_identity(key):
    given, plain = (OmegaConf.select(cfg, key) for cfg in (make(f"{key}={OTHER[key]}"), make()))
    assert given != plain
    assert hash_of(f"{key}={OTHER[key]}") == hash_of()


def test_every_key_that_is_no_part_of_the_identity_is_tried_above():
    assert set(OTHER) == set(NOT_IDENTITY)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "num_seeds=2",
        "total_steps=1000",
        "algo=apo",
        "env=acrobot",
        "gae.gamma=0.5",
        "evaluation.episodes=3",
        "live=true",
    ],
)
def test_what_can_change_results_changes_the_identity(override):
    assert hash_of("tuned=none", override) != hash_of("tuned=none")


def test_a_key_that_says_nothing_is_in_no_identity_so_that_earlier_runs_are_found_again():
    cfg = make("algo=apo")
    held = flatten(identity(cfg))
    assert not held.keys() & {*neutral(cfg), *COPIES}
    assert "gae.gamma" in held


@pytest.mark.parametrize(
    "override",
    [
        "population=2",
        "live=true",
        "algo.anchor_by=advantage",
        "algo.anchor_half_life=9.0",
        "algo.anchor_share=true",
        "algo.gamma=0.5",
        "bonus=rnd",
        "evaluation.weights=average",
    ],
)
def test_what_differs_from_its_neutral_value_is_in_the_identity(override):
    key, _, value = override.partition("=")
    held = flatten(identity(make("algo=apo", override)))
    assert "bonus._target_" in held if key == "bonus" else str(held[key]).lower() == value
    assert hash_of("algo=apo", override) != hash_of("algo=apo")
    assert len(neutral(make("algo=apo")) | COPIES) == 8


@dataclass(kw_only=True)
class Ramped(PPO):
    ramp: tuple[str, int, float] = ("linear", 1, 1.0)


@pytest.mark.parametrize(("ramp", "is_right"), [("[cubic,2.0,3]", True), ("[2,2,3]", False), ("[cubic,2.5,3]", False)])
def test_each_item_of_a_tuple_is_read_by_its_own_annotation(ramp, is_right):
    cfg = make(f"algo._target_={__name__}.Ramped", f"+algo.ramp={ramp}")
    with contextlib.nullcontext() if is_right else pytest.raises(ConfigError, match=r"algo\.ramp=.*: must be a list"):
        build.check(cfg)
    if is_right:
        assert repr(identity(cfg)["algo"]["ramp"]) == "['cubic', 2, 3.0]"


@dataclass(kw_only=True)
class Later(PPO):
    there: float = 0.0
    later: float = added(0.0)


@pytest.mark.parametrize(("value", "held"), [(0.0, False), (0, False), (1.0, True)])
def test_a_field_that_is_added_to_anybodys_class_keeps_the_hash_at_its_default(value, held):
    words = (f"algo._target_={__name__}.Later", "+algo.there=0.0")
    assert ("algo.later" in flatten(identity(make(*words, f"+algo.later={value}")))) is held
    assert "algo.there" in flatten(identity(make(*words)))
    assert (hash_of(*words, f"+algo.later={value}") == hash_of(*words)) is not held


def test_a_discount_that_another_key_copies_is_one_difference():
    one, other = (flatten(identity(make("algo=apo", *words))) for words in ((), ("gae.gamma=0.5",)))
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == {"gae.gamma"}


def test_seeds_of_populations_follow_each_other_and_keep_to_their_range():
    assert seeds_of(make("seed=3", "num_seeds=2", "population=3")) == [3, 4, 5, 6, 7, 8]
    build.check(make("seed=994", "num_seeds=2", "population=3"))  # to 999
    with pytest.raises(ConfigError, match=r"seeds 995 to 1000 mix .*; use at most 1 with seed=995 and population=3"):
        build.check(make("seed=995", "num_seeds=2", "population=3"))
    with pytest.raises(ConfigError, match="population=0: must be at least 1"):
        build.check(make("population=0"))
