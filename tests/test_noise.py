"""Random numbers of a loss are distributed as they say; other keys, calls and elements have nothing in common."""

import pytest
import torch
from torch.func import vmap

from rlexp import noise

SHAPE = (200, 500)
KEYS = torch.randint(2**62, (4,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_numbers_are_distributed_as_they_say(draw):
    x = draw(torch.zeros(SHAPE), KEYS[0], 1).double()
    mean, deviation = (0.5, 12**-0.5) if draw is noise.uniform else (0.0, 1.0)
    assert x.mean() == pytest.approx(mean, abs=4 * deviation / 1e5**0.5)
    assert x.std() == pytest.approx(deviation, rel=0.01)
    ranks = (torch.arange(x.numel()) + 0.5) / x.numel()
    ordered = x.flatten().sort()[0]
    exact = ordered if draw is noise.uniform else torch.distributions.Normal(0.0, 1.0).cdf(ordered)
    assert (exact - ranks).abs().max() < 1.63 / x.numel() ** 0.5  # Kolmogorov and Smirnov, at 1 %


def test_keys_calls_and_elements_have_nothing_in_common():
    x = [noise.normal(torch.zeros(SHAPE), key, draw) for key in (*KEYS, KEYS[0] + 1) for draw in (1, 2, 3)]
    rows = torch.stack([own.flatten() for own in x])
    others = torch.corrcoef(rows) - torch.eye(len(rows))
    assert others.abs().max() < 5 / rows.shape[1] ** 0.5
    for lag in (1, 2, 3, 256, 500):
        assert torch.corrcoef(torch.stack([rows[0, lag:], rows[0, :-lag]]))[0, 1].abs() < 4 / rows.shape[1] ** 0.5
    assert (rows[0] == rows[1]).sum() < 5


def test_stacked_agents_draw_what_each_would_alone():
    x = torch.zeros(4, 7, 3)
    together = vmap(lambda own, key: noise.normal(own, key, 5))(x, KEYS)
    assert torch.equal(together, torch.stack([noise.normal(x[k], KEYS[k], 5) for k in range(4)]))
