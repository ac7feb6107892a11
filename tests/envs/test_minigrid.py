"""MiniGrid by envpool: the observations and rewards of MiniGrid's own, as the yaml of env=minigrid reads them."""

import gymnasium as gym
import numpy as np
import pytest
from helpers import make_config

from rlexp import build, parts
from rlexp.errors import ConfigError

pytest.importorskip("envpool")
pytest.importorskip("minigrid")


def play(envs, obs, shape, steps, seed):
    """Observed cells, and (length, reward) of the episodes that end at a goal, of random actions."""
    draws, cells, goals = np.random.default_rng(seed), set(), []
    ran, before = np.zeros(shape, int), np.zeros(shape, bool)
    for _ in range(steps):
        cells |= set(map(tuple, obs.reshape(-1, 3).tolist()))
        obs, rewards, terminated, truncated, _ = envs.step(draws.integers(7, size=shape))
        ran += ~before
        ended = terminated | truncated
        goals += [(n, r) for n, r in zip(ran[terminated].tolist(), rewards[terminated].tolist(), strict=True)]
        ran[ended] = 0
        before = ended
    return cells, goals


def test_it_is_what_minigrid_itself_gives():
    pool = parts.build_environment(make_config("env=minigrid_fast", "env.num_envs=16"))
    own = parts.build_environment(make_config("env=minigrid", "env.num_envs=16"))
    found = {}
    for name, environment in (("pool", pool), ("own", own)):
        envs, obs = environment.start([list(range(16))])
        assert envs.single_observation_space.shape == (147,)
        assert obs.dtype == envs.single_observation_space.dtype == np.uint8
        assert envs.single_action_space == gym.spaces.Discrete(7)
        found[name] = play(envs, obs, 16, 600, 0)
        envs.close()
    (cells, goals), (own_cells, own_goals) = found["pool"], found["own"]
    assert cells == own_cells  # what is seen, its colour, its state: as the same numbers
    assert goals
    for length, reward in (*goals, *own_goals):
        assert reward == pytest.approx(1 - 0.9 * length / 250)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["env.backend=gymnasium"],
            "env.backend=gymnasium: this choice is envpool's; use env=minigrid for",
        ),
        (["env.id=MiniGrid-DoorKy-5x5-v0"], "MiniGrid-DoorKey-5x5-v0"),
    ],
)
def test_what_it_cannot_make_is_refused(words, said):
    with pytest.raises(ConfigError) as error:
        build.check(make_config("env=minigrid_fast", *words))
    assert said in str(error.value)
