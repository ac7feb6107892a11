"""Rewards are scaled by the deviation of discounted returns."""

import numpy as np
import probes  # noqa: F401
import torch
from helpers import make_trainer
from torch.testing import assert_close

from rlexp.algos.return_scaler import ReturnScaler

CPU = torch.device("cpu")
SMALL = ("total_steps=256", "env.num_envs=4", "algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=2")


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    scaler = ReturnScaler(1, 1, 0.5, 10.0, CPU)
    rewards = torch.tensor([2.0, 2.0, 0.0, 4.0])[None, :, None]
    done = torch.tensor([False, True, False, False])[None, :, None]
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0])[None, :, None]
    # returns 2, 3 | dummy | 4: mean 3, variance ⅔
    assert_close(scaler(rewards, done, weights), rewards / np.sqrt(2 / 3), rtol=1e-5, atol=1e-6)
    # and the next rollout goes on with the running return: 0 + .5 · 4 = 2 joins
    scaler(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool), torch.ones(1, 1, 1))
    assert_close(scaler.var, torch.tensor([np.var([2, 3, 4, 2])], dtype=torch.float32))


def test_scaled_rewards_are_clipped():
    scaler = ReturnScaler(1, 1, 0.0, 1.5, CPU)
    scaled = scaler(torch.tensor([0.0, 0.0, 0.0, 9.0])[None, :, None], torch.zeros(1, 4, 1).bool(), torch.ones(1, 4, 1))
    assert scaled.max() == 1.5


def test_a_truncation_cuts_the_return_that_rewards_are_scaled_by(tmp_path):
    trainer = make_trainer(tmp_path, "env.id=Endless-v0", "env.normalize_reward=true", "total_steps=512", *SMALL[1:])
    trainer.train(False)
    # returns restart every five steps: at most 1 + γ + ... + γ⁴ = 4.9 of reward 1; without the cut they go on to 100
    assert trainer.scaler.mean.item() < 4.9
