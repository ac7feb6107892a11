"""SIL: L_PPO + c · ( E[ −log π(a|s) · G ] + c_v · E[ ½ G² ] ), G = max(R − V, 0), by hand and in training."""

import math

import probes  # noqa: F401
import pytest
import torch
from helpers import (
    AsObserved,
    for_one_agent,
    have_same_weights,
    make_batch,
    make_config,
    make_trainer,
    records,
    resumed,
    train,
    weights_of,
)
from torch.testing import assert_close

from rlexp import build
from rlexp.algos.ppo import PPO
from rlexp.algos.sil import SIL
from rlexp.algos.transition_memory import TransitionRows
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import Policy

LOG3 = math.log(3)
SMALL = ("total_steps=1536", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")

# logits (log 3, 0) are probabilities (¾, ¼); the third number of an observation is V
#   row 1: action 0, log π = log ¾, R − V = 3 − 1 = 2, weight 1
#   row 2: action 1, log π = log ½, R − V = 5 − 1 = 4, weight ½
#   row 3: action 1, R − V = 0 − 1 < 0: no part in it
#   row 4: no weight
ROWS = TransitionRows(
    obs=torch.tensor([[LOG3, 0.0, 1.0], [0.0, 0.0, 1.0], [LOG3, 0.0, 1.0], [9.0, -9.0, 0.0]]),
    actions=torch.tensor([0, 1, 1, 1]),
    returns=torch.tensor([3.0, 5.0, 0.0, 1e6]),
    weights=torch.tensor([1.0, 0.5, 1.0, 0.0]),
)
POLICY_TERM = (2 * -math.log(0.75) + 0.5 * 4 * math.log(2)) / 4
VALUE_TERM = (0.5 * 4 + 0.5 * 0.5 * 16) / 4

ROLLOUT = {
    "obs": [[LOG3, 0.0, 1.0], [0.0, 0.0, 2.0]],
    "actions": [0, 1],
    "advantages": [1.0, -2.0],
    "returns": [2.0, 0.0],
}


def loss_of(algo, rows=ROWS):
    return for_one_agent(algo).loss(Policy(AsObserved(), {}), make_batch(**ROLLOUT, replay=rows))


@pytest.mark.parametrize(("coef", "vf_coef"), [(1.0, 0.0), (2.0, 0.5), (0.5, 3.0)])
def test_the_loss(coef, vf_coef):
    loss, metrics = loss_of(SIL(sil_coef=coef, sil_vf_coef=vf_coef))
    plain, of_ppo = loss_of(PPO())
    assert metrics["sil_policy_loss"].item() == pytest.approx(POLICY_TERM)
    assert metrics["sil_value_loss"].item() == pytest.approx(VALUE_TERM)
    assert metrics["sil_gain"].item() == pytest.approx((2 + 0.5 * 4) / 4)
    assert loss.item() == pytest.approx(plain.item() + coef * (POLICY_TERM + vf_coef * VALUE_TERM))
    assert all(metrics[name] == of_ppo[name] for name in of_ppo)


def test_the_gradient_makes_what_went_well_likelier_and_raises_the_critic():
    obs = ROWS.obs.clone().requires_grad_()
    loss_of(SIL(sil_coef=2.0, sil_vf_coef=0.5), ROWS._replace(obs=obs))[0].backward()
    # logits: −c w G (1[a] − π) / 4 = −2 · 1 · 2 · (¼, −¼) / 4 and −2 · ½ · 4 · (−½, ½) / 4; G has no gradient there
    # value: −c c_v w G / 4 = −2 · ½ · 1 · 2 / 4 and −2 · ½ · ½ · 4 / 4
    expected = [-0.25, 0.25, -0.5, 0.5, -0.5, -0.5, 0, 0, 0, 0, 0, 0]
    assert obs.grad.flatten().tolist() == pytest.approx(expected)


def test_there_is_no_term_without_a_row_of_weight():
    loss, metrics = loss_of(SIL(sil_coef=2.0, sil_vf_coef=1.0), ROWS._replace(weights=torch.zeros(4)))
    assert loss.item() == loss_of(PPO())[0].item()
    assert metrics["sil_policy_loss"].item() == metrics["sil_value_loss"].item() == 0


@pytest.mark.parametrize("env", ["env=cartpole", "env.id=Target-v0"])  # of which the second is continuous
@pytest.mark.parametrize("num_seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_coefficient_zero_is_ppo_bit_for_bit(tmp_path, env, num_seeds):
    words = (*SMALL, env, f"num_seeds={num_seeds}")
    ppo = train(tmp_path / "ppo", "algo=ppo", *words)
    assert have_same_weights(ppo, train(tmp_path / "zero", "algo=sil", "algo.sil_coef=0", *words))
    assert not have_same_weights(ppo, train(tmp_path / "sil", "algo=sil", *words))


def test_gamma_and_bootstrap_are_those_of_gae(tmp_path):
    memory = make_trainer(tmp_path, "algo=sil", "gae.gamma=0.5", "gae.bootstrap_truncation=false").algo.memory
    assert (memory.gamma, memory.bootstrap_truncation) == (0.5, False)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("algo.sil_coef=-1", r"algo\.sil_coef=-1.*must not be below 0"),
        ("algo.sil_rows=0", r"algo\.sil_rows=0: must be at least 1"),
        ("algo.priority_alpha=-1", r"algo\.priority_alpha=-1.*must not be below 0"),
        ("algo.gamma=2", r"algo\.gamma=2.*must lie in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(word, told):
    with pytest.raises(ConfigError, match=told):
        build.check(make_config("algo=sil", word))


def test_a_memory_of_less_than_a_row_of_each_environment_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"algo\.sil_buffer=3: must be at least env\.num_envs, which is 8"):
        make_trainer(tmp_path, "algo=sil", "algo.sil_buffer=3")


@pytest.mark.parametrize(
    "words", [("env=cartpole", "env.normalize_reward=true"), pytest.param(("env=pendulum",), marks=pytest.mark.slow)]
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, words):
    words = (*SMALL, "algo=sil", "num_seeds=2", "log_every=256", "algo.sil_buffer=300", *words)
    words += ("+env.kwargs.max_episode_steps=40",)
    whole, parts = train(tmp_path / "whole", *words), resumed(tmp_path / "parts", *words)
    assert have_same_weights(parts, whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_agents_side_by_side_are_those_alone(tmp_path):
    words = ("algo=sil", "total_steps=1024", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2")
    both = weights_of(train(tmp_path / "both", *words, "num_seeds=2"))
    for seed in (0, 1):
        for name, x in weights_of(train(tmp_path / str(seed), *words, f"seed={seed}")).items():
            assert_close(both[name][seed], x[0], rtol=1e-3, atol=1e-4)
