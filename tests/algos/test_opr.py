"""OPR: what is rewarded and what is cloned, by hand; and in training."""

import math

import pytest
import torch
from helpers import (
    AsObserved,
    HandMade,
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
from torch import nn
from torch.testing import assert_close

from rlexp import build
from rlexp.algos.episode_memory import MemoryRows
from rlexp.algos.opr import OPR
from rlexp.algos.ppo import PPO
from rlexp.checks.synthetic import EachNetwork
from rlexp.data import RunSpec
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import Policy, attach
from rlexp.seeding import AgentStreams

SMALL = ("env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=2", "algo.minibatches=2", "total_steps=768")
OWN = ("algo=opr", *SMALL)
LOG3, LOG9 = math.log(3), math.log(9)


class Doubled(nn.Module):
    """Logits of the clone: twice those that AsObserved makes of the observation."""

    def forward(self, obs):
        return 2 * obs[..., :2]


def network():
    return attach(AsObserved(), {"good": Doubled()})


def test_what_the_good_episodes_would_do_rather_is_rewarded_and_its_reverse_is_not():
    spec = RunSpec(1, 1, [AgentStreams.make(0, torch.device("cpu"))], torch.device("cpu"))
    algo = OPR(shaping_coef=2.0, shaping_clip=0.15, rollout_steps=3)
    algo.prepare(spec)
    rollout = HandMade()([[[1.0]], [[1.0]], [[1.0]]], [[[False]], [[False]], [[True]]])
    # π_old (¾, ¼), π_good (9/10, 1/10): log 1.2 = .182 of the first action, clipped to .15; of the second log .4 < 0
    rollout.obs = torch.tensor([[LOG3, 0.0, 0.0], [LOG3, 0.0, 0.0], [0.1, 0.0, 0.0]])[None, :, None]
    rollout.actions = torch.tensor([0, 1, 0])[None, :, None]
    # of the third σ(.1) and σ(.2)
    old, good = (1 / (1 + math.exp(-x)) for x in (0.1, 0.2))
    rollout.log_probs = torch.tensor([0.75, 0.25, old]).log()[None, :, None]
    policies = EachNetwork([network()])
    assert algo.rewards(rollout, policies).rewards.abs().sum() == 0  # there is no good episode yet
    algo.observe(rollout)
    expected = [2 * 0.15, 0.0, 2 * math.log(good / old)]
    assert algo.rewards(rollout, policies).rewards.flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_policy_and_clone_are_both_pulled_to_the_good_actions():
    replay = MemoryRows(
        obs=torch.tensor([[LOG3, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]),
        actions=torch.tensor([0, 1, 1]),
        dist_params=torch.zeros(3, 2),
        weights=torch.tensor([1.0, 1.0, 0.0]),
    )
    batch = make_batch(obs=torch.zeros(1, 3), replay=replay)
    loss, metrics = for_one_agent(OPR(bc_coef=0.5)).loss(Policy(network(), {}), batch)
    bc = (-math.log(0.75) - math.log(0.5)) / 2  # by π_θ: ¾ and ½
    good = (-math.log(0.9) - math.log(0.5)) / 2  # by the clone: 9/10 and ½
    assert (metrics["bc_loss"].item(), metrics["good_loss"].item()) == pytest.approx((bc, good))
    plain = for_one_agent(PPO()).loss(Policy(AsObserved(), {}), batch)[0].item()
    assert loss.item() == pytest.approx(plain + 0.5 * bc + good)


def test_without_weights_the_policy_is_ppos(tmp_path):
    free = ("algo.max_grad_norm=null",)  # one norm would be of the clone's gradient, too
    ppo = train(tmp_path / "ppo", *SMALL, *free)
    opr = train(tmp_path / "opr", *OWN, *free, "algo.shaping_coef=0", "algo.bc_coef=0")
    assert have_same_weights(ppo, opr)


@pytest.mark.parametrize("env", ["cartpole", pytest.param("pendulum", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one_and_agents_are_those_alone(tmp_path, env):
    words = (*OWN, f"env={env}", "log_every=128")
    whole = train(tmp_path / "whole", *words, "num_seeds=2")
    assert have_same_weights(resumed(tmp_path / "parts", *words, "num_seeds=2"), whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    for name, x in weights_of(train(tmp_path / "one", *words, "seed=1")).items():
        assert_close(weights_of(whole)[name][1], x[0], rtol=1e-3, atol=1e-4)


def test_the_clone_learns_the_good_actions(tmp_path):
    trainer = make_trainer(tmp_path, *OWN, "optimizer.lr=1e-2", "log_every=1", "total_steps=3840")
    trainer.train(False)
    losses = last_metrics(tmp_path)
    assert losses["good_loss"] < 0.65 < math.log(2)  # of random actions log 2
    assert losses["shaping"] > 0


@pytest.mark.slow
def test_cartpole_is_learnt(tmp_path):
    train(tmp_path, "algo=opr", "env=cartpole", "tuned=opr_cartpole", "total_steps=30_000")
    assert last_metrics(tmp_path)["episodic_return"] > 80


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.shaping_clip=0\.0: must be positive"):
        build.check(make_config("algo=opr", "algo.shaping_clip=0"))
