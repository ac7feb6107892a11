"""Best-episode APO: L_PPO + c · E_{s ~ best episode}[ KL(π*(·|s) ‖ π_θ(·|s)) ], by hand and in training."""

import math

import numpy as np
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
    record,
    records,
    resumed,
    train,
    weights_of,
)

from rlexp import build, parts
from rlexp.algos.apo import APO
from rlexp.algos.episode_memory import MemoryRows
from rlexp.algos.ppo import PPO
from rlexp.data import RunSpec
from rlexp.errors import ConfigError
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


@pytest.mark.few(2)
@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_apo_with_coefficient_zero_is_ppo_bit_for_bit(tmp_path, env, num_seeds):
    settings = (*SMALL, f"env={env}", f"num_seeds={num_seeds}")
    ppo = train(tmp_path / "ppo", "algo=ppo", *settings)
    apo = train(tmp_path / "apo", "algo=apo", "algo.anchor_coef=0", *settings)
    assert have_same_weights(ppo, apo)
    anchored = train(tmp_path / "anchored", "algo=apo", "algo.anchor_coef=1", *settings)
    assert env == "pendulum" or not have_same_weights(ppo, anchored)  # no episode of Pendulum ends so soon


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


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (("algo.anchor_share=true",), "algo.anchor_share=True: .* population=1 has one; use population=2 or more"),
        (("algo.anchor_half_life=0",), "algo.anchor_half_life=0.*: must be a positive number of steps, or null"),
        (("algo.anchor_by=length",), "algo.anchor_by=length: .*return.*advantage"),
        (
            ("algo.anchor_by=advantage", "algo.anchor=random"),
            "algo.anchor_by=advantage: wants a score, and algo.anchor=random ranks by a draw",
        ),
        (
            ("algo.anchor_half_life=100", "algo.anchor=random"),
            "algo.anchor_half_life=100.0: wants a score, and algo.anchor=random",
        ),
        (("algo.anchor_by=advantage", "algo.gamma=2"), r"algo.gamma=2.*: .*anchor_by=advantage.* \[0, 1\]"),
        (("algo.anchor_by=advantage", "algo.gamma=null"), r"algo.gamma=None: .*anchor_by=advantage.* \[0, 1\]"),
    ],
)
def test_settings_of_the_anchor_that_do_not_fit_are_refused_in_one_line(settings, line):
    with pytest.raises(ConfigError, match=line) as refused:
        build.check(make_config("algo=apo", *settings))
    assert "\n" not in str(refused.value)


def test_the_advantage_of_an_episode_is_discounted_as_the_returns_are():
    algo = parts.build_algorithm(make_config("algo=apo", "algo.anchor_by=advantage", "gae.gamma=0.7"))
    algo.prepare(RunSpec(1, 1, [AgentStreams.make(0, CPU)], CPU))
    assert algo.advantages.gamma == 0.7


def test_the_anchor_by_advantage_is_the_episode_that_the_critic_expected_least():
    algo = APO(anchor_by="advantage", gamma=1.0, anchor_rows=5)
    algo.prepare(RunSpec(1, 1, [AgentStreams.make(0, CPU)], CPU))
    rollout = HandMade()(np.array([5.0, 0.0, 3.0])[:, None, None], np.array([1, 0, 1])[:, None, None])
    rollout.values = torch.tensor([6.0, 0.0, 1.0]).reshape(1, 3, 1)  # 5 − 6 = −1 of row 0; 3 − 1 = 2 of row 2
    metrics = algo.observe(rollout)
    assert metrics["anchor_return"].item() == 3
    assert metrics["anchor_score"].item() == 2
    assert set(algo.replay(2).obs.flatten().tolist()) == {2.0}


def test_a_random_anchor_is_of_the_agents_stream_alone():
    def anchors(agents):
        algo = APO(anchor="random", top_k=3)
        algo.prepare(RunSpec(len(agents), 1, [AgentStreams.make(k, CPU) for k in agents], CPU))
        rewards = np.broadcast_to(np.arange(40.0)[:, None, None], (40, len(agents), 1))
        algo.observe(HandMade(len(agents))(rewards, np.broadcast_to([[[1]], [[0]]] * 20, rewards.shape)))
        return algo.memory.returns.tolist()

    both = anchors([3, 4])
    assert both == anchors([3]) + anchors([4])
    assert both[0] != both[1]


def test_a_random_anchor_of_a_version_without_scores_gives_way_as_often_as_one_of_now():
    replaced, streams = 0, [AgentStreams.make(0, CPU)]
    for _ in range(400):
        algo, other = APO(anchor="random", top_k=2), APO(anchor="random", top_k=2)
        for each in (algo, other):
            each.prepare(RunSpec(1, 1, streams, CPU))
        make = HandMade()
        algo.observe(make(np.full((5, 1, 1), 9.0), np.array([1, 0, 1, 0, 1])[:, None, None]))  # three episodes
        state = algo.state_dict()
        del state["memory"]["arrays"]["scores"]
        other.load_state_dict(state)
        other.observe(make(np.zeros((2, 1, 1)), np.array([0, 1])[:, None, None]))
        replaced += int((other.memory.returns == 0).sum())
    assert abs(replaced - 200) < 40  # two of four episodes are kept; standard deviation 10


POPULATION = (*SMALL, "env=cartpole", "log_every=1")


def test_populations_without_a_shared_anchor_are_seeds_bit_for_bit(tmp_path):
    together = train(tmp_path / "a", "algo=apo", *POPULATION, "num_seeds=2", "population=2")
    seeds = train(tmp_path / "b", "algo=apo", *POPULATION, "num_seeds=4")
    assert together.seeds == seeds.seeds == [0, 1, 2, 3]
    assert have_same_weights(together, seeds)
    assert records(tmp_path / "a") == records(tmp_path / "b")


def test_agents_share_an_anchor_within_their_population_and_no_other(tmp_path):
    words = ("algo=apo", "algo.anchor_share=true", *POPULATION, "population=2")
    both = train(tmp_path / "both", *words, "num_seeds=2")
    for first in (0, 2):
        alone = train(tmp_path / str(first), *words, f"seed={first}")
        for name, x in weights_of(alone).items():
            torch.testing.assert_close(x, weights_of(both)[name][first : first + 2], rtol=2e-3, atol=2e-4)
    memory = both.algo.memory
    assert memory.holder.tolist()[0] == memory.holder.tolist()[1]
    ours, theirs = (last_metrics(tmp_path / "both", seed) for seed in (0, 1))
    assert ours["anchor_return"] == theirs["anchor_return"] == memory.returns[:2].max()
    assert ours["anchor_holder"] == theirs["anchor_holder"] == memory.returns[:2, 0].argmax()
    assert 0 <= ours["anchor_held"] <= ours["step"]
    control = train(tmp_path / "control", "algo=apo", *POPULATION, "num_seeds=2", "population=2")
    assert not have_same_weights(both, control)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("algo.anchor_half_life=300",), marks=pytest.mark.slow),
        ("algo.anchor_by=advantage", "algo.top_k=3"),
    ],
)
def test_a_resumed_run_with_a_shared_anchor_is_the_uninterrupted_one(tmp_path, more):
    words = ("algo=apo", "algo.anchor_share=true", *POPULATION, "num_seeds=2", "population=2", *more)
    whole = train(tmp_path / "whole", *words)
    assert have_same_weights(resumed(tmp_path / "parts", *words), whole)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_a_shared_anchor_outlives_an_agent_that_diverges(tmp_path):
    words = ("algo=apo", "algo._target_=diverging.SpoilsAPO", "algo.anchor_share=true", *POPULATION, "population=3")
    trainer = train(tmp_path, *words, "++algo.victim=1", "++algo.since=0.5")
    assert trainer.alive.tolist() == [True, False, True]
    assert all(x.isfinite().all() for x in weights_of(trainer).values())
    retired_at = record(tmp_path)["diverged"]["1"]["step"]
    assert trainer.algo.memory.recorded_at[1].max() <= retired_at  # it acts on, and nothing of that is remembered
    assert all(math.isfinite(x) for x in last_metrics(tmp_path, 2).values())
