"""Small and seeded: the two reference algorithms learn CartPole with the values that a newcomer gets."""

import pytest
from helpers import last_metrics, train


@pytest.mark.parametrize("algo", ["ppo", "apo"])
def test_cartpole_is_learnt(tmp_path, algo):
    train(tmp_path, f"algo={algo}", "env=cartpole", f"tuned={algo}_cartpole", "total_steps=40_000", "num_seeds=2")
    assert [last_metrics(tmp_path, seed)["episodic_return"] > 300 for seed in range(2)] == [True] * 2
