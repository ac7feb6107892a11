"""Limits of a score hold in the environments themselves, and follow their time limits."""

import gymnasium as gym
import numpy as np
import pytest

from rlexp.compare.reference_scores import LIMITS, SCORES, limits_of, scores_of


def settings(id, **more):
    return {"env.id": id} | {f"env.{key}": value for key, value in more.items()}


def play(env, policy, seed):
    """Return of one episode."""
    obs, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total, ended = total + float(reward), terminated or truncated
    return total


def policies(env):
    """At random, each extreme action, and one that balances CartPole or swings the mountain cars up."""
    space = env.action_space
    discrete = isinstance(space, gym.spaces.Discrete)
    rng = np.random.default_rng(0)
    yield lambda _: int(rng.integers(space.n)) if discrete else rng.uniform(space.low, space.high)
    for extreme in [0, space.n - 1] if discrete else [space.low, space.high, 0 * space.low]:
        yield lambda _, extreme=extreme: extreme
    if "CartPole" in env.spec.id:
        yield lambda obs: int(obs @ np.array([0.1, 0.3, 3.0, 1.0]) > 0)
    if "MountainCar" in env.spec.id:
        yield lambda obs: (2 if obs[1] > 0 else 0) if discrete else np.array([np.sign(obs[1])])


@pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date:DeprecationWarning")
@pytest.mark.parametrize("id", LIMITS)
@pytest.mark.parametrize("steps", [None, 30, 1200])
def test_no_episode_leaves_the_limits(id, steps):
    env = gym.make(id) if steps is None else gym.make(id, max_episode_steps=steps)
    known = settings(id) if steps is None else settings(id, **{"kwargs.max_episode_steps": steps})
    low, high = limits_of(known)
    scores = [play(env, policy, seed) for seed in range(3) for policy in policies(env)]
    assert low - 1e-6 <= min(scores)  # sums of rewards in floating point
    assert max(scores) <= high
    if id in ("CartPole-v0", "CartPole-v1"):
        assert max(scores) == high  # the time limit
    if id in ("Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0") and steps != 1200:
        assert min(scores) == pytest.approx(low)  # the whole time limit, at the highest cost
    env.close()


@pytest.mark.parametrize("id", LIMITS)
def test_time_limits_are_those_of_the_ids(id):
    assert gym.spec(id).max_episode_steps == LIMITS[id][0]


def test_limits_by_hand():
    assert limits_of(settings("CartPole-v1")) == (1, 500)
    assert limits_of(settings("CartPole-v1", **{"kwargs.max_episode_steps": 2000})) == (1, 2000)
    assert limits_of(settings("Acrobot-v1")) == (-500, 0)
    assert limits_of(settings("MountainCarContinuous-v0")) == pytest.approx((-99.9, 100))
    assert limits_of(settings("Pendulum-v1"))[0] == pytest.approx(-(9.8696044 + 6.4 + 0.004) * 200)
    assert limits_of(settings("LunarLander-v3")) is None
    assert limits_of(settings("CartPole-v1", **{"kwargs.sutton_barto_reward": True})) is None
    assert limits_of(settings("CartPole-v1", limits=(None, 7.0))) == (None, 7.0)
    for edited in ("long", -1, None, [3]):
        assert limits_of(settings("CartPole-v1", **{"kwargs.max_episode_steps": edited})) is None


def test_reference_scores_follow_the_time_limit_where_they_are_shares_of_it():
    assert scores_of(settings("CartPole-v1")) == SCORES["CartPole-v1"] == (0, 500, 475)
    assert scores_of(settings("CartPole-v1", **{"kwargs.max_episode_steps": 500})) == (0, 500, 475)
    assert scores_of(settings("CartPole-v1", **{"kwargs.max_episode_steps": 2000})) == (0, 2000, 1900)
    assert scores_of(settings("Acrobot-v1", **{"kwargs.max_episode_steps": 500})) == SCORES["Acrobot-v1"]
    assert scores_of(settings("Acrobot-v1", **{"kwargs.max_episode_steps": 50})) is None
    assert scores_of(settings("CartPole-v1", **{"kwargs.max_episode_steps": "long"})) is None
    assert scores_of(settings("Unknown-v0")) is None


def test_reference_scores_are_known_by_the_name_that_a_module_registers():
    assert scores_of(settings("minigrid:MiniGrid-DoorKey-5x5-v0")) == SCORES["MiniGrid-DoorKey-5x5-v0"]
    assert scores_of(settings("ale_py:ALE/Pong-v5")) == (-21, 21, None)
