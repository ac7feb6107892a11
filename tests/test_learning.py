"""Small and seeded: the two reference algorithms learn CartPole with the values that a newcomer gets."""

import pytest
from helpers import last_metrics, train


@pytest.mark.parametrize(("algo", "seeds"), [pytest.param("ppo", 2, marks=pytest.mark.slow), ("apo", 1)])
def test_cartpole_is_learnt(tmp_path, algo, seeds):
    settings = (f"tuned={algo}_cartpole", "total_steps=24_000", f"num_seeds={seeds}")
    train(tmp_path, f"algo={algo}", "env=cartpole", *settings)
    # Of 20 seeds of either algorithm the worst stood at 113 by then; a policy that learns nothing stays near 22.
    assert min(last_metrics(tmp_path, seed)["episodic_return"] for seed in range(seeds)) > 80
