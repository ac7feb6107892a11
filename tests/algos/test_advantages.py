import pytest
import torch
from torch.testing import assert_close

from rlexp.algos.advantages import GAE, gae, reverse_scan
from rlexp.errors import ConfigError


def column(*xs, dtype=torch.float32):
    return torch.tensor(xs, dtype=dtype)[:, None]  # (T, E = 1)


def run(rewards, values, last, terminated, truncated, **kwargs):
    result = gae(
        column(*rewards),
        column(*values),
        torch.tensor([last]),
        column(*terminated, dtype=torch.bool),
        column(*truncated, dtype=torch.bool),
        **kwargs,
    )
    return result.advantages[:, 0], result.returns[:, 0]


def test_two_steps_that_end():
    # δ1 = 2 + .5·0 − 1 = 1 ;  δ0 = 1 + .5·1 − 1 = .5 ;  A0 = .5 + .25·1
    advantages, returns = run([1.0, 2.0], [1.0, 1.0], 9.0, [0, 1], [0, 0], gamma=0.5, lam=0.5)
    assert_close(advantages, torch.tensor([0.75, 1.0]))
    assert_close(returns, torch.tensor([1.75, 2.0]))


def test_rollout_that_goes_on_bootstraps_from_the_last_value():
    # δ1 = 2 + .5·4 − 1 = 3 ;  δ0 = .5 ;  A0 = .5 + .25·3
    advantages, _ = run([1.0, 2.0], [1.0, 1.0], 4.0, [0, 0], [0, 0], gamma=0.5, lam=0.5)
    assert_close(advantages, torch.tensor([1.25, 3.0]))


def test_time_limit_bootstraps_from_the_true_final_observation_in_the_dummy_row():
    # row 0 truncated; row 1 is its dummy and holds the final observation, V = 6; row 2 starts a new episode
    # δ0 = 1 + .5·6 − 1 = 3 and nothing of later rows: A0 = 3
    # δ2 = 2 + .5·4 − 1 = 3
    advantages, _ = run([1.0, 0.0, 2.0], [1.0, 6.0, 1.0], 4.0, [0, 0, 0], [1, 0, 0], gamma=0.5, lam=0.5)
    assert_close(advantages[[0, 2]], torch.tensor([3.0, 3.0]))
    # taken for an end: δ0 = 1 − 1 = 0
    ended, _ = run(
        [1.0, 0.0, 2.0], [1.0, 6.0, 1.0], 4.0, [0, 0, 0], [1, 0, 0], gamma=0.5, lam=0.5, bootstrap_truncation=False
    )
    assert_close(ended[[0, 2]], torch.tensor([0.0, 3.0]))


def test_termination_wins_over_truncation():
    advantages, _ = run([1.0, 0.0], [1.0, 6.0], 4.0, [1, 0], [1, 0], gamma=0.5, lam=0.5)
    assert_close(advantages[0], torch.tensor(0.0))


def test_truncation_at_the_end_of_a_rollout_uses_the_last_value():
    advantages, _ = run([1.0], [1.0], 6.0, [0], [1], gamma=0.5, lam=0.5)
    assert_close(advantages, torch.tensor([3.0]))


def test_lambda_one_is_monte_carlo_and_zero_is_temporal_difference():
    rewards, values = [1.0, 1.0, 1.0], [0.3, -0.2, 0.7]
    _, returns = run(rewards, values, 5.0, [0, 0, 1], [0, 0, 0], gamma=0.9, lam=1.0)
    assert_close(returns, torch.tensor([1 + 0.9 + 0.81, 1 + 0.9, 1.0]))
    _, returns = run(rewards, values, 5.0, [0, 0, 1], [0, 0, 0], gamma=0.9, lam=0.0)
    assert_close(returns, torch.tensor([1 + 0.9 * -0.2, 1 + 0.9 * 0.7, 1.0]))


def test_agents_and_environments_are_independent():
    generator = torch.Generator().manual_seed(0)
    shape = (3, 7, 2)
    rewards, values = torch.randn(2, *shape, generator=generator)
    last = torch.randn(3, 2, generator=generator)
    terminated, truncated = torch.rand(2, *shape, generator=generator) < 0.2
    together = gae(rewards, values, last, terminated, truncated, gamma=0.9, lam=0.8).advantages
    for a in range(3):
        for e in range(2):
            alone = gae(
                *(x[a, :, e : e + 1] for x in (rewards, values)),
                last[a, e : e + 1],
                *(x[a, :, e : e + 1] for x in (terminated, truncated)),
                gamma=0.9,
                lam=0.8,
            ).advantages
            assert_close(together[a, :, e], alone[:, 0])


def test_ranges_are_checked():
    with pytest.raises(ConfigError, match=r"gae.gamma=1.5"):
        GAE(gamma=1.5)


@pytest.mark.parametrize("steps", [1, 2, 5, 128, 129])
def test_doubling_is_the_recursion(steps):
    generator = torch.Generator().manual_seed(steps)
    x, decay = torch.randn(2, steps, 3, generator=generator), torch.rand(2, steps, 3, generator=generator)
    decay = decay * (torch.rand(2, steps, 3, generator=generator) > 0.1)
    wanted, running = torch.zeros_like(x), torch.zeros(2, 3)
    for t in reversed(range(steps)):
        running = x[:, t] + decay[:, t] * running
        wanted[:, t] = running
    assert_close(reverse_scan(x, decay), wanted)
