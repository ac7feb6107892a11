"""Which environments are copied exactly, so that a run goes on in the middle of their episodes."""

import gymnasium as gym
import numpy as np
import probes  # noqa: F401  (registers them)
import pytest

from rlexp.envs import Environment
from rlexp.envs.classic_control import WORLDS
from rlexp.envs.snapshot import copyable, move


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


@pytest.mark.parametrize("settings", [{"backend": "torch"}, {"vectorization": "sync"}])
def test_single_environments_are_moved_with_their_episodes(settings):
    environment, seeds = Environment(id="CartPole-v1", **settings), [[1, 2, 3, 4], [5, 6, 7, 8]]
    whole, first = environment.start(seeds)
    share, second = environment.start(seeds, share=slice(2, 4))
    assert np.array_equal(second.reshape(2, 2, -1), first.reshape(2, 4, -1)[:, 2:])  # seeded as in the whole
    for _ in range(3):  # too few for the pole to fall
        whole.step(np.ones(8, np.int64))
        share.step(np.ones(4, np.int64))
    target, _ = environment.start([[9] * 3, [9] * 3])
    assert move(share, target, [(0, 2), (1, 0)], slice(0, 2))
    for _ in range(3):
        theirs, ours = whole.step(np.zeros(8, np.int64))[0], target.step(np.zeros(6, np.int64))[0]
        assert np.array_equal(ours.reshape(2, 3, -1)[:, [2, 0]], theirs.reshape(2, 4, -1)[:, 2:])


def test_vectors_with_one_state_for_all_are_not_divided():
    environment = Environment(id="CartPole-v1", backend="gymnasium")
    envs = [environment.start([[1, 2]])[0] for _ in range(2)]
    assert not move(*envs, [(0, 1)], slice(0, 1))
