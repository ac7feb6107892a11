"""RAPID: L_PPO + c · E[ −log π(a|s) ] on pairs of the ranking buffer, by hand and in training."""

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
    records,
    resumed,
    train,
    weights_of,
)
from torch.testing import assert_close

from rlexp import build
from rlexp.algos.ppo import PPO
from rlexp.algos.ranking_buffer import RankedRows
from rlexp.algos.rapid_bc import RAPID
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import Policy

LOG3 = math.log(3)
SMALL = ("total_steps=1536", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")

# logits (log 3, 0) are probabilities (¾, ¼); the last row has no weight
ROWS = RankedRows(
    obs=torch.tensor([[LOG3, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, -9.0, 0.0]]),
    actions=torch.tensor([1, 0, 1]),
    weights=torch.tensor([1.0, 1.0, 0.0]),
)
BC_LOSS = (math.log(4) + math.log(2)) / 2
ROLLOUT = {"obs": [[LOG3, 0.0, 1.0], [0.0, 0.0, 2.0]], "actions": [0, 1], "advantages": [1.0, -2.0]}


def loss_of(algo, rows=ROWS):
    return for_one_agent(algo).loss(Policy(AsObserved(), {}), make_batch(**ROLLOUT, replay=rows))


@pytest.mark.parametrize("coef", [1.0, 0.25])
def test_the_loss(coef):
    loss, metrics = loss_of(RAPID(bc_coef=coef))
    plain, of_ppo = loss_of(PPO())
    assert metrics["bc_loss"].item() == pytest.approx(BC_LOSS)
    assert loss.item() == pytest.approx(plain.item() + coef * BC_LOSS)
    assert all(metrics[name] == of_ppo[name] for name in of_ppo)


def test_the_gradient_makes_the_actions_likelier():
    obs = ROWS.obs.clone().requires_grad_()
    loss_of(RAPID(), ROWS._replace(obs=obs))[1]["bc_loss"].backward()
    # (π − 1[a]) / 2: (¾, ¼ − 1) / 2 and (½ − 1, ½) / 2
    assert obs.grad.flatten().tolist() == pytest.approx([3 / 8, -3 / 8, 0, -1 / 4, 1 / 4, 0, 0, 0, 0])


def test_there_is_no_term_without_a_row_of_weight():
    loss, metrics = loss_of(RAPID(bc_coef=2.0), ROWS._replace(weights=torch.zeros(3)))
    assert metrics["bc_loss"].item() == 0
    assert loss.item() == loss_of(PPO())[0].item()


@pytest.mark.parametrize("env", ["env=cartpole", "env.id=Target-v0"])  # of which the second is continuous
@pytest.mark.parametrize("num_seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_coefficient_zero_is_ppo_bit_for_bit(tmp_path, env, num_seeds):
    words = (*SMALL, env, f"num_seeds={num_seeds}")
    ppo = train(tmp_path / "ppo", "algo=ppo", *words)
    assert have_same_weights(ppo, train(tmp_path / "zero", "algo=rapid_bc", "algo.bc_coef=0", *words))
    assert not have_same_weights(ppo, train(tmp_path / "rapid", "algo=rapid_bc", *words))


@pytest.mark.parametrize("word", ["algo.bc_coef=-1", "algo.bc_rows=0", "algo.buffer_size=0", "algo.max_steps=0"])
def test_values_out_of_range_are_refused(word):
    with pytest.raises(ConfigError, match=rf"{word}.*: must (be at least 1|not be below 0)"):
        build.check(make_config("algo=rapid_bc", word))


@pytest.mark.few(1)
@pytest.mark.parametrize("env", ["env=cartpole", "env.id=FrozenLake-v1"])  # observations of floats, of integers
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, env):
    words = (*SMALL, "algo=rapid_bc", "num_seeds=2", "log_every=256", "algo.buffer_size=100", "algo.max_steps=20", env)
    whole, parts = train(tmp_path / "whole", *words), resumed(tmp_path / "parts", *words)
    assert have_same_weights(parts, whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_agents_side_by_side_are_those_alone(tmp_path):
    words = ("algo=rapid_bc", "total_steps=1024", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2")
    both = weights_of(train(tmp_path / "both", *words, "num_seeds=2"))
    for seed in (0, 1):
        for name, x in weights_of(train(tmp_path / str(seed), *words, f"seed={seed}")).items():
            assert_close(both[name][seed], x[0], rtol=1e-3, atol=1e-4)
