"""Which environments are copied exactly, so that a run goes on in the middle of their episodes."""

import gymnasium as gym
import probes  # noqa: F401  (registers them)
import pytest

from rlexp.envs import Environment
from rlexp.envs.classic_control import WORLDS
from rlexp.envs.snapshot import copyable


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1"])
def test_classic_control_and_toys_are_copied_exactly(id):
    assert copyable(Environment(id=id))


def test_an_environment_that_pickles_by_its_arguments_is_copied_by_its_attributes():
    assert copyable(Environment(id="PickledByArguments-v0"))


def test_a_copy_that_does_not_go_on_exactly_is_not_trusted():
    assert not copyable(Environment(id="CountsOfClass-v0"))
    if gym.spec("HalfCheetah-v5") and pytest.importorskip("mujoco", reason="extra mujoco is not installed"):
        assert not copyable(Environment(id="HalfCheetah-v5"))


@pytest.mark.parametrize("id", WORLDS)
def test_worlds_are_copied_exactly(id):
    assert copyable(Environment(id=id, backend="torch"))
