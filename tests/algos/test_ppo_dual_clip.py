"""Dual clip: L_dual by hand; where its gradient ends; a bound beyond any ratio is PPO; and in training."""

import pytest
import torch
from helpers import for_one_agent, have_same_weights, make_batch, make_config, records, resumed, train

from rlexp import build
from rlexp.algos.ppo import PPO
from rlexp.algos.ppo_dual_clip import PPODualClip
from rlexp.errors import ConfigError

SMALL = ("env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=4", "algo.minibatches=2", "optimizer.lr=0.05")


def surrogate(algo, ratios, advantages, weights=None):
    batch = make_batch(obs=torch.zeros(len(ratios), 3), weights=weights or [1.0] * len(ratios))
    log_ratio = torch.tensor(ratios).log().requires_grad_()
    loss = for_one_agent(algo).surrogate(None, batch, log_ratio, torch.tensor(advantages))
    loss.backward()
    return loss.item(), (log_ratio.grad / log_ratio.exp().detach() * len(ratios)).tolist()  # per row: n ∂L/∂ρ


def test_the_surrogate():
    # ε = .2, c = 3. A > 0: 1.2 · 2 = 2.4, whatever c ; .5 · 1 = .5
    # A < 0: max(5 · −1, 3 · −1) = −3 ; 2 · −1 = −2 ; at ρ = .5 PPO's min(−.5, −.8) = −.8 ; of no weight
    ratios, advantages = [5.0, 0.5, 5.0, 2.0, 0.5, 9.0], [2.0, 1.0, -1.0, -1.0, -1.0, -70.0]
    weights = [1.0] * 5 + [0.0]
    loss, _ = surrogate(PPODualClip(), ratios, advantages, weights)
    assert loss == pytest.approx(-(2.4 + 0.5 - 3 - 2 - 0.8) / 5)
    loss, _ = surrogate(PPODualClip(dual_clip=4.0), ratios, advantages, weights)
    assert loss == pytest.approx(-(2.4 + 0.5 - 4 - 2 - 0.8) / 5)


def test_the_gradient_ends_at_the_bound_where_the_advantage_is_negative():
    ratios, advantages = [1.0, 2.9, 3.1, 1.0, 3.1], [-2.0, -2.0, -2.0, 2.0, 2.0]
    _, slopes = surrogate(PPODualClip(), ratios, advantages)
    assert slopes == pytest.approx([2, 2, 0, -2, 0])
    _, slopes = surrogate(PPO(), ratios, advantages)
    assert slopes == pytest.approx([2, 2, 2, -2, 0])


def test_the_gradient_is_finite_where_the_ratio_is_not():
    loss, slopes = surrogate(PPODualClip(), [1.0, 1e39], [1.0, -1.0])
    assert loss == pytest.approx(-(1 - 3) / 2)
    assert slopes == [-1, 0]


@pytest.mark.parametrize("bound", ["1.0", "[3,0.5]"])
def test_a_bound_that_cuts_the_gradient_on_policy_is_refused(bound):
    with pytest.raises(ConfigError, match=r"algo\.dual_clip=.*: must be above 1,"):
        build.check(make_config("algo=ppo_dual_clip", f"algo.dual_clip={bound}"))


def test_a_bound_beyond_any_ratio_is_ppo_and_one_within_is_not(tmp_path):
    words = (*SMALL, "total_steps=512")
    ppo = train(tmp_path / "ppo", *words)
    assert have_same_weights(train(tmp_path / "far", "algo=ppo_dual_clip", "algo.dual_clip=1e9", *words), ppo)
    assert not have_same_weights(train(tmp_path / "near", "algo=ppo_dual_clip", "algo.dual_clip=1.21", *words), ppo)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    words = ("algo=ppo_dual_clip", "algo.dual_clip=[3,1.3]", *SMALL, "num_seeds=2", "total_steps=768", "log_every=128")
    whole, parts = train(tmp_path / "whole", *words), resumed(tmp_path / "parts", *words)
    assert have_same_weights(parts, whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
