"""What is remembered of transitions: their returns, by hand; for how long; and how often each is drawn."""

import copy

import numpy as np
import pytest
import torch
from helpers import HandMade, same
from torch.testing import assert_close

from rlexp.algos.transition_memory import TransitionMemory
from rlexp.data import RunSpec
from rlexp.plain.by_agent import select_agents
from rlexp.seeding import AgentStreams

CPU = torch.device("cpu")


def memory(agents=1, envs=1, first_seed=0, **settings):
    streams = [AgentStreams.make(first_seed + seed, CPU) for seed in range(agents)]
    given = {"size": 64, "gamma": 0.5, "bootstrap_truncation": True, "alpha": 0.0, "beta": 0.0} | settings
    return TransitionMemory(RunSpec(agents, envs, streams, CPU), **given)


def one(*x):
    """(T, 1, 1) of one environment."""
    return np.array(x, float)[:, None, None]


def known(m, agent=0, env=0):
    """Observation, which is a time stamp, -> return, of the rows that can be drawn."""
    found = m.known[agent, env]
    stamps = m.kept["obs"].unflatten(0, m.known.shape[:2])[agent, env, :, 0].numpy()
    return dict(zip(stamps[found].tolist(), m.returns[agent, env][found].tolist(), strict=True))


def test_returns_are_discounted_and_known_once_the_episode_has_ended():
    m, make = memory(), HandMade()
    m.add(make(one(1.0, 2.0), one(0, 0)))
    assert known(m) == {}
    assert m.sample(2, 3).weights.sum() == 0
    # row 2 ends it: R2 = 4, R1 = 2 + .5 · 4 = 4, R0 = 1 + .5 · 4 = 3; row 3 is the reset, row 4 a new episode
    m.add(make(one(4.0, 0.0, 8.0), one(1, 0, 0)))
    assert known(m) == {0: 3, 1: 4, 2: 4}
    # rows 5 and 6: R6 = 2, R5 = 1, R4 = 8.5; row 7 is a reset, row 8 an episode
    m.add(make(one(0.0, 2.0, 0.0, 6.0), one(0, 1, 0, 1)))
    assert known(m) == {0: 3, 1: 4, 2: 4, 4: 8.5, 5: 1, 6: 2, 8: 6}


def test_an_episode_may_take_many_rollouts():
    m, make = memory(gamma=1.0), HandMade()
    for last in (0, 0, 0, 1):
        m.add(make(one(1.0, 1.0, 1.0), one(0, 0, last)))
    assert known(m) == {float(t): 12.0 - t for t in range(12)}


@pytest.mark.parametrize("bootstrap", [True, False])
def test_truncated_episodes_have_the_value_of_the_last_state(bootstrap):
    m, make = memory(bootstrap_truncation=bootstrap), HandMade()
    worth = 8.0 if bootstrap else 0.0  # V of the final observation

    def truncated(rollout, values, last_value):
        rollout.truncated, rollout.terminated = rollout.terminated, torch.zeros_like(rollout.terminated)
        rollout.values, rollout.last_values = torch.tensor([values])[..., None], torch.tensor([[last_value]])
        m.add(rollout)

    # row 1 is truncated; row 2, the reset, holds the final observation: R1 = 2 + .5 · 8, R0 = 1 + .5 · R1
    truncated(make(one(1.0, 2.0, 0.0, 3.0), one(0, 1, 0, 0)), [5.0, 6.0, 8.0, 7.0], 9.0)
    expected = {0: 1 + 0.5 * (2 + 0.5 * worth), 1: 2 + 0.5 * worth}
    assert known(m) == expected
    # row 4 is truncated in the rollout's last row: R4 = 4 + .5 · V(o_5), R3 = 3 + .5 · R4
    truncated(make(one(4.0), one(1)), [5.0], 8.0)
    assert known(m) == expected | {3: 3 + 0.5 * (4 + 0.5 * worth), 4: 4 + 0.5 * worth}


def test_what_terminates_as_it_is_truncated_has_no_value_after_it():
    m, rollout = memory(), HandMade()(one(1.0), one(1))
    rollout.truncated, rollout.last_values = rollout.terminated.clone(), torch.tensor([[8.0]])
    m.add(rollout)
    assert known(m) == {0: 1}


def test_returns_are_of_the_rewards_that_the_learner_sees():
    m, rollout = memory(), HandMade()(one(4.0, 6.0), one(0, 1))
    rollout.learner_rewards = rollout.rewards.sign()
    m.add(rollout)
    assert known(m) == {0: 1.5, 1: 1}


def test_the_oldest_rows_make_room():
    m, make = memory(size=4, gamma=1.0), HandMade()
    m.add(make(one(1.0, 1.0, 1.0), one(0, 0, 0)))
    m.add(make(one(1.0, 1.0, 1.0), one(0, 1, 0)))  # row 4 ends five steps; row 5 is the reset. Rows 2 to 5 are held
    assert known(m) == {2: 3, 3: 2, 4: 1}
    m.add(make(one(*[1.0] * 9), one(0, 0, 1, 0, 0, 0, 0, 0, 1)))  # rows 6 to 14, of which 11 to 14 are held
    assert known(m) == {11: 4, 12: 3, 13: 2, 14: 1}
    assert set(m.sample(9, 9).obs.flatten().tolist()) == {11, 12, 13, 14}


def test_environments_share_the_memory_in_equal_parts():
    m, make = memory(envs=2, size=5), HandMade(envs=2)
    m.add(make(np.ones((3, 1, 2)), np.array([[[0, 0]], [[0, 0]], [[0, 1]]])))  # 5 // 2 rows of each
    assert known(m, env=0) == {}
    assert known(m, env=1) == {3: 1.5, 5: 1}


@pytest.mark.parametrize(("alpha", "shares"), [(0.0, [1 / 3] * 3), (1.0, [0.0, 0.2, 0.8]), (0.5, [0.0, 1 / 3, 2 / 3])])
def test_rows_are_drawn_as_often_as_they_were_better_than_expected(alpha, shares):
    m, rollout = memory(alpha=alpha, beta=1.0), HandMade()(one(0.0, 0.0, 8.0, 0.0), one(0, 0, 1, 0))
    rollout.values = torch.tensor([[3.0, 3.0, 4.0, -9.0]])[..., None]  # R = 2, 4, 8: R − V = −1, 1, 4; then a reset
    m.add(rollout)
    drawn = m.sample(1, 3000)
    counts = torch.bincount(drawn.actions.flatten(), minlength=3) / 3000
    assert_close(counts, torch.tensor(shares), atol=0.04, rtol=0)
    # weights (N P)^−1 are to each other as 1 / P, the largest is 1
    least = min(share for share in shares if share)
    weights = [float(drawn.weights[drawn.actions == row].unique()) if shares[row] else 0.0 for row in range(3)]
    assert weights == pytest.approx([least / share if share else 0.0 for share in shares])


def test_weights_correct_in_part():
    m, rollout = memory(alpha=1.0, beta=0.5), HandMade()(one(0.0, 8.0), one(0, 1))
    rollout.values = torch.tensor([[3.0, 4.0]])[..., None]  # R − V = 1, 4: a weight of (1 / 4)^.5 for the second
    m.add(rollout)
    drawn = m.sample(1, 100)
    assert_close(drawn.weights, torch.where(drawn.actions == 0, 1.0, 0.5))


def test_nothing_is_drawn_where_nothing_was_better_than_expected():
    m, rollout = memory(alpha=0.6), HandMade()(one(1.0, 1.0), one(0, 1))
    rollout.values = torch.full((1, 2, 1), 2.0)
    m.add(rollout)
    assert m.sample(2, 3).weights.sum() == 0
    assert {name: x.item() for name, x in m.summary().items()} == {"known": 2, "better": 0}


def test_what_a_reset_holds_is_never_drawn():
    m, make = memory(alpha=0.6, size=3), HandMade()
    for rewards, done in (((1.0, 1.0, 1.0), (0, 0, 1)), ((0.0, 1.0, 1.0), (0, 0, 1))):
        rollout = make(one(*rewards), one(*done))
        rollout.values = torch.full((1, 3, 1), 5.0)  # nothing is better than expected
        rollout.obs[rollout.weights == 0] = float("nan")  # the reset, which is row 0 of the memory
        m.add(rollout)
    drawn = m.sample(2, 3)
    assert drawn.weights.sum() == 0
    assert (drawn.obs == 0).all()


def test_agents_do_not_share_and_state_is_restored():
    rewards = np.random.default_rng(0).integers(0, 5, (30, 2, 3)).astype(float)
    done = np.random.default_rng(1).random((30, 2, 3)) < 0.15
    done &= ~np.concatenate([np.zeros((1, 2, 3), bool), done[:-1]])  # a reset never ends an episode
    rewards[1:][done[:-1]] = 0
    settings = {"size": 60, "alpha": 0.6, "beta": 0.1}
    both, make = memory(2, 3, **settings), HandMade(2, 3)
    alone, single = memory(1, 3, first_seed=1, **settings), HandMade(1, 3)
    for part in (slice(0, 9), slice(9, 18)):
        both.add(make(rewards[part], done[part]))
        alone.add(single(rewards[part, 1:], done[part, 1:]))
    names = ("arrays", "count")  # observations are stamps, which differ
    mine, theirs = select_agents(both.state_dict(), slice(1, 2), 2), alone.state_dict()
    assert same({name: mine[name] for name in names}, {name: theirs[name] for name in names})
    draws = both.sample(2, 50), alone.sample(2, 50)
    assert torch.equal(draws[0].returns[1], draws[1].returns[0])
    assert torch.equal(draws[0].weights[1], draws[1].weights[0])

    copied = memory(2, 3, **settings)
    copied.load_state_dict(copy.deepcopy(both.state_dict()))
    for new, old in zip(copied.spec.streams, both.spec.streams, strict=True):
        new.load_state_dict(old.state_dict())
    last = make(rewards[18:], done[18:])
    for m in (both, copied):
        m.add(last)
    assert all(map(torch.equal, both.sample(2, 50), copied.sample(2, 50)))
