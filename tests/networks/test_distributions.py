import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from rlexp.errors import ConfigError
from rlexp.networks.distributions import make_distribution

LOG2, LOG3 = math.log(2), math.log(3)
GAUSS = make_distribution(spaces.Box(-1, 1, (2,)))
DICE = make_distribution(spaces.Discrete(3))
PAIR = make_distribution(spaces.MultiDiscrete([2, 3]))
ALL = {"gauss": GAUSS, "dice": DICE, "pair": PAIR}


def test_categorical_by_hand():
    # logits log 1, log 2, log 1: probabilities ¼, ½, ¼
    p = torch.tensor([0.0, LOG2, 0.0])
    assert_close(DICE.log_prob(p, torch.tensor(1)), torch.tensor(-LOG2))
    # H = ¼·2 log 2 + ½ log 2 + ¼·2 log 2 = 1.5 log 2
    assert_close(DICE.entropy(p), torch.tensor(1.5 * LOG2))
    # against uniform: Σ p log p − Σ p log ⅓ = −1.5 log 2 + log 3
    assert_close(DICE.kl(p, torch.zeros(3)), torch.tensor(-1.5 * LOG2 + LOG3))
    assert DICE.mode(p) == 1


def test_multicategorical_is_the_sum_of_its_heads():
    p = torch.tensor([0.0, LOG2, 0.0, LOG2, 0.0])  # ⅓, ⅔ | ¼, ½, ¼
    assert_close(PAIR.log_prob(p, torch.tensor([1, 0])), torch.tensor(math.log(2 / 3) + math.log(1 / 4)))
    first = LOG3 - 2 / 3 * LOG2  # −⅓ log ⅓ − ⅔ log ⅔
    assert_close(PAIR.entropy(p), torch.tensor(first + 1.5 * LOG2))
    # against uniform heads: log 2 − H1 + log 3 − H2
    assert_close(PAIR.kl(p, torch.zeros(5)), torch.tensor(LOG2 - first + LOG3 - 1.5 * LOG2))
    assert PAIR.mode(p).tolist() == [1, 1]


def test_gaussian_by_hand():
    p = torch.tensor([1.0, 0.0, 0.0, LOG2])  # means 1, 0; deviations 1, 2
    q = torch.tensor([0.0, 0.0, 0.0, 0.0])
    # at a = (1, 2): z = 0, 1 → −½ − log 2 − log 2π
    assert_close(GAUSS.log_prob(p, torch.tensor([1.0, 2.0])), torch.tensor(-0.5 - LOG2 - math.log(2 * math.pi)))
    assert_close(GAUSS.entropy(p), torch.tensor(LOG2 + math.log(2 * math.pi * math.e)))
    # KL(p‖q) = [0 + (1 + 1)/2 − ½] + [−log 2 + 4/2 − ½] = .5 + 1.5 − log 2
    assert_close(GAUSS.kl(p, q), torch.tensor(2.0 - LOG2))
    # KL(q‖p) = [0 + (1 + 1)/2 − ½] + [log 2 + ¼/2 − ½]
    assert_close(GAUSS.kl(q, p), torch.tensor(0.5 + LOG2 + 0.125 - 0.5))


def test_agree_with_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 50, 3, generator=generator)
    assert_close(DICE.kl(p, q), kl_divergence(TorchCategorical(logits=p), TorchCategorical(logits=q)))
    p, q = torch.randn(2, 50, 4, generator=generator)

    def normal(x):
        return Independent(Normal(x[..., :2], x[..., 2:].exp()), 1)

    assert_close(GAUSS.kl(p, q), kl_divergence(normal(p), normal(q)))
    a = torch.randn(50, 2, generator=generator)
    assert_close(GAUSS.log_prob(p, a), normal(p).log_prob(a))
    assert_close(GAUSS.entropy(p), normal(p).entropy())


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_entropy_and_log_probability_they_claim(name):
    dist, generator = ALL[name], torch.Generator().manual_seed(1)
    p = torch.randn(dist.num_params, generator=generator) * 0.7
    noise = dist.draw_noise((40_000,), generator)
    actions = dist.sample(p.expand(40_000, -1), noise)
    assert actions.shape == (40_000, *dist.action_shape)
    assert actions.dtype == dist.action_dtype
    # E[−log π(a)] = H; the standard error here is below .01
    assert_close(-dist.log_prob(p.expand(40_000, -1), actions).mean(), dist.entropy(p), atol=0.03, rtol=0)


def test_categorical_frequencies_are_the_softmax():
    p = torch.tensor([0.0, LOG2, 0.0])
    noise = DICE.draw_noise((40_000,), torch.Generator().manual_seed(2))
    counts = torch.bincount(DICE.sample(p.expand(40_000, -1), noise), minlength=3) / 40_000
    assert_close(counts, torch.tensor([0.25, 0.5, 0.25]), atol=0.01, rtol=0)


def test_what_is_sent_is_clipped_or_shifted():
    assert GAUSS.to_env(np.array([[-3.0, 0.5]])).tolist() == [[-1.0, 0.5]]
    assert GAUSS.to_env(np.array([[np.nan, np.inf]], np.float32)).tolist() == [[0.0, GAUSS.high[1]]]  # it diverges
    one_sided = make_distribution(spaces.Box(2.0, np.inf, (1,)))
    assert one_sided.to_env(np.array([np.nan], np.float32)) == np.array([2.0], np.float32)
    shifted = make_distribution(spaces.Discrete(3, start=5))
    assert shifted.to_env(np.array([0, 2])).tolist() == [5, 7]


def test_other_spaces_are_refused():
    for space in (spaces.MultiBinary(3), spaces.Box(0, 1, (2, 2)), spaces.Box(0, 255, (2,), np.uint8)):
        with pytest.raises(ConfigError, match="action space"):
            make_distribution(space)
