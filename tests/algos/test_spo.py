"""SPO: L_SPO = −E[ ρ A − |A| / (2ε) · (ρ − 1)² ], by hand; where its gradient vanishes; and in training."""

import math

import pytest
import torch
from helpers import (
    AsObserved,
    for_one_agent,
    have_same_weights,
    make_batch,
    make_config,
    records,
    resumed,
    train,
    weights_of,
)
from torch.testing import assert_close

from rlexp import build
from rlexp.algos.ppo import PPO
from rlexp.algos.spo import SPO
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import Policy

LOG3 = math.log(3)
SMALL = ("algo=spo", "env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=2", "algo.minibatches=2")
# logits (log 3, 0) are probabilities (¾, ¼), and both actions were as likely, so that ρ is 1.5, 1 and ½
ROWS = {
    "obs": torch.tensor([[LOG3, 0.0, 0.0], [0.0, 0.0, 0.0], [LOG3, 0.0, 0.0], [9.0, -9.0, 9.0]]),
    "actions": [0, 1, 1, 1],
    "advantages": [1.0, -2.0, -1.0, 50.0],
    "weights": [1.0, 1.0, 1.0, 0.0],
}


def loss_of(algo, **changed):
    return for_one_agent(algo).loss(Policy(AsObserved(), {}), make_batch(**ROWS | changed))


def test_the_loss():
    # ε = .2, 1 / 2ε = 2.5: 1.5 − 2.5 · .25 = .875 ; −2 − 0 ; −.5 − 2.5 · .25 = −1.125 ; the mean is −.75
    loss, metrics = loss_of(SPO(norm_adv=False, vf_coef=0.0))
    assert loss.item() == metrics["policy_loss"].item() == pytest.approx(0.75)
    # ε = .5, 1 / 2ε = 1: 1.5 − .25 ; −2 ; −.5 − .25 ; the mean is −.5
    assert loss_of(SPO(norm_adv=False, vf_coef=0.0, clip_coef=0.5))[0].item() == pytest.approx(0.5)


def slope(ratio, advantage, algo):
    """∂L / ∂ρ of one row."""
    log_ratio = torch.tensor([ratio]).log().requires_grad_()
    batch = make_batch(obs=torch.zeros(1, 3))
    for_one_agent(algo).surrogate(None, batch, log_ratio, torch.tensor([advantage])).backward()
    return log_ratio.grad.item() / ratio  # dρ = ρ d log ρ


@pytest.mark.parametrize("advantage", [1.0, 3.0, -0.5])
@pytest.mark.parametrize("epsilon", [0.1, 0.2, 0.5])
def test_the_gradient_vanishes_at_the_edge_and_turns_beyond(advantage, epsilon):
    sign, algo = math.copysign(1, advantage), SPO(clip_coef=epsilon)
    assert slope(1 + sign * epsilon, advantage, algo) == pytest.approx(0, abs=1e-5)
    # ∂L/∂ρ = −A + |A| / ε · (ρ − 1): −A at ρ = 1; A at twice as far as the edge, where PPO's is 0
    assert slope(1.0, advantage, algo) == pytest.approx(-advantage, rel=1e-4)
    assert slope(1 + 1.9 * sign * epsilon, advantage, algo) == pytest.approx(0.9 * advantage, rel=1e-3)
    assert slope(1 + 1.9 * sign * epsilon, advantage, PPO(clip_coef=epsilon)) == 0


@pytest.mark.parametrize("clip_coef", ["[0,0.2]", "[0.2,0,0.2]"])
def test_an_epsilon_of_zero_is_refused_where_an_update_would_divide_by_it(clip_coef):
    with pytest.raises(ConfigError, match=r"algo\.clip_coef=\[.*: must be above 0, as the penalty is divided by it"):
        build.check(make_config("algo=spo", f"algo.clip_coef={clip_coef}"))
    build.check(make_config("algo=spo", "algo.clip_coef=[0.2,0]"))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    words = (*SMALL, "num_seeds=2", "total_steps=768", "log_every=128")
    whole, parts = train(tmp_path / "whole", *words), resumed(tmp_path / "parts", *words)
    assert have_same_weights(parts, whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_agents_side_by_side_are_those_alone(tmp_path):
    words = (*SMALL, "env=pendulum", "total_steps=512")
    both = weights_of(train(tmp_path / "both", *words, "num_seeds=2"))
    for seed in (0, 1):
        for name, x in weights_of(train(tmp_path / str(seed), *words, f"seed={seed}")).items():
            assert_close(both[name][seed], x[0], rtol=1e-4, atol=1e-4)
