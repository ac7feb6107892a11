import numpy as np
import torch
from helpers import make_trainer
from torch.testing import assert_close

from rlexp.networks.normalizer import ObservationNormalizer, merge_moments
from rlexp.training.return_scaler import ReturnScaler

CPU = torch.device("cpu")


def test_moments_merge_to_those_of_all_rows_without_the_dummies():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, 2, generator=generator) * 3 + 5
    weights = (torch.rand(3, 50, generator=generator) < 0.7).float()
    moments = torch.zeros(2), torch.ones(2), torch.zeros(())
    for rows, w in zip(x, weights, strict=True):
        moments = merge_moments(*moments, rows, w)
    kept = x[weights > 0]
    assert_close(moments[0], kept.mean(0))
    assert_close(moments[1], kept.var(0, correction=0))
    assert moments[2] == len(kept)


def test_observations_are_normalised_and_clipped():
    normalizer = ObservationNormalizer((1,), clip=2.0)
    assert_close(normalizer(torch.tensor([0.5])), torch.tensor([0.5]))  # nothing known yet
    normalizer.mean.fill_(10.0)
    normalizer.var.fill_(4.0)
    assert_close(normalizer(torch.tensor([[13.0], [99.0]])), torch.tensor([[1.5], [2.0]]))


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


def test_statistics_move_after_an_update_and_only_there(tmp_path):
    trainer = make_trainer(tmp_path, "env.normalize_obs=true", "num_seeds=2", "algo.rollout_steps=16")
    rollout = trainer.collector.collect(trainer.learner.act)
    before = trainer.learner.tensors()["encoder.normalizer.mean"]
    assert (before == 0).all()
    trainer.learner.normalize(rollout)
    after = trainer.learner.tensors()
    for k in range(2):
        rows = rollout.obs[k][rollout.weights[k] > 0]
        assert_close(after["encoder.normalizer.mean"][k], rows.mean(0), atol=1e-6, rtol=1e-5)
        assert_close(after["encoder.normalizer.var"][k], rows.var(0, correction=0), atol=1e-6, rtol=1e-4)
