import numpy as np
import pytest
import torch
from helpers import HandMade
from torch.testing import assert_close

from rlexp.algos.episode_memory import EpisodeMemory
from rlexp.algos.episode_scores import random_scores
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


@pytest.mark.parametrize("top_k", [1, 2])
def test_draws_keep_every_finished_episode_with_the_same_chance(top_k):
    counts, streams = np.zeros(4), [AgentStreams.make(0, CPU)]
    for _ in range(400):
        m = EpisodeMemory(RunSpec(1, 1, streams, CPU), top_k=top_k)
        rollout = HandMade()(one(9.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0), one(1, 0, 1, 0, 1, 0, 1))
        m.add(rollout, random_scores(m.spec, rollout.episodes))
        kept_rows = {int(m.kept["obs"][slot, 0, 0]) // 2 for slot in range(top_k)}
        assert len(kept_rows) == top_k
        counts[[*kept_rows]] += 1
    assert abs(counts - 100 * top_k).max() < 40  # standard deviation 8.7 of one, 10 of two


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


def test_episodes_are_ranked_by_the_scores_given_and_keep_their_returns():
    m, rollout = memory(), HandMade()(one(9.0, 0.0, 1.0), one(1, 0, 1))  # rows 0 and 2: returns 9 and 1
    m.add(rollout, np.array([-3.0, -2.0]))
    assert kept(m) == [2]
    assert m.summary()["return"].item() == 1
    assert m.summary(score=True)["score"].item() == -2


def test_a_score_that_is_no_number_is_not_kept():
    for bad in (np.nan, np.inf):
        m = memory()
        m.add(HandMade()(one(9.0, 0.0, 1.0), one(1, 0, 1)), np.array([bad, -2.0]))
        assert kept(m) == [2]
        assert m.mean.item() == -2


def test_the_mean_of_scores_forgets_a_lucky_first_episode():
    m, make = memory(), HandMade()
    for score in [100.0] + [0.0] * 99:
        m.add(make(one(0.0, 0.0), one(1, 0)), np.array([score]))
    assert m.mean.item() == pytest.approx(1)  # of a hundred
    m.add(make(one(0.0, 0.0), one(1, 0)), np.array([101.0]))
    assert m.mean.item() == pytest.approx(2)


def test_the_mean_of_scores_is_over_all_at_first():
    m = memory(2)
    scores = np.array([10.0, 30.0, -90.0])
    rollout = HandMade(2)(np.zeros((3, 2, 1)), [[[1], [1]], [[0], [0]], [[1], [0]]])  # agents 0 and 1, then 0
    m.add(rollout, scores)
    assert m.mean.tolist() == [(10 - 90) / 2, 30]


def test_a_lead_halves_in_half_life_steps_and_what_does_not_lead_stays():
    m, make = memory(top_k=2, half_life=2), HandMade()
    m.add(make(one(0.0, 0.0, 0.0), one(1, 0, 1)), np.array([10.0, 8.0]))  # rows 0 and 2, at the agent's step 2; m = 9
    m.add(make(one(0.0, 0.0, 0.0), one(0, 0, 0)))  # a dummy and two steps
    assert m.effective().tolist() == [[9 + (10 - 9) / 2, 8]]
    m.add(make(one(0.0, 0.0), one(0, 0)))
    assert m.effective().tolist() == [[9 + (10 - 9) / 4, 8]]
    assert m.scores.tolist() == [[10, 8]]  # the decay is not compounded
    assert m.summary(score=True)["score"].item() == (9.25 + 8) / 2


def test_a_new_episode_replaces_one_whose_lead_is_gone():
    def after(score, **settings):
        m, make = memory(**settings), HandMade()
        m.add(make(one(0.0, 0.0, 0.0), one(1, 0, 1)), np.array([10.0, 8.0]))  # at step 2, of which 10 stays; m = 9
        m.add(make(one(0.0, 0.0, 0.0), one(0, 0, 1)), np.array([score]))  # at step 4
        return m.scores.item()

    # with 9.5 m is 9 + 0.5/3 = 9.167, and 10 counts for 9.167 + 0.833/2 = 9.583
    assert after(9.5, half_life=2) == 10
    # with 9.7 m is 9 + 0.7/3 = 9.233, and 10 counts for 9.617
    assert after(9.7, half_life=2) == 9.7
    assert after(9.7) == 10


class Marked(HandMade):
    """Observations are 100 × the agent + the row, counted over rollouts; of one environment each."""

    first = 0

    def __call__(self, rewards, done):
        rollout = super().__call__(rewards, done)
        agents, rows = rollout.rewards.shape[:2]
        row = torch.arange(self.first, self.first + rows, dtype=torch.float32)
        rollout.obs = (100.0 * torch.arange(agents)[:, None] + row)[:, :, None, None]
        self.first += rows
        return rollout


def shared(agents=2, population=2, **kwargs):
    streams = [AgentStreams.make(k, CPU) for k in range(agents)]
    return EpisodeMemory(RunSpec(agents, 1, streams, CPU, population), share=True, **kwargs)


def rows_of(*agents):
    """Rewards or ends (T, A, 1), each agent's in a list."""
    return np.array(agents, float).T[:, :, None]


def drawn(m):
    """Rows that each agent draws."""
    return [sorted({*x.flatten().tolist()}) for x in m.sample(2, 20).obs]


def test_agents_of_a_population_are_anchored_to_the_best_episode_of_any():
    m, make = shared(4), Marked(4)
    # of agents 0 and 1, rows 0-1 of agent 1 are the best episode; of 2 and 3, row 0 of agent 2, and 3 has none
    rewards = rows_of([2, 0, 0], [2, 2, 0], [1, 0, 0], [9, 9, 9])
    m.add(make(rewards, rows_of([1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0])))
    assert drawn(m) == [[100, 101], [100, 101], [200], [200]]
    summary = m.summary()
    assert summary["return"].tolist() == [4, 4, 1, 1]
    assert summary["length"].tolist() == [2, 2, 1, 1]
    assert summary["holder"].tolist() == [1, 1, 0, 0]
    assert summary["held"].tolist() == [0, 0, 0, 0]
    assert m.returns.tolist() == [[2], [4], [1], [-np.inf]]  # each keeps its own as well


def test_a_shared_anchor_says_whose_it_is_and_since_when():
    m, make = shared(), Marked(2)
    m.add(make(rows_of([0, 0], [0, 0]), rows_of([0, 0], [0, 0])))
    assert m.sample(1, 3).weights.sum() == 0
    assert all(m.summary()[name].isnan().all() for name in ("return", "age", "holder", "held"))
    m.add(make(rows_of([0, 5], [0, 0]), rows_of([0, 1], [0, 0])))  # agent 0, at step 4
    m.add(make(rows_of([0, 0, 0], [0, 0, 1]), rows_of([0, 0, 0], [0, 0, 1])))  # agent 1 ends one that is worse
    assert m.summary()["holder"].tolist() == [0, 0]
    assert m.summary()["held"].tolist() == [2, 3]  # of agent 0 one row was a dummy
    assert m.summary()["age"].tolist() == [2, 2]  # in steps of agent 0
    m.add(make(rows_of([0, 9], [0, 0]), rows_of([0, 1], [0, 0])))  # a better one of the same agent
    assert m.summary()["held"].tolist() == [4, 4]  # the dummy of agent 1 is its first row
    m.add(make(rows_of([0, 0], [0, 10]), rows_of([0, 0], [0, 1])))
    assert m.summary()["holder"].tolist() == [1, 1]
    assert m.summary()["held"].tolist() == [0, 0]


def test_of_equal_episodes_the_one_recorded_last_is_shared():
    m, make = shared(), Marked(2)
    m.add(make(rows_of([0, 5], [0, 0]), rows_of([0, 1], [0, 0])))
    m.add(make(rows_of([0, 0], [0, 5]), rows_of([0, 0], [0, 1])))
    assert m.summary()["holder"].tolist() == [1, 1]
    assert drawn(m) == [[100, 101, 102, 103]] * 2


def test_top_k_of_a_shared_memory_are_those_of_all_agents_together():
    m, make = shared(top_k=2), Marked(2)
    ends = rows_of([1, 0, 1, 0], [1, 0, 1, 0])
    m.add(make(rows_of([7, 0, 6, 0], [1, 0, 2, 0]), ends))  # rows 0 and 2: 7 and 6; 1 and 2
    assert drawn(m) == [[0, 2]] * 2
    # row 3 is the dummy of both, so an episode of agent 1 runs from row 4 to row 6
    m.add(make(rows_of([0, 0, 0, 0], [0, 0, 6.5, 0]), rows_of([0, 0, 0, 0], [0, 0, 1, 0])))
    assert drawn(m) == [[0, 104, 105, 106]] * 2
    assert m.summary()["return"].tolist() == [6.75, 6.75]


def test_a_shared_anchor_decays_by_what_is_usual_of_the_agent_that_found_it():
    m, make = shared(half_life=1), Marked(2)
    m.add(make(rows_of([0, 0, 0], [0, 0, 0]), rows_of([1, 0, 1], [1, 0, 1])), np.array([10.0, 9.0, 8.0, 9.0]))
    assert m.mean.tolist() == [9, 9]
    assert m.summary(score=True)["score"].tolist() == [10, 10]
    m.add(make(rows_of([0, 0], [0, 0]), rows_of([0, 0], [0, 0])))  # a dummy and a step: 10 → 9.5
    assert m.summary(score=True)["score"].tolist() == [9.5, 9.5]


def test_agents_draw_from_the_shared_anchor_by_streams_of_their_own():
    m = shared()
    m.add(Marked(2)(rows_of([1] * 50, [0] * 50), rows_of([0] * 49 + [1], [0] * 50)))
    first, second = m.sample(1, 40).obs
    assert not torch.equal(first, second)
    alone = EpisodeMemory(RunSpec(1, 1, [AgentStreams.make(1, CPU)], CPU))
    alone.add(HandMade()(one(*[1.0] * 50), one(*[0] * 49, 1)))
    assert torch.equal(second, alone.sample(1, 40).obs[0])


def test_nothing_of_an_agent_that_diverges_reaches_the_others():
    m, make = shared(), Marked(2)
    m.add(make(rows_of([0, 1], [0, 2]), rows_of([0, 1], [0, 1])))
    assert m.summary()["return"].tolist() == [2, 2]
    rollout = make(rows_of([0, 0, 5], [0, 0, 9]), rows_of([0, 0, 1], [0, 0, 1]))
    rollout.dist_params[1, 0] = torch.nan  # in the row of a reset, which belongs to no episode
    m.add(rollout)
    assert m.summary()["return"].tolist() == [9, 9]
    rollout = make(rows_of([0, 0, 5], [0, 0, 99]), rows_of([0, 0, 1], [0, 0, 1]))
    rollout.dist_params[1, 1] = torch.nan
    m.add(rollout)  # not this one; what agent 1 had found before is as good as ever
    assert m.summary()["return"].tolist() == [9, 9]
    assert m.sample(1, 9).dist_params.isfinite().all()
    rollout = make(rows_of([0, 0, 50], [0, 0, 99]), rows_of([0, 0, 1], [0, 0, 1]))
    rollout.alive = np.array([True, False])  # from then on it acts with another agent's parameters
    m.add(rollout)
    assert m.summary()["return"].tolist() == [50, 50]


def test_state_of_a_shared_memory_survives():
    m, make = shared(half_life=3.0), Marked(2)
    m.add(make(rows_of([0, 5, 0], [0, 0, 0]), rows_of([0, 1, 0], [0, 0, 0])))
    other = shared(half_life=3.0)
    other.load_state_dict(m.state_dict())
    for ours, theirs in zip(m.spec.streams, other.spec.streams, strict=True):
        theirs.load_state_dict(ours.state_dict())
    rollout = make(rows_of([0, 0], [0, 4.9]), rows_of([0, 0], [0, 1]))
    for each in (m, other):
        each.add(rollout)
    assert_close(m.summary(score=True), other.summary(score=True))
    assert_close(m.sample(2, 4).obs, other.sample(2, 4).obs)


def test_state_of_an_earlier_version_is_ranked_by_returns():
    m = memory()
    m.add(HandMade()(one(9.0, 0.0), one(1, 0)))
    state = m.state_dict()
    state["arrays"] = {name: x for name, x in state["arrays"].items() if name not in ("scores", "mean", "holder")}
    other = memory()
    other.load_state_dict(state)
    assert other.scores.tolist() == [[9]]
