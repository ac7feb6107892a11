"""Exploration scores of episodes, by hand, and which state–action pairs are kept and drawn."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import HandMade, same
from torch.testing import assert_close

from rlexp.algos.ranking_buffer import RankingBuffer
from rlexp.data import RunSpec
from rlexp.plain.by_agent import join_agents, select_agents
from rlexp.seeding import AgentStreams

CPU = torch.device("cpu")


def buffer(agents=1, envs=1, first_seed=0, size=64, max_steps=32, weights=(1.0, 0.0, 0.0)):
    streams = [AgentStreams.make(first_seed + seed, CPU) for seed in range(agents)]
    return RankingBuffer(RunSpec(agents, envs, streams, CPU), size=size, max_steps=max_steps, weights=weights)


def one(*x):
    """(T, 1, 1) of one environment."""
    return np.array(x, float)[:, None, None]


def kept(b, agent=0):
    """Observation, which is a time stamp, -> score, of the pairs kept."""
    held = b.scores[agent] > -np.inf
    stamps = b.kept["obs"].unflatten(0, b.scores.shape)[agent].flatten(1)[:, 0].numpy()
    return dict(zip(stamps[held].tolist(), b.scores[agent][held].tolist(), strict=True))


def scores_of(observations, *episodes, weights):
    """Scores of episodes after one another; each is a list of observations, rewards are 1."""
    b, make, found = buffer(weights=weights), HandMade(), []
    for states in episodes:
        # the reset before all but the first shows another state, which does not count
        rewards, done = [1.0] * len(states), [0] * (len(states) - 1) + [1]
        states = states if not found else [99, *states]
        rewards, done = (rewards, done) if not found else ([0.0, *rewards], [0, *done])
        rollout = make(one(*rewards), one(*done))
        rollout.obs = observations(states)
        b.add(rollout)
        found.append(b.scores[b.scores > -np.inf].tolist()[-1])
        b.scores[:] = -np.inf  # so that the next is kept, whatever its score
    return found


def integers(states):
    return torch.tensor(states, dtype=torch.uint8)[None, :, None, None]


def floats(states):
    return torch.tensor([[x, 0.0] for x in states])[None, :, None]


EPISODES = ([0, 1, 0, 2], [0, 0])


def test_the_score_of_returns():
    assert scores_of(integers, *EPISODES, weights=(2.0, 0.0, 0.0)) == [8, 4]


def test_the_local_score_is_the_share_of_distinct_states():
    assert scores_of(integers, *EPISODES, weights=(0.0, 1.0, 0.0)) == [3 / 4, 1 / 2]


def test_the_global_score_is_of_visits_over_training():
    # first N(0) = 2, N(1) = N(2) = 1; then N(0) = 4
    first = (2 / math.sqrt(2) + 2) / 4
    assert scores_of(integers, *EPISODES, weights=(0.0, 0.0, 1.0)) == pytest.approx([first, 1 / 2])


def test_of_floats_the_local_score_is_the_deviation_and_there_is_no_global_one():
    # mean of 0, 1, 2 is 1: σ² = ⅔; the second dimension is constant: half of it
    assert scores_of(floats, [0, 1, 2], [3, 3], weights=(0.0, 1.0, 7.0)) == pytest.approx([math.sqrt(2 / 3) / 2, 0])


def test_the_score_is_the_weighted_sum():
    found = scores_of(integers, *EPISODES, weights=(1.0, 10.0, 100.0))
    assert found == pytest.approx([4 + 7.5 + 25 * (2 / math.sqrt(2) + 2), 2 + 5 + 50])


def test_episodes_that_rank_highest_are_kept():
    b, make = buffer(size=5), HandMade()
    # rows 0 and 1 are an episode of return 3, row 2 a reset, rows 3 and 4 one of return 5
    b.add(make(one(1.0, 2.0, 0.0, 2.0, 3.0), one(0, 1, 0, 0, 1)))
    assert kept(b) == {0: 3, 1: 3, 3: 5, 4: 5}
    # row 5 is a reset, row 6 one of return 1, for which there is a place; row 7 a reset, rows 8 to 10 one of return 4
    b.add(make(one(0.0, 1.0, 0.0, 4.0, 0.0, 0.0), one(0, 1, 0, 0, 0, 1)))
    assert kept(b) == {3: 5, 4: 5, 8: 4, 9: 4, 10: 4}
    b.add(make(one(0.0, 3.0), one(0, 1)))  # less than all
    assert kept(b) == {3: 5, 4: 5, 8: 4, 9: 4, 10: 4}
    # row 13 is a reset, rows 14 and 15 are one of return 4 again: two of its equals make room
    b.add(make(one(0.0, 0.0, 4.0), one(0, 0, 1)))
    assert kept(b) == {3: 5, 4: 5, 8: 4, 14: 4, 15: 4}


def test_of_equal_scores_the_newest_are_kept():
    b, make = buffer(size=6), HandMade()
    b.add(make(one(1.0, 1.0), one(0, 1)))
    for _ in range(4):  # a reset, and another episode of return 2: rows 3 and 4, 6 and 7, 9 and 10, 12 and 13
        b.add(make(one(0.0, 1.0, 1.0), one(0, 0, 1)))
        state, b = copy.deepcopy(b.state_dict()), buffer(size=6)
        b.load_state_dict(state)
    assert sorted(kept(b)) == [6, 7, 9, 10, 12, 13]


def test_an_episode_that_does_not_fit_keeps_its_last_pairs():
    b, make = buffer(size=3), HandMade()
    b.add(make(one(9.0, 0.0, 7.0, 1.0), one(1, 0, 0, 1)))  # row 0 of 9; rows 2 and 3 of 8
    assert kept(b) == {0: 9, 2: 8, 3: 8}
    b.add(make(one(0.0, 8.5, 0.0, 0.0, 0.0), one(0, 0, 0, 0, 1)))  # rows 5 to 8
    assert kept(b) == {0: 9, 7: 8.5, 8: 8.5}


@pytest.mark.parametrize("cuts", [(8,), (3, 8), (1, 2, 4, 7, 8)])
@pytest.mark.parametrize("max_steps", [3, 5, 8, 20])
def test_episodes_across_rollouts_keep_their_last_rows(cuts, max_steps):
    b, make, start = buffer(max_steps=max_steps), HandMade(), 0
    rewards, done = one(*[1.0] * 8), one(0, 1, 0, 0, 0, 0, 0, 1)
    rewards[2] = 0
    for cut in cuts:
        b.add(make(rewards[start:cut], done[start:cut]))
        start = cut
    assert kept(b) == {0: 2, 1: 2} | {float(t): 5.0 for t in range(8 - min(5, max_steps), 8)}


def test_pairs_are_drawn_uniformly_once_there_are_any():
    b, make = buffer(size=8), HandMade()
    b.add(make(one(1.0), one(0)))
    assert b.sample(2, 3).weights.sum() == 0
    assert b.summary()["score"].isnan().all()
    b.add(make(one(1.0, 1.0), one(0, 1)))
    drawn = b.sample(50, 60)
    assert drawn.obs.shape == (1, 50, 60, 1)
    assert (drawn.weights == 1).all()
    assert torch.equal(drawn.actions.float(), drawn.obs[..., 0])
    assert_close(torch.bincount(drawn.actions.flatten()) / 3000, torch.full((3,), 1 / 3), atol=0.04, rtol=0)
    assert {name: x.item() for name, x in b.summary().items()} == {"rows": 3, "score": 3}


def test_runs_join_whether_an_episode_has_finished_in_them_or_not():
    states = []
    for done in (0, 1):
        b, rollout = buffer(), HandMade()(one(1.0, 1.0), one(0, done))
        rollout.obs = integers([3, 4])
        b.add(rollout)
        states.append(b.state_dict())
    both = buffer(2)
    both.load_state_dict(join_agents(states))
    assert both.visits.sum(1).tolist() == [0, 2]


def test_agents_do_not_share_and_state_is_restored():
    rewards = np.random.default_rng(0).integers(0, 5, (30, 2, 3)).astype(float)
    done = np.random.default_rng(1).random((30, 2, 3)) < 0.15
    done &= ~np.concatenate([np.zeros((1, 2, 3), bool), done[:-1]])  # a reset never ends an episode
    rewards[1:][done[:-1]] = 0
    both, make = buffer(2, 3, size=20, weights=(1.0, 1.0, 1.0)), HandMade(2, 3)
    alone, single = buffer(1, 3, first_seed=1, size=20, weights=(1.0, 1.0, 1.0)), HandMade(1, 3)

    def rollouts(part):
        rollout, other = make(rewards[part], done[part]), single(rewards[part, 1:], done[part, 1:])
        rollout.obs = rollout.obs.long() % 7
        other.obs, other.actions = rollout.obs[1:], rollout.actions[1:]
        return rollout, other

    for part in (slice(0, 9), slice(9, 18)):
        rollout, other = rollouts(part)
        both.add(rollout)
        alone.add(other)
    assert same(select_agents(both.state_dict(), slice(1, 2), 2), alone.state_dict())
    assert torch.equal(both.sample(2, 50).obs[1], alone.sample(2, 50).obs[0])

    copied = buffer(2, 3, size=20, weights=(1.0, 1.0, 1.0))
    copied.load_state_dict(copy.deepcopy(both.state_dict()))
    for new, old in zip(copied.spec.streams, both.spec.streams, strict=True):
        new.load_state_dict(old.state_dict())
    last = rollouts(slice(18, 30))[0]
    for b in (both, copied):
        b.add(last)
    assert same(both.state_dict(), copied.state_dict())
    assert all(map(torch.equal, both.sample(2, 50), copied.sample(2, 50)))
