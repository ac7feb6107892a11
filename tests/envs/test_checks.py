"""What environments of others give is seen beforehand, and told in a line that names their file."""

import logging
import re
import warnings

import gymnasium as gym
import numpy as np
import probes
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from helpers import make_trainer, record, train

from rlexp.envs import Environment
from rlexp.envs.checks import warn_of_randomness
from rlexp.envs.snapshot import copyable
from rlexp.errors import ConfigError, EnvironmentFault
from rlexp.signals import Paused

FEW = ("total_steps=64", "env.num_envs=2", "algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=1")
HERE = r"\S*test_checks\.py:\d+: "


class Odd(probes.Endless):
    """Gives one thing of its step as it is told, from a step on."""

    given: dict[str, object] = {}
    since = 1

    def step(self, action):
        seen, reward, terminated, truncated, info = super().step(action)
        if self.t < self.since:
            return seen, reward, terminated, truncated, info
        whole = {"obs": seen, "reward": reward, "terminated": terminated, "truncated": truncated, "info": info}
        return tuple((whole | self.given).values())


class OfAll(probes.Endless):
    """Gives all of its step as it is told, or does as it is told."""

    given: dict[str, object] = {}

    def step(self, action):
        given = type(self).given["all"]
        return given(*super().step(action)) if callable(given) else given


class Breaks(probes.Endless):
    """Cannot be made."""

    def __init__(self):
        raise FileNotFoundError("level.txt")


class Pairs(probes.Endless):
    """A space that nobody reads."""

    observation_space = spaces.Tuple((spaces.Discrete(2),))

    def reset(self, *, seed=None, options=None):
        return (1,), {}


class WrongFirst(probes.Endless):
    """Its first observation has another shape."""

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}


class Counts(probes.Endless):
    """Promises whole numbers, and gives others."""

    observation_space = spaces.Box(0, 9, (1,), np.int64)


class Chance(probes.Endless):
    """Follows no seed."""

    def step(self, action):
        _, *rest = super().step(action)
        return np.random.default_rng().random(1, np.float32), *rest


class Wide(probes.Endless):
    """Leaves its bounds."""

    def step(self, action):
        seen, *rest = super().step(action)
        return seen + 1000, *rest


class Late(probes.Endless):
    """Comes to grief at its hundredth step."""

    steps, how = 0, "raise"

    def step(self, action):
        self.steps += 1
        given = super().step(action)
        if self.steps == 100:
            if self.how == "raise":
                return {}[tuple(action.shape)]
            return given[:4]
        return given


class ClosesBadly(probes.Endless):
    """Cannot be closed."""

    def close(self):
        raise RuntimeError("no window")


class Once(probes.Endless):
    """Cannot be made more often than it may."""

    left = 0

    def __init__(self):
        Once.left -= 1
        if Once.left < 0:
            raise RuntimeError("no licence")


class OfVectors(SyncVectorEnv):
    """A vector class whose rewards have an axis too many."""

    def __init__(self, num_envs=1):
        super().__init__([lambda: gym.make("Endless-v0")] * num_envs)

    def step(self, actions):
        seen, reward, *rest = super().step(actions)
        return seen, reward[:, None], *rest


for kind in (Odd, OfAll, Breaks, Pairs, WrongFirst, Counts, Chance, Wide, Late, ClosesBadly, Once):
    gym.register(f"{kind.__name__}-v0", entry_point=kind)
gym.register("OfVectors-v0", entry_point=probes.Endless, vector_entry_point=OfVectors)


def tried(id, **settings):
    environment = Environment(id=id, **settings)
    environment.probe()
    environment.try_steps()


def refused(id, **settings):
    with pytest.raises(EnvironmentFault) as caught:
        tried(id, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("what", "value", "line"),
    [
        ("reward", np.array([1.0]), r"the reward has shape \(1,\), expected one number: float\(reward\[0\]\)"),
        ("reward", np.array([1.0, 2.0]), r"the reward has shape \(2,\), expected one number"),
        ("reward", [1.0], "the reward is a list, expected one number"),
        ("reward", {}, "the reward is a dict, expected one number"),
        ("reward", 1 + 2j, r"the reward is \(1\+2j\), expected one number"),
        ("reward", "2.5", "the reward is '2.5', expected one number"),
        ("reward", None, "the reward is None, expected one number"),
        ("reward", float("inf"), "the reward is inf, expected a finite float32"),
        ("reward", 1e39, r"the reward is 1e\+39, expected a finite float32"),
        ("reward", torch.tensor(1.0), r"the reward is a Tensor of shape \(\), expected one number: reward\.item\(\)"),
        ("terminated", np.array([True, False]), r"terminated has shape \(2,\), expected True or False"),
        ("truncated", "False", "truncated is 'False', expected True or False"),
        ("terminated", None, "terminated is None, expected True or False"),
        ("truncated", 0.5, "truncated is 0.5, expected True or False"),
        ("info", None, "its info is None, expected a dictionary"),
        ("info", [], "its info is a list, expected a dictionary"),
        ("obs", np.zeros(4, np.float32), r"the observation has shape \(4,\); its space has \(1,\)"),
        ("obs", np.float32(1), r"the observation has shape \(\); its space has \(1,\)"),
        ("obs", None, r"the observation is None; its space is Box\(.*\)"),
    ],
)
def test_one_thing_of_a_step_that_is_none(monkeypatch, what, value, line):
    monkeypatch.setattr(Odd, "given", {what: value})
    monkeypatch.setattr(Odd, "since", 3)  # after the first
    assert re.fullmatch(rf"env\.id=Odd-v0: {HERE}Odd\.step: {line}.*", refused("Odd-v0", vectorization="sync"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (lambda *five: five[:4], r"returns 4 values, expected 5: \(.*\), as in the old gym API"),
        (lambda *five: (*five, 1), "returns 6 values, expected 5"),
        (None, "returns None, expected 5"),
        (lambda *_: exit(3), r"sys\.exit\(3\) was called"),
        (lambda *_: {}["no"], "KeyError: 'no'"),
    ],
)
def test_a_step_that_is_none(monkeypatch, given, line):
    monkeypatch.setattr(OfAll, "given", {"all": given})
    assert re.match(rf"env\.id=OfAll-v0: {HERE}(OfAll\.step|.*<lambda>): {line}", refused("OfAll-v0"))


@pytest.mark.parametrize("value", [np.float64(2), np.array(2.0), 3, True])
def test_numbers_of_any_kind_are_rewards(monkeypatch, value):
    monkeypatch.setattr(Odd, "given", {"reward": value, "truncated": np.array(0)})
    tried("Odd-v0")


def test_what_processes_give_is_told_alike():
    """Their classes are made anew there, so that it is written down: see `poison.OddReward`."""
    line = refused("poison:OddReward-v0", vectorization="async", num_envs=1)
    assert re.fullmatch(r"env\.id=.*: \S*poison\.py:\d+: OddReward\.step: the reward has shape \(1,\), .*", line)
    alike = refused("poison:OddReward-v0")
    assert line == alike


def test_what_cannot_be_made_or_read_is_told():
    assert re.fullmatch(
        rf"env\.id=Breaks-v0: cannot be made: {HERE}Breaks\.__init__: FileNotFoundError: level\.txt",
        refused("Breaks-v0"),
    )
    line = rf"{HERE}WrongFirst\.reset: the observation has shape \(4,\); its space has \(1,\)"
    assert re.search(line, refused("WrongFirst-v0"))
    with pytest.raises(ConfigError, match=r"observation space Tuple\(Discrete\(2\)\) is not supported; .*Flatten"):
        Environment(id="Pairs-v0").probe()


def test_a_vector_class_is_tried_too():
    line = rf"{HERE}OfVectors\.step: rewards have shape \(1, 1\) and dtype float64; expected numbers of shape \(1,\)"
    assert re.search(line, refused("OfVectors-v0"))


def test_floats_are_no_whole_numbers():
    assert "the observation has dtype float32; its space has int64" in refused("Counts-v0")


def test_what_is_tried_is_closed(monkeypatch):
    made, closed = [], []
    start = Environment.start

    def watched(*given, **more):
        envs, first = start(*given, **more)
        made.append(envs)
        close = envs.close
        envs.close = lambda: closed.append(envs) or close()
        return envs, first

    monkeypatch.setattr(Environment, "start", watched)
    tried("Endless-v0")
    with pytest.raises(EnvironmentFault):
        tried("Breaks-v0")
    assert closed == made != []


def test_a_number_that_is_none_is_the_same_as_itself(caplog):
    warn_of_randomness("Odd-v0", [np.array([np.nan])], [np.array([np.nan])])
    assert not caplog.messages


def test_bounds_and_seeds_that_do_not_hold_are_told_once(caplog):
    caplog.set_level(logging.WARNING)
    tried("Endless-v0")
    assert not caplog.messages
    tried("Wide-v0")
    assert len(caplog.messages) == 1
    assert re.search(r"env\.id=Wide-v0: an observation contains 1000, outside its space's bounds -1 to 1", caplog.text)
    caplog.clear()
    tried("Chance-v0")
    assert len(caplog.messages) == 1
    assert "env.id=Chance-v0: differs for the same seed and actions" in caplog.text


@pytest.mark.parametrize(("how", "line"), [("raise", r"KeyError: \(\)"), ("four", "ValueError: not enough values")])
def test_what_comes_later_is_told_alike(tmp_path, monkeypatch, how, line):
    monkeypatch.setattr(Late, "how", how)
    trainer = make_trainer(tmp_path, *FEW, "total_steps=512", "env.id=Late-v0", "env.vectorization=sync")
    with pytest.raises(EnvironmentFault, match=rf"^env\.id=Late-v0: {HERE}Late\.step: {line}"):
        trainer.train(False)


def test_an_infinite_reward_is_told_without_warnings_of_numpy(tmp_path, monkeypatch):
    monkeypatch.setattr(Odd, "given", {"reward": float("inf")})
    monkeypatch.setattr(Odd, "since", 5)
    monkeypatch.setattr("rlexp.envs.checks.STEPS", 2)  # not seen beforehand
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EnvironmentFault, match=r"returned a reward that is not finite \(inf\)"):
            train(tmp_path, *FEW, "env.id=Odd-v0")


def test_what_cannot_be_closed_is_told_and_ends_nothing(tmp_path, caplog):
    words = (*FEW, "env.id=ClosesBadly-v0", "evaluation.every=32", "evaluation.episodes=1")
    with pytest.raises(Paused):
        train(tmp_path, *words, "stop_at=32")
    train(tmp_path, *words, resume=True)
    assert record(tmp_path)["result"]["evaluation_return"] == [5.0]
    assert "closing ClosesBadly-v0 failed: RuntimeError: no window" in caplog.text


def test_what_cannot_be_made_once_more_to_be_copied_is_not_copied(monkeypatch):
    environment = Environment(id="Once-v0")
    monkeypatch.setattr(Once, "left", 3)  # of two and two
    assert not copyable(environment)
