import math

import pytest
import torch
from torch.testing import assert_close

from rlexp.algos import losses

ONES = torch.ones(2)
MASK = torch.tensor([1.0, 1.0, 0.0])  # the third row is a dummy and full of nonsense


def test_weighted_mean():
    assert_close(losses.weighted_mean(torch.tensor([1.0, 3.0, 99.0]), MASK), torch.tensor(2.0))
    assert losses.weighted_mean(torch.tensor([5.0]), torch.zeros(1)) == 0


def test_clipped_surrogate():
    ratio, advantages = torch.tensor([1.5, 0.5, 9.0]), torch.tensor([1.0, -1.0, 50.0])
    # min(1.5, 1.2) = 1.2 ; min(−.5, −.8) = −.8 ; mean .2
    assert_close(losses.clipped_surrogate(ratio, advantages, MASK, torch.tensor(0.2)), torch.tensor(-0.2))
    # and where clipping would flatter it does not help: min(1.5·−1, 1.2·−1) = −1.5
    pessimist = losses.clipped_surrogate(torch.tensor([1.5]), torch.tensor([-1.0]), torch.ones(1), torch.tensor(0.2))
    assert_close(pessimist, torch.tensor(1.5))


def test_value_losses():
    values, old, returns = torch.tensor([2.0, 0.0, 9.0]), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    # ½ · mean(4, 1)
    assert_close(losses.value_loss(values, returns, MASK), torch.tensor(1.25))
    # V clipped to 1.2: 1.44 < 4, so 4 stays; second row unmoved: ½ · mean(4, 1)
    assert_close(losses.clipped_value_loss(values, old, returns, MASK, torch.tensor(0.2)), torch.tensor(1.25))
    # V = 1 came from 2 and R = 1: unclipped error 0, clipped V = 1.8 → .64
    one = torch.ones(1)
    assert_close(losses.clipped_value_loss(one, 2 * one, one, one, torch.tensor(0.2)), torch.tensor(0.32))


def test_normalized_advantages_ignore_dummies():
    # mean 2, deviation √2 (Bessel)
    normalized = losses.normalize_advantages(torch.tensor([1.0, 3.0, 1e6]), MASK)
    assert_close(normalized[:2], torch.tensor([-1.0, 1.0]) / math.sqrt(2))


def test_ratio_statistics():
    # ρ = 2, ½: k1 = −mean(log 2, −log 2) = 0 ; k3 = mean(1 − log 2, −½ + log 2) = ¼ ; both moved more than .2
    moved = losses.ratio_statistics(torch.tensor([math.log(2), -math.log(2)]), ONES, torch.tensor(0.2))
    assert_close(moved.old_approx_kl, torch.tensor(0.0))
    assert_close(moved.approx_kl, torch.tensor(0.25))
    assert moved.clip_fraction == 1
    assert losses.ratio_statistics(torch.tensor([0.3, 0.0]), ONES, torch.tensor(0.2)).clip_fraction == 0.5


def test_explained_variance():
    returns = torch.tensor([0.0, 2.0, 70.0])
    assert_close(losses.explained_variance(returns, returns, MASK), torch.tensor(1.0))
    assert_close(losses.explained_variance(torch.zeros(3), returns, MASK), torch.tensor(0.0))
    # errors −1, 1 → variance 1, as the returns' own 1
    assert_close(losses.explained_variance(torch.tensor([1.0, 1.0, 0.0]), returns, MASK), torch.tensor(0.0))
    # errors 0, 1 → variance ¼
    assert_close(losses.explained_variance(torch.tensor([0.0, 1.0, 0.0]), returns, MASK), torch.tensor(0.75))


def test_what_has_no_weight_is_not_seen_whatever_it_is():
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0])
    x = torch.tensor([1.0, float("nan"), 3.0, float("inf")])
    assert losses.weighted_mean(x, weights) == 2.0
    assert losses.normalize_advantages(x, weights)[[0, 2]].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_means_over_ranks_are_means_over_the_minibatch_however_dummies_are_shared():
    x, weights = torch.tensor([1.0, 2.0, 6.0, 9.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    # N = 3, R = 2: w = (3/2)/2 and (3/2)/1 ; ((1 + 2)/1.5 + 6/1.5) / 2 = (1 + 2 + 6) / 3
    shares = [losses.share_weights(part, weights, 2) for part in weights.split(2)]
    assert [share.tolist() for share in shares] == [[0.75, 0.75], [1.5, 0.0]]
    means = [losses.weighted_mean(part, share) for part, share in zip(x.split(2), shares, strict=True)]
    assert_close(sum(means) / 2, torch.tensor(3.0))
    # of one row among two ranks: (x/.5 + 0) / 2 ; and of none
    one = torch.tensor([0.0, 0.0, 1.0, 0.0])
    means = [
        losses.weighted_mean(a, losses.share_weights(w, one, 2)) for a, w in zip(x.split(2), one.split(2), strict=True)
    ]
    assert_close(sum(means) / 2, torch.tensor(6.0))
    assert losses.share_weights(torch.zeros(2), torch.zeros(4), 2).tolist() == [0.0, 0.0]


def test_a_share_is_normalized_by_the_whole_minibatch():
    x, weights = torch.tensor([1.0, 3.0, 1e6]), MASK
    moments = losses.advantage_moments(x, weights)
    assert_close(torch.stack(moments), torch.tensor([2.0, math.sqrt(2)]))
    share = losses.normalize_advantages(x[:1], torch.tensor([2.0]), moments=moments)
    assert_close(share, losses.normalize_advantages(x, weights)[:1])
