"""DeepMind Control by envpool: the vectors of a dictionary are one observation."""

import warnings

import numpy as np
import pytest
from helpers import make_config, train

from rlexp.envs.dmc import DMC
from rlexp.errors import ConfigError
from rlexp.parts import build_environment

envpool = pytest.importorskip("envpool")
TASKS = {"walker_walk": 24, "cheetah_run": 17, "cartpole_swingup_sparse": 5}


@pytest.mark.parametrize("task", TASKS)
def test_observations_are_the_vectors_one_after_the_other(task):
    environment = build_environment(make_config(f"env={task}", "env.num_envs=2"))
    envs, obs = environment.start([[3, 4]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = envpool.make_gymnasium(environment.id, num_envs=2, env_seed=[3, 4])
    plain, rng = pool.reset()[0], np.random.default_rng(0)
    for step in range(1, 1003):
        joined = np.concatenate([plain[name].reshape(2, -1) for name in sorted(plain)], 1)
        assert obs.shape == (2, TASKS[task])
        assert obs.dtype == np.float32
        ours = np.sort(obs, 1)
        np.testing.assert_array_equal(ours, np.sort(joined.astype(np.float32), 1))
        actions = rng.uniform(-1, 1, (2, *envs.single_action_space.shape))
        obs, rewards, terminated, truncated, infos = envs.step(actions)
        plain, theirs, *_ = pool.step(actions)
        np.testing.assert_array_equal(rewards, theirs)
        assert truncated.all() == (step == 1000)
        assert not terminated.any()
        assert not infos
    envs.close()


def test_what_is_no_dictionary_of_vectors_is_refused():
    with pytest.raises(ConfigError, match=r"its observations are Box.*, not a dictionary of vectors"):
        DMC(id="CartPole-v1", backend="envpool").start([[0]])
    with pytest.raises(ConfigError, match="not a dictionary of vectors"):
        DMC(id="MiniGrid-DoorKey-5x5-v0", backend="envpool").start([[0]])
    with pytest.raises(ConfigError, match=r"env\.backend=gymnasium: these tasks are envpool's; remove the setting"):
        DMC(id="WalkerWalk-v1", backend="gymnasium")


def test_it_trains(tmp_path):
    trainer = train(tmp_path, "env=cheetah_run", "total_steps=256", "algo.rollout_steps=64", "env.num_envs=2")
    assert trainer.update_number == 2
