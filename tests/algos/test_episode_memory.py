import numpy as np
import torch
from helpers import HandMade
from torch.testing import assert_close

from rlexp.algos.episode_memory import EpisodeMemory
from rlexp.data import RunSpec
from rlexp.seeding import AgentStreams

CPU = torch.device("cpu")


def memory(agents=1, envs=1, **kwargs):
    return EpisodeMemory(RunSpec(agents, envs, [AgentStreams.make(k, CPU) for k in range(agents)], CPU), **kwargs)


def one(*xs):
    return np.array(xs)[:, None, None]


def kept(m, slot=0):
    return m.kept["obs"][slot, : m.counts.reshape(-1)[slot], 0].tolist()


def test_the_best_episode_is_kept_with_what_was_recorded_across_rollouts():
    m, make = memory(), HandMade()
    m.add(make(one(1.0, 1.0, 0.0, 1.0), one(0, 1, 0, 0)))  # rows 0-1 make an episode of 2; row 3 opens the next
    assert kept(m) == [0, 1]
    m.add(make(one(1.0, 1.0, 0.0, 1.0), one(0, 1, 0, 1)))  # rows 3, 4, 5: return 3; row 7: return 1, no better
    assert kept(m) == [3, 4, 5]
    assert m.kept["dist_params"][0, :3].tolist() == [[3, -3], [4, -4], [5, -5]]
    assert m.kept["actions"][0, :3].tolist() == [3, 4, 5]
    assert {k: v.item() for k, v in m.summary().items()} == {"return": 3, "length": 3, "age": 0}
    m.add(make(one(0.0, 1.0, 0.0, 0.0), one(0, 1, 0, 0)))  # rows 9 only: three real rows pass, two of them after it
    assert m.summary()["age"].item() == 2  # rows 9 and 11; 8 and 10 are dummies


def test_ties():
    rows = one(1.0, 0.0, 1.0), one(1, 0, 1)
    newest, oldest = memory(), memory(replace_on_tie=False)
    newest.add(HandMade()(*rows))
    oldest.add(HandMade()(*rows))
    assert kept(newest) == [2]
    assert kept(oldest) == [0]


def test_of_equal_episodes_the_oldest_is_replaced():
    m, make = memory(top_k=2), HandMade()
    m.add(make(one(1.0, 0.0, 1.0, 0.0, 1.0), one(1, 0, 1, 0, 1)))  # rows 0, 2, 4: the first gives way to the third
    assert sorted(row for slot in range(2) for row in m.kept["obs"][slot, :1, 0].tolist()) == [2, 4]


def test_a_running_episode_begins_behind_the_dummy_row_of_the_one_before():
    m, make = memory(), HandMade()
    m.add(make(one(1.0, 1.0), one(0, 1)))
    m.add(make(one(0.0, 1.0, 1.0), one(0, 0, 0)))  # row 2 is the dummy; 3 and 4 run on
    m.add(make(one(1.0), one(1)))  # row 5 ends it
    assert kept(m) == [3, 4, 5]


def test_top_k_replaces_the_worst_and_samples_over_all_states():
    m, make = memory(top_k=2), HandMade()
    m.add(make(one(1.0, 0.0, 2.0, 2.0, 0.0, 3.0), one(1, 0, 0, 1, 0, 1)))  # returns 1, 4, 3
    assert sorted(m.returns[0].tolist()) == [3, 4]
    drawn = m.sample(50, 60)
    assert drawn.obs.shape == (1, 50, 60, 1)
    values, counts = drawn.obs.flatten().unique(return_counts=True)
    assert values.tolist() == [2, 3, 5]  # rows 2-3 of the one, row 5 of the other
    assert_close(counts / 3000, torch.full((3,), 1 / 3), atol=0.04, rtol=0)


def test_long_episodes_leave_a_uniform_sample_of_their_rows():
    hits, streams = np.zeros(40), [AgentStreams.make(0, CPU)]
    for number in range(1600):
        m, make = EpisodeMemory(RunSpec(1, 1, streams, CPU), max_steps=8), HandMade()
        first = (15, 3, 40)[number % 3]  # rows of the first rollout: more than are kept, fewer, all
        m.add(make(np.ones((first, 1, 1)), one(*[0] * (first - 1), int(first == 40))))
        if first < 40:
            m.add(make(np.ones((40 - first, 1, 1)), one(*[0] * (39 - first), 1)))
        rows = kept(m)
        assert len(set(rows)) == 8
        hits[np.array(rows, int)] += 1
    assert m.summary()["length"].item() == 40
    # each row with probability 8/40: 320 of 1600, standard deviation 16
    assert abs(hits - 320).max() < 56


def test_nothing_is_drawn_before_an_episode_has_finished():
    m = memory()
    m.add(HandMade()(np.ones((4, 1, 1)), np.zeros((4, 1, 1))))
    assert m.sample(2, 3).weights.sum() == 0
    assert m.summary()["return"].isnan().all()


def test_agents_do_not_share_and_a_neighbour_changes_nothing():
    rewards = np.random.default_rng(0).integers(0, 5, (30, 2, 3)).astype(float)
    done = np.random.default_rng(1).random((30, 2, 3)) < 0.15
    done &= ~np.concatenate([np.zeros((1, 2, 3), bool), done[:-1]])  # a dummy never ends an episode
    rewards[1:][done[:-1]] = 0
    both, make = memory(2, 3, max_steps=3), HandMade(2, 3)
    both.add(make(rewards[:10], done[:10]))
    both.add(make(rewards[10:], done[10:]))
    alone = EpisodeMemory(RunSpec(1, 3, [AgentStreams.make(1, CPU)], CPU), max_steps=3)
    single = HandMade(1, 3)
    alone.add(single(rewards[:10, 1:], done[:10, 1:]))
    alone.add(single(rewards[10:, 1:], done[10:, 1:]))
    assert both.returns[1].tolist() == alone.returns[0].tolist()
    assert both.lengths[1].tolist() == alone.lengths[0].tolist()
    assert both.recorded_at[1].tolist() == alone.recorded_at[0].tolist()


def test_random_keeps_every_finished_episode_with_the_same_chance():
    counts, streams = np.zeros(4), [AgentStreams.make(0, CPU)]
    for _ in range(400):
        m = EpisodeMemory(RunSpec(1, 1, streams, CPU), keep="random")
        m.add(HandMade()(one(9.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0), one(1, 0, 1, 0, 1, 0, 1)))
        counts[int(kept(m)[0]) // 2] += 1
    assert abs(counts - 100).max() < 35  # standard deviation 8.7


def test_state_survives():
    m, make = memory(1, 1, max_steps=2), HandMade()
    m.add(make(one(1.0, 1.0, 1.0, 0.0, 1.0), one(0, 0, 1, 0, 0)))
    other = memory(1, 1, max_steps=2)
    other.load_state_dict(m.state_dict())
    other.spec.streams[0].load_state_dict(m.spec.streams[0].state_dict())
    rollout = make(one(1.0, 1.0, 1.0, 1.0), one(0, 0, 1, 0))
    for each in (m, other):
        each.add(rollout)
    assert kept(m) == kept(other)
    assert_close(m.sample(2, 4).obs, other.sample(2, 4).obs)
