"""A2C: L = −E[ log π_θ(a|s) A ] + c_v L_value − c_e H, by hand; and that its one step is PPO's special case."""

import math

import probes  # noqa: F401
import pytest
import torch
from helpers import (
    AsObserved,
    for_one_agent,
    have_same_weights,
    make_batch,
    make_trainer,
    records,
    resumed,
    train,
    weights_of,
)
from torch.testing import assert_close

from rlexp.algos.a2c import A2C
from rlexp.algos.ppo import PPO
from rlexp.networks.actor_critic import Policy

LOG3 = math.log(3)
SMALL = ("env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=1", "algo.minibatches=1")
# logits (log 3, 0) are probabilities (¾, ¼); the last row has no weight
ROWS = {
    "obs": torch.tensor([[LOG3, 0.0, 1.0], [0.0, 0.0, 2.0], [9.0, -9.0, 99.0]]),
    "actions": [0, 1, 1],
    "log_probs": torch.tensor([math.log(0.6), math.log(0.5), -80.0]),  # of an older policy: no matter which
    "advantages": [1.0, -2.0, 50.0],
    "returns": [2.0, 0.0, 1e6],
    "weights": [1.0, 1.0, 0.0],
}
POLICY_LOSS = -(math.log(0.75) - 2 * math.log(0.5)) / 2
VALUE_LOSS = 0.5 * (1 + 4) / 2
ENTROPY = (2 * math.log(2) - 0.75 * LOG3 + math.log(2)) / 2


def loss_of(algo, **changed):
    return for_one_agent(algo).loss(Policy(AsObserved(), {}), make_batch(**ROWS | changed))


def test_the_loss():
    loss, metrics = loss_of(A2C(vf_coef=0.5, ent_coef=0.1))
    assert metrics["policy_loss"].item() == pytest.approx(POLICY_LOSS)
    assert loss.item() == pytest.approx(POLICY_LOSS + 0.5 * VALUE_LOSS - 0.1 * ENTROPY)


def test_the_gradient_is_that_of_the_log_probability_whichever_policy_acted():
    obs = ROWS["obs"].clone().requires_grad_()
    loss_of(A2C(), obs=obs)[1]["policy_loss"].backward()
    # −A (1[a] − π) / 2: −(1 − ¾, −¼) / 2 and 2 · (−½, 1 − ½) / 2
    assert obs.grad[:, :2].flatten().tolist() == pytest.approx([-1 / 8, 1 / 8, -1 / 2, 1 / 2, 0, 0])


def test_the_clip_has_no_part_in_it():
    losses = [loss_of(A2C(clip_coef=clip))[0].item() for clip in (1e-3, 10.0)]
    assert losses[0] == losses[1]
    assert loss_of(PPO(clip_coef=1e-3))[0] != loss_of(PPO(clip_coef=10.0))[0]


@pytest.mark.few(4)
@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
@pytest.mark.parametrize("norm_adv", ["true", "false"])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_one_update_is_that_of_ppo_with_one_epoch_of_one_minibatch(tmp_path, env, norm_adv, optimizer):
    words = (*SMALL, f"env={env}", f"optimizer={optimizer}", f"algo.norm_adv={norm_adv}", "algo.ent_coef=0.01")
    words += ("total_steps=128", "num_seeds=2")
    a2c, ppo = (train(tmp_path / algo, f"algo={algo}", *words) for algo in ("a2c", "ppo"))
    before = weights_of(make_trainer(tmp_path / "before", "algo=a2c", *words))
    for name, theirs in weights_of(ppo).items():
        ours = weights_of(a2c)[name]
        # a step is about lr = 3e-4 or more in every weight that has a gradient
        assert_close(ours, theirs, rtol=0, atol=2e-6, msg=name)
        assert not torch.equal(ours, before[name])


def test_more_epochs_are_not_those_of_ppo(tmp_path):
    words = ("env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=4", "algo.minibatches=2", "total_steps=512")
    words += ("algo.norm_adv=true", "optimizer.lr=1e-2", "algo.clip_coef=0.05")
    a2c, ppo = (train(tmp_path / algo, f"algo={algo}", *words) for algo in ("a2c", "ppo"))
    assert any((x - weights_of(ppo)[name]).abs().max() > 1e-3 for name, x in weights_of(a2c).items())


def test_the_defaults_are_those_of_the_paper(tmp_path):
    algo = make_trainer(tmp_path, "algo=a2c").algo
    assert (algo.rollout_steps, algo.epochs, algo.minibatches, algo.norm_adv) == (5, 1, 1, False)
    assert {name: getattr(A2C(), name) for name in algo.shared()} == {n: getattr(algo, n) for n in algo.shared()}


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    words = ("algo=a2c", "env=cartpole", "num_seeds=2", "total_steps=640", "log_every=80")
    whole = train(tmp_path / "whole", *words)
    parts = resumed(tmp_path / "parts", *words)
    assert have_same_weights(parts, whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_agents_side_by_side_are_those_alone(tmp_path):
    words = ("algo=a2c", "env=cartpole", "total_steps=400")
    both = weights_of(train(tmp_path / "both", *words, "num_seeds=2"))
    for seed in (0, 1):
        alone = weights_of(train(tmp_path / str(seed), *words, f"seed={seed}"))
        for name, x in alone.items():
            assert_close(both[name][seed], x[0], rtol=1e-4, atol=1e-5)


def test_the_action_that_is_rewarded_is_learnt(tmp_path):
    words = ("env.id=MatchingAction-v0", "env.num_envs=8", "total_steps=12_800", "optimizer.lr=[5e-3,0]")
    trainer = train(tmp_path, "algo=a2c", "network.torso.hidden=[16]", *words)
    with torch.no_grad():
        probabilities = trainer.learner.policy(torch.tensor([[[-1.0], [1.0]]]))[0].softmax(-1)[0]
    assert probabilities[0, 0] > 0.95
    assert probabilities[1, 1] > 0.95
