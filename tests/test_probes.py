"""What is learnt in environments whose answer is known."""

import probes  # noqa: F401
import pytest
import torch
from helpers import make_trainer
from torch.testing import assert_close

SETTINGS = (
    "env.num_envs=4",
    "algo.rollout_steps=32",
    "algo.epochs=8",
    "algo.minibatches=4",
    "optimizer.lr=[5e-3,0]",
    "network.torso.hidden=[16]",
)


def learn(folder, id, *overrides, updates=24, algo="ppo"):
    steps = updates * 4 * 32
    trainer = make_trainer(folder, f"algo={algo}", f"env.id={id}-v0", f"total_steps={steps}", *SETTINGS, *overrides)
    trainer.train(False)
    return trainer.learner


def value(learner, x):
    with torch.no_grad():
        return learner.policy(torch.tensor([[[float(x)]]]))[1].item()


def test_constant_reward(tmp_path):
    assert value(learn(tmp_path, "ConstantReward"), 0) == pytest.approx(1, abs=0.02)


def test_two_steps_are_discounted(tmp_path):
    learner = learn(tmp_path, "TwoSteps", "gae.gamma=0.5")
    assert value(learner, 1) == pytest.approx(1, abs=0.05)
    assert value(learner, -1) == pytest.approx(0.5, abs=0.05)


def test_value_depends_on_the_observation(tmp_path):
    learner = learn(tmp_path, "ObservedReward")
    assert [value(learner, x) for x in (-1, 1)] == pytest.approx([-1, 1], abs=0.05)


@pytest.mark.few(2)
@pytest.mark.parametrize("algo", ["ppo", "apo", "apo_ce", "ppo_kl", "spo", "sil", "rapid_bc"])
def test_action_must_match(tmp_path, algo):
    learner = learn(tmp_path, "MatchingAction", algo=algo)
    with torch.no_grad():
        probabilities = learner.policy(torch.tensor([[[-1.0], [1.0]]]))[0].softmax(-1)[0]
    assert probabilities[0, 0] > 0.95
    assert probabilities[1, 1] > 0.95


def test_time_limit_is_bootstrapped_through(tmp_path):
    # V = 1 + γ V
    assert value(learn(tmp_path, "Endless", "gae.gamma=0.5"), 0) == pytest.approx(2, abs=0.05)


def test_time_limit_taken_for_an_end_is_worth_less(tmp_path):
    # Monte Carlo values of the five steps: 1.9375, 1.875, 1.75, 1.5, 1; their mean is 1.6125
    learner = learn(tmp_path, "Endless", "gae.gamma=0.5", "gae.lam=1", "gae.bootstrap_truncation=false")
    assert value(learner, 0) == pytest.approx(1.6125, abs=0.08)


def test_dummy_rows_teach_nothing(tmp_path):
    # every third row is a dummy whose observation, .5, is seen nowhere else; from V(.5) = 0 + V(0) its return, were it
    # not masked, would be 1.5 too, and the critic, which is linear here, would be flat. Masked, nothing pins V(.5):
    # the weight on the observation gets no gradient at all, as all other observations are 0
    settings = ("gae.gamma=1", "network.torso.hidden=[]", "algo.max_grad_norm=null")
    trainer = make_trainer(tmp_path, "env.id=FinalAlarm-v0", "total_steps=5120", *SETTINGS, *settings)
    before = {k: v.clone() for k, v in trainer.learner.tensors().items()}
    trainer.train(False)
    after = trainer.learner.tensors()
    assert_close(after["critic_head.weight"], before["critic_head.weight"], atol=0, rtol=0)
    assert_close(after["actor_head.weight"], before["actor_head.weight"], atol=0, rtol=0)
    assert after["critic_head.bias"].item() == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("algo", [pytest.param("ppo", marks=pytest.mark.slow), "apo"])
def test_continuous_mean_moves_to_the_target(tmp_path, algo):
    learner = learn(tmp_path, "Target", "network.log_std_init=-1", algo=algo)
    with torch.no_grad():
        assert learner.policy(torch.zeros(1, 1, 1))[0][0, 0, 0].item() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("algo", [pytest.param("ppo", marks=pytest.mark.slow), "apo"])
def test_multidiscrete_observations_and_actions(tmp_path, algo):
    learner = learn(tmp_path, "TwoSwitches", algo=algo)
    shown = torch.tensor([[[i, j] for i in range(2) for j in range(3)]])
    with torch.no_grad():
        params, _ = learner.policy(shown)
    assert torch.equal(learner.groups[0].network.distribution.mode(params), shown)
