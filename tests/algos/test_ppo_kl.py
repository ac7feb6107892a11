"""PPO with a KL penalty."""

import pytest
import torch
from helpers import have_same_weights, make_config, make_trainer, train

from rlexp import build
from rlexp.errors import ConfigError

SMALL = ("total_steps=1536", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")


def test_a_target_of_zero_is_no_target_of_ppo_kl():
    with pytest.raises(ConfigError, match=r"algo\.kl_target=0\.0: must be positive"):
        build.check(make_config("algo=ppo_kl", "algo.kl_target=0"))


def test_a_target_wants_an_update_of_which_some_step_is_not_the_first():
    one = ("algo=ppo_kl", "algo.epochs=1", "algo.minibatches=1")
    with pytest.raises(ConfigError, match=r"algo\.kl_target=0\.01: wants more than one step per update"):
        build.check(make_config(*one))
    build.check(make_config(*one, "algo.kl_target=null"))
    build.check(make_config(*one, "algo.minibatches=2"))


def test_ppo_kl_with_coefficient_zero_is_ppo(tmp_path):
    ppo = train(tmp_path / "ppo", "algo=ppo", *SMALL)
    kl = train(tmp_path / "kl", "algo=ppo_kl", "algo.kl_coef=0", "algo.kl_target=null", *SMALL)
    assert have_same_weights(ppo, kl)


def test_adaptive_kl_moves_beta_per_agent(tmp_path):
    trainer = make_trainer(tmp_path, "algo=ppo_kl", "algo.kl_target=0.01", "num_seeds=3")
    trainer.algo.adapt({"kl": torch.tensor([0.02, 0.01, 0.001])})
    assert trainer.algo.beta.tolist() == [2.0, 1.0, 0.5]
