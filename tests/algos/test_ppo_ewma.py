"""PPO-EWMA: what the policy is held to, by hand; the average of its weights, in training."""

import math

import pytest
import torch
from helpers import (
    AsObserved,
    for_one_agent,
    have_same_weights,
    last_metrics,
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
from rlexp.algos.ppo_ewma import PPOEWMA
from rlexp.errors import ConfigError, ObjectiveError
from rlexp.networks.actor_critic import Policy

SMALL = ("env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=2", "algo.minibatches=2", "total_steps=768")
EWMA = ("algo=ppo_ewma", *SMALL)
ONE_STEP = ("algo.epochs=1", "algo.minibatches=1")


class Shifted(torch.nn.Module):
    """Logits are the observation plus a parameter: (observation + shift, 0)."""

    distribution = AsObserved.distribution

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, obs, actor_only=False):
        logits = torch.stack([obs[..., 0] + self.shift, torch.zeros_like(obs[..., 0])], -1)
        return logits, None if actor_only else obs[..., 1]


def test_the_loss():
    # π_θ(0) = ¾ (logit log 3), π_prox(0) = ⅔ (log 2), π_old(0) = ½: ρ = 1.5, π_θ / π_prox = 9/8, π_prox / π_old = 4/3
    average = {"shift": torch.tensor(math.log(2) - math.log(3))}
    tensors = {"shift": torch.zeros(())}
    policy = Policy(Shifted(), tensors, average=average)
    batch = make_batch(obs=torch.tensor([[math.log(3), 0.0]]), actions=[0], advantages=[2.0])

    def loss_of(clip_coef, advantage=2.0):
        algo = for_one_agent(PPOEWMA(clip_coef=clip_coef, norm_adv=False, vf_coef=0.0))
        return algo.loss(policy, batch._replace(advantages=torch.tensor([advantage])))[0].item()

    # ε = .2: 9/8 is within, min(1.5 · 2, 9/8 · 4/3 · 2) = 3 ; ε = .1: min(3, 1.1 · 4/3 · 2)
    assert loss_of(0.2) == pytest.approx(-3)
    assert loss_of(0.1) == pytest.approx(-1.1 * 4 / 3 * 2)
    # of a worse action the larger of both counts
    assert loss_of(0.1, -2.0) == pytest.approx(3)


def test_the_average_is_over_optimizer_steps_and_starts_as_the_first_weights(tmp_path):
    trainer = make_trainer(tmp_path, *EWMA, *ONE_STEP, "algo.ewma_decay=0.75", "num_seeds=2")
    agents = trainer.learner.groups[0]
    expected = {name: x.detach().clone() for name, x in agents.params.items()}
    for _ in range(3):
        trainer.iterate()
        for name, x in agents.params.items():
            expected[name] = 0.75 * expected[name] + 0.25 * x.detach()
    assert_close(agents.averages(agents.params, agents.states()), expected)
    trainer._close()


def test_an_average_over_one_step_is_the_policy_that_collected_and_so_ppo(tmp_path):
    ppo = train(tmp_path / "ppo", *SMALL, *ONE_STEP)
    ewma = train(tmp_path / "ewma", *EWMA, *ONE_STEP, "algo.ewma_decay=0")
    for name, x in weights_of(ppo).items():
        assert_close(weights_of(ewma)[name], x)
    assert not have_same_weights(train(tmp_path / "far", *EWMA, *ONE_STEP, "algo.ewma_decay=0.99"), ppo)


@pytest.mark.parametrize("batching", ["vmap", pytest.param("loop", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, batching):
    words = (*EWMA, "num_seeds=2", f"batching={batching}", "log_every=128")
    whole, parts = train(tmp_path / "whole", *words), resumed(tmp_path / "parts", *words)
    assert have_same_weights(parts, whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_agents_side_by_side_are_those_alone(tmp_path):
    words = (*EWMA, "env=pendulum", "total_steps=512")
    both = weights_of(train(tmp_path / "both", *words, "num_seeds=2"))
    for name, x in weights_of(train(tmp_path / "one", *words, "seed=1")).items():
        assert_close(both[name][1], x[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_it_is_what_it_is_uncompiled(tmp_path):
    words = (*EWMA, "num_seeds=2", "optimizer.lr=1e-3")
    eager, compiled = train(tmp_path / "a", *words), train(tmp_path / "b", *words, "compile=true")
    for name, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[name], x, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_cartpole_is_learnt(tmp_path):
    train(tmp_path, "algo=ppo_ewma", "env=cartpole", "tuned=ppo_ewma_cartpole", "total_steps=30_000")
    assert last_metrics(tmp_path)["episodic_return"] > 80


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.ewma_decay=1\.0: must lie in \[0, 1\)"):
        build.check(make_config("algo=ppo_ewma", "algo.ewma_decay=1"))
    with pytest.raises(ObjectiveError, match=r"policy\.average: there is none; `average_decay` of the objective"):
        _ = Policy(AsObserved(), {}).average
