import torch
from helpers import make_trainer
from torch.testing import assert_close

from rlexp.networks.normalizer import ObservationNormalizer, merge_moments


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


def test_statistics_move_after_an_update_and_only_there(tmp_path):
    trainer = make_trainer(tmp_path, "env.normalize_obs=true", "num_seeds=2", "algo.rollout_steps=16")
    rollout = trainer.collector.collect(trainer.learner.acting(trainer.collector.slots))
    before = trainer.learner.tensors()["encoder.normalizer.mean"]
    assert (before == 0).all()
    trainer.learner.normalize(rollout)
    after = trainer.learner.tensors()
    for k in range(2):
        rows = rollout.obs[k][rollout.weights[k] > 0]
        assert_close(after["encoder.normalizer.mean"][k], rows.mean(0), atol=1e-6, rtol=1e-5)
        assert_close(after["encoder.normalizer.var"][k], rows.var(0, correction=0), atol=1e-6, rtol=1e-4)
