"""Worlds in torch against Gymnasium's own, step for step."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlexp.envs import Environment
from rlexp.envs.classic_control import WORLDS


def agrees(theirs, ours, **tolerance):
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs, np.float32), **tolerance)


@pytest.mark.parametrize("id", WORLDS)
def test_every_step_is_gymnasiums(id):
    world, env = WORLDS[id](), gym.make(id).unwrapped
    env.action_space.seed(1)
    obs, _ = env.reset(seed=1)
    ended = 0
    for t in range(1500):
        action = env.action_space.sample() if t % 7 else env.action_space.sample() * 0  # some of the same in a row
        if id == "MountainCar-v0":
            action = 2 if env.state[1] >= 0 else 0  # swings itself up to the goal
        if id == "Acrobot-v1" and t % 3:
            action = 0 if env.state[2] > 0 else 2  # likewise
        state = torch.tensor(np.asarray(env.state), dtype=torch.float32)
        agrees(obs, world.observe(state), atol=2e-6)
        obs, reward, terminated, _, _ = env.step(action)
        moved, our_reward, our_end = world.step(state, torch.as_tensor(action))
        agrees(obs, world.observe(moved), atol=3e-5, rtol=1e-5)
        agrees(reward, our_reward, atol=2e-4, rtol=1e-5)
        assert bool(our_end) == terminated
        ended += terminated
        if terminated or t % 400 == 399:
            obs, _ = env.reset()
    assert ended > 0 or id == "Pendulum-v1"


@pytest.mark.parametrize("id", WORLDS)
def test_first_states_have_gymnasiums_distribution(id):
    world, env = WORLDS[id](), gym.make(id).unwrapped
    theirs = np.array([env.reset(seed=k)[0] for k in range(2000)])
    ours = world.observe(world.reset(torch.rand(2000, world.noise_size))).numpy()
    low, high = theirs.min(0), theirs.max(0)
    width = high - low
    for mine, other in ((ours.min(0), low), (ours.max(0), high)):
        assert (abs(mine - other) <= 0.02 * width + 1e-6).all()
    assert (abs(ours.mean(0) - theirs.mean(0)) <= 0.06 * width + 1e-6).all()


@pytest.mark.parametrize("id", WORLDS)
def test_a_world_is_taken_unless_something_is_asked_that_it_does_not_know(id):
    assert isinstance(Environment(id=id).world, WORLDS[id])
    for asked in ({"backend": "gymnasium"}, {"vectorization": "sync"}, {"kwargs": {"x": 7}}):
        assert Environment(id=id, **asked).world is None
    assert Environment(id=id, kwargs={"max_episode_steps": 7}).world.max_steps == 7
    assert WORLDS[id].max_steps != 7  # that of others stays
    assert Environment(id="CartPole-v0" if id == "CartPole-v1" else "FrozenLake-v1").world is None


def test_a_torque_that_is_not_a_number_is_none():
    world, state = WORLDS["Pendulum-v1"](), torch.tensor([[1.0, 0.5]] * 3)
    moved, reward, _ = world.step(state, torch.tensor([[float("nan")], [0.0], [float("inf")]]))
    assert torch.equal(moved[0], moved[1])
    assert torch.equal(reward[0], reward[1])
    assert moved.isfinite().all()
