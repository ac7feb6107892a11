"""Best-episode APO: L_PPO + c · E_{s ~ best episode}[ KL(π*(·|s) ‖ π_θ(·|s)) ], by hand and in training."""

import math

import numpy as np
import pytest
import torch
from helpers import AsObserved, HandMade, for_one_agent, make_batch, make_trainer, same_weights, train

from rlexp.algos.apo import APO
from rlexp.algos.episode_memory import MemoryRows
from rlexp.algos.ppo import PPO
from rlexp.data import RunSpec
from rlexp.networks.actor_critic import Policy
from rlexp.seeding import AgentStreams

CPU = torch.device("cpu")
SMALL = ("total_steps=1536", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")
LOG3 = math.log(3)

# three rows of the best episode, of which the last has no weight; logits (log 3, 0) are probabilities (¾, ¼)
#   row 1: π* = (¾, ¼), π = (½, ½)
#   row 2: π* = (½, ½), π = (⅕, ⅘)
ANCHOR = MemoryRows(
    obs=torch.tensor([[0.0, 0.0, 0.0], [0.0, math.log(4), 0.0], [-9.0, 9.0, 0.0]]),  # of which AsObserved makes π
    actions=torch.tensor([0, 1, 0]),
    dist_params=torch.tensor([[LOG3, 0.0], [0.0, 0.0], [9.0, -9.0]]),
    weights=torch.tensor([1.0, 1.0, 0.0]),
)
# KL(π* ‖ π): ¾ log ¾/½ + ¼ log ¼/½ = ¾ log 1.5 − ¼ log 2 ; ½ log ½/⅕ + ½ log ½/⅘ = ½ log 25/16 = log 5/4
FORWARD = [0.75 * math.log(1.5) - 0.25 * math.log(2), math.log(5 / 4)]
# KL(π ‖ π*): ½ log ½/¾ + ½ log ½/¼ = ½ log 4/3 ; ⅕ log ⅕/½ + ⅘ log ⅘/½ = ⅘ log 1.6 − ⅕ log 2.5
REVERSE = [0.5 * math.log(4 / 3), 0.8 * math.log(1.6) - 0.2 * math.log(2.5)]

# rows of the rollout, on which the loss of PPO is something
ROLLOUT = {
    "obs": [[LOG3, 0.0, 1.0], [0.0, 0.0, 2.0]],
    "actions": [0, 1],
    "advantages": [1.0, -2.0],
    "returns": [2.0, 0.0],
}


def loss_of(algo, batch):
    return for_one_agent(algo).loss(Policy(AsObserved(), {}), batch)


@pytest.mark.parametrize("coef", [1.0, 2.0, 0.25])
@pytest.mark.parametrize(("direction", "divergences"), [("forward", FORWARD), ("reverse", REVERSE)])
def test_the_term_is_the_mean_divergence_on_rows_of_the_best_episode(coef, direction, divergences):
    batch = make_batch(**ROLLOUT, replay=ANCHOR)
    loss, metrics = loss_of(APO(anchor_coef=coef, direction=direction), batch)
    plain, of_ppo = loss_of(PPO(), batch)
    assert metrics["anchor_kl"].item() == pytest.approx(sum(divergences) / 2)
    assert loss.item() == pytest.approx(plain.item() + coef * sum(divergences) / 2)
    assert metrics.keys() - of_ppo.keys() == {"anchor_kl"}
    assert all(metrics[name] == of_ppo[name] for name in of_ppo)  # they do not hear of it


@pytest.mark.parametrize(("direction", "divergences"), [("forward", FORWARD), ("reverse", REVERSE)])
def test_each_row_has_its_own_divergence(direction, divergences):
    for row in (0, 1):
        batch = make_batch(**ROLLOUT, replay=ANCHOR._replace(weights=torch.eye(3)[row]))
        _, metrics = loss_of(APO(direction=direction), batch)
        assert metrics["anchor_kl"].item() == pytest.approx(divergences[row])


def test_the_term_moves_the_policy_to_that_of_the_best_episode():
    obs = ANCHOR.obs.clone().requires_grad_()
    _, metrics = loss_of(APO(), make_batch(**ROLLOUT, replay=ANCHOR._replace(obs=obs)))
    metrics["anchor_kl"].backward()
    # ∂KL(π* ‖ π)/∂logits is π − π*: (½ − ¾, ½ − ¼) and (⅕ − ½, ⅘ − ½), halved by the mean; values have no part
    assert obs.grad.flatten().tolist() == pytest.approx([-1 / 8, 1 / 8, 0, -0.15, 0.15, 0, 0, 0, 0])


def test_there_is_no_term_without_a_row_of_weight():
    batch = make_batch(**ROLLOUT, replay=ANCHOR._replace(weights=torch.zeros(3)))
    loss, metrics = loss_of(APO(anchor_coef=2.0), batch)
    assert metrics["anchor_kl"].item() == 0
    assert loss.item() == loss_of(PPO(), batch)[0].item()


def test_rows_have_weight_once_an_episode_has_finished():
    algo = APO(anchor_rows=5)
    algo.prepare(RunSpec(1, 1, [AgentStreams.make(0, CPU)], CPU))
    rollouts = HandMade()  # observations are time stamps, parameters (stamp, −stamp)

    def steps(rewards, done):
        algo.observe(rollouts(np.array(rewards)[:, None, None], np.array(done)[:, None, None]))
        return algo.replay(3)

    before = steps([1.0, 1.0], [0, 0])
    assert before.weights.shape == (1, 3, 5)
    assert (before.weights == 0).all()
    after = steps([1.0, 9.0], [1, 0])  # rows 0, 1 and 2 are an episode of return 3
    assert (after.weights == 1).all()
    assert set(after.obs.flatten().tolist()) == {0.0, 1.0, 2.0}
    assert torch.equal(after.dist_params, torch.cat([after.obs, -after.obs], -1))  # as the policy was when it acted
    # row 3 is the dummy; rows 4 and 5 are an episode of return 10, which is better, and row 6 the next dummy
    better = steps([4.0, 6.0, 0.0, 1.0], [0, 1, 0, 1])  # the one after, of return 1, is worse
    assert set(better.obs.flatten().tolist()) == {4.0, 5.0}


def test_coefficient_zero_is_the_loss_of_ppo_and_its_gradient():
    found = []
    for algo in (PPO(), APO(anchor_coef=0.0)):
        obs = torch.tensor(ROLLOUT["obs"], requires_grad=True)
        loss, _ = loss_of(algo, make_batch(**ROLLOUT | {"obs": obs}, replay=ANCHOR))
        loss.backward()
        found.append((loss.detach(), obs.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_apo_with_coefficient_zero_is_ppo_bit_for_bit(tmp_path, env, num_seeds):
    settings = (*SMALL, f"env={env}", f"num_seeds={num_seeds}")
    ppo = train(tmp_path / "ppo", "algo=ppo", *settings)
    apo = train(tmp_path / "apo", "algo=apo", "algo.anchor_coef=0", *settings)
    assert same_weights(ppo, apo)
    anchored = train(tmp_path / "anchored", "algo=apo", "algo.anchor_coef=1", *settings)
    assert env == "pendulum" or not same_weights(ppo, anchored)  # no episode of Pendulum ends so soon


def test_apo_loss_by_hand(tmp_path):
    # the same with a network as it is trained: π* = (¾, ¼); π = (½, ½): KL = ¾ log 1.5 + ¼ log ½
    trainer = make_trainer(tmp_path, "algo=apo", "algo.anchor_coef=2")
    network = trainer.learner.groups[0].network
    for parameter in network.actor_head.parameters():
        parameter.data.zero_()
    policy = Policy(network, {})
    obs = torch.randn(6, 4)
    params, values = network(obs)
    batch = make_batch(
        obs=obs,
        dist_params=params,
        log_probs=policy.distribution.log_prob(params, torch.zeros(6, dtype=torch.int64)),
        values=values,
        advantages=torch.randn(6),
        returns=torch.randn(6),
        replay=MemoryRows(torch.randn(2, 4), torch.zeros(2), torch.tensor([[LOG3, 0.0]] * 2), torch.ones(2)),
    )
    bound = for_one_agent(trainer.algo)
    loss, metrics = bound.loss(policy, batch)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert metrics["anchor_kl"].item() == pytest.approx(kl, rel=1e-5)
    plain, _ = super(type(bound), bound).loss(policy, batch)
    assert (loss - plain).item() == pytest.approx(2 * kl, rel=1e-4)
    bound.direction = "reverse"  # KL((½, ½) ‖ (¾, ¼)) = ½ log ⅔ + ½ log 2
    assert bound.loss(policy, batch)[1]["anchor_kl"].item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)
    absent = batch._replace(replay=batch.replay._replace(weights=torch.zeros(2)))
    assert bound.loss(policy, absent)[0].item() == plain.item()
