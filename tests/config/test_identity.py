"""A config is one run, however it is written; what cannot change results is no part of it."""

from functools import cache

import pytest
from helpers import compose_config
from omegaconf import OmegaConf

import rlexp.train  # noqa: F401  (registers the schema and the resolvers)
from rlexp import build
from rlexp.config.identity import NOT_IDENTITY, config_hash, identity, typed_config

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
