from functools import partial

import numpy as np
import torch
from helpers import HandMade

from rlexp.envs import Environment
from rlexp.networks import MLP
from rlexp.networks.actor_critic import ActorCritic
from rlexp.seeding import AgentStreams, env_seeds
from rlexp.training.collector import Collector

CPU = torch.device("cpu")


def one(*xs):
    return np.array(xs)[:, None, None]  # (T, A = 1, E = 1)


def test_episodes_across_rollouts_and_dummies():
    make = HandMade()
    first = make(one(1.0, 2.0, 0.0, 5.0), one(0, 1, 0, 0))  # row 2 is the dummy
    episodes = first.episodes
    assert (episodes.starts.tolist(), episodes.ends.tolist()) == ([0], [1])
    assert (episodes.returns.tolist(), episodes.lengths.tolist()) == ([3.0], [2])
    assert first.weights.flatten().tolist() == [1, 1, 0, 1]
    assert first.steps.tolist() == [3]
    # the open episode brings 5 of return and one step along, ends at row 0; row 1 is a dummy; the next takes rows 2-3
    second = make(one(1.0, 0.0, 2.0, 2.0), one(1, 0, 0, 1))
    assert second.open_lengths.tolist() == [[1]]
    assert second.episodes.returns.tolist() == [6.0, 4.0]
    assert second.episodes.lengths.tolist() == [2, 2]
    assert second.episodes.starts.tolist() == [0, 2]
    # an episode that ended with the rollout leaves its dummy to the next
    third = make(one(0.0, 7.0), one(0, 1))
    assert third.weights.flatten().tolist() == [0, 1]
    assert (third.episodes.returns.tolist(), third.episodes.lengths.tolist()) == ([7.0], [1])
    assert third.episodes.starts.tolist() == [1]


def test_episodes_are_told_apart_by_agent_and_environment_and_come_in_time_order():
    rewards = np.arange(12.0).reshape(3, 2, 2)
    rewards[1, 1, 0] = 0  # a dummy's
    done = np.zeros((3, 2, 2), bool)
    done[1, 0, 1] = done[0, 1, 0] = done[2, 1, 0] = True
    episodes = HandMade(2, 2)(rewards, done).episodes
    assert episodes.ends.tolist() == [0, 1, 2]
    assert episodes.agents.tolist() == [1, 0, 1]
    assert episodes.envs.tolist() == [0, 1, 0]
    # agent 1 env 0: 2 | then dummy at row 1, 10 at row 2; agent 0 env 1: 1 + 5
    assert episodes.returns.tolist() == [2.0, 6.0, 10.0]


def collect(num_seeds, seed=0, steps=40):
    environment = Environment(id="CartPole-v1", backend="gymnasium", num_envs=3)
    streams = [AgentStreams.make(seed + k, CPU) for k in range(num_seeds)]
    envs, obs = environment.start([env_seeds(seed + k, 3) for k in range(num_seeds)])
    torch.manual_seed(0)
    policy = ActorCritic(envs.single_observation_space, envs.single_action_space, MLP)
    collector = Collector(envs, obs, policy.distribution, streams, num_envs=3, num_steps=steps, device=CPU)

    def act(slot):
        params, values = policy(slot.obs)
        slot.dist_params.copy_(params)
        slot.values.copy_(values)
        slot.actions.copy_(policy.distribution.sample(params, slot.noise))

    return policy, collector.collect([partial(act, slot) for slot in collector.slots])


def test_recorded_parameters_are_those_of_the_policy_that_acted():
    policy, rollout = collect(2)
    params, values = policy(rollout.obs)
    torch.testing.assert_close(rollout.dist_params, params)
    torch.testing.assert_close(rollout.values, values)
    torch.testing.assert_close(rollout.log_probs, policy.distribution.log_prob(params, rollout.actions))


def test_dummy_rows_follow_every_end_and_start_the_next_episode():
    _, rollout = collect(2)
    done = rollout.terminated | rollout.truncated
    assert done.any()
    assert torch.equal(rollout.weights[:, 1:] == 0, done[:, :-1])
    starts = rollout.obs[:, 1:][rollout.weights[:, :-1] == 0]  # the observation after a dummy step
    assert starts.abs().max() <= 0.05  # CartPole's initial states
    assert (rollout.rewards[rollout.weights == 0] == 0).all()


def test_an_agent_in_a_batch_collects_what_it_collects_alone():
    _, batch = collect(3, seed=5)
    _, alone = collect(1, seed=7)
    assert torch.equal(batch.obs[2], alone.obs[0])
    assert torch.equal(batch.actions[2], alone.actions[0])


def test_what_is_paid_in_a_dummy_step_is_nobodys():
    make = HandMade()
    # 1 + 2 | the dummy's 100 | 4 ; the dummy after the last row is the next rollout's first, and pays NaN
    episodes = make(one(1.0, 2.0, 100.0, 4.0), one(0, 1, 0, 1)).episodes
    assert episodes.returns.tolist() == [3.0, 4.0]
    assert make(one(float("nan"), 5.0), one(0, 1)).episodes.returns.tolist() == [5.0]
