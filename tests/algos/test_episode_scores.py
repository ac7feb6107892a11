"""How much better an episode was than the critic expected: Σ_t γ^t δ_t, by hand, wherever rollouts are cut."""

import numpy as np
import pytest
import torch
from helpers import HandMade

from rlexp.algos.episode_scores import AdvantageScores
from rlexp.data import RunSpec
from rlexp.seeding import AgentStreams

CPU = torch.device("cpu")


def scorer(agents=1, envs=1, gamma=0.5):
    return AdvantageScores(RunSpec(agents, envs, [AgentStreams.make(k, CPU) for k in range(agents)], CPU), gamma)


def rollout_of(make, rewards, values, last, terminated, truncated=None):
    """A rollout of one environment."""
    truncated = [0] * len(rewards) if truncated is None else truncated
    done = np.maximum(terminated, truncated)
    rollout = make(np.array(rewards, float)[:, None, None], done[:, None, None])
    column = {"values": values, "terminated": terminated, "truncated": truncated}
    for name, x in column.items():
        kind = torch.float32 if name == "values" else torch.bool
        setattr(rollout, name, torch.tensor(x, dtype=kind).reshape(1, -1, 1))
    rollout.last_values = torch.tensor([[float(last)]])
    return rollout


def test_an_episode_that_terminates():
    # G = 1 + .5·2 + .25·4 = 3, V(s_0) = 10; V after the end, 99, has no part
    rollout = rollout_of(HandMade(), [1, 2, 4], [10, 20, 30], 99, [0, 0, 1])
    assert scorer()(rollout).tolist() == [3 - 10]


def test_it_is_the_discounted_sum_of_td_errors():
    # δ: 1 + .5·20 − 10 = 1, 2 + .5·30 − 20 = −3, 4 − 30 = −26; 1 − .5·3 − .25·26 = −7
    rollout = rollout_of(HandMade(), [1, 2, 4], [10, 20, 30], 99, [0, 0, 1])
    assert scorer()(rollout).tolist() == [1 - 0.5 * 3 - 0.25 * 26]


def test_a_time_limit_bootstraps_from_the_final_observation():
    # within the rollout its value is in the row after: 1 + .5·2 + .25·40 = 12, less V(s_0) = 10
    inside = rollout_of(HandMade(), [1, 2, 0, 0], [10, 20, 40, 7], 99, [0, 0, 0, 0], [0, 1, 0, 0])
    assert scorer()(inside).tolist() == [12 - 10]
    # in the last row it is that of the observation after the rollout: 1 + .5·2 + .25·80 = 22
    last = rollout_of(HandMade(), [1, 2], [10, 20], 80, [0, 0], [0, 1])
    assert scorer()(last).tolist() == [22 - 10]
    both = rollout_of(HandMade(), [1, 2], [10, 20], 80, [0, 1], [0, 1])  # it terminated: nothing comes after
    assert scorer()(both).tolist() == [2 - 10]


def test_an_episode_over_three_rollouts_and_the_one_after():
    score, make = scorer(), HandMade()
    assert not len(score(rollout_of(make, [1, 2], [10, 20], 30, [0, 0])))
    assert not len(score(rollout_of(make, [4, 8], [30, 40], 50, [0, 0])))
    # 1 + .5·2 + .25·4 + .125·8 + .0625·16 = 5, less 10; row 1 is the dummy, whose reward and value have no part;
    # the next begins in row 2: 32, and V(s_0) = 6
    assert score(rollout_of(make, [16, 77, 32], [50, 60, 6], 0, [1, 0, 0])).tolist() == [5 - 10]
    assert score(rollout_of(make, [64, 0], [70, 0], 0, [1, 0])).tolist() == [32 + 0.5 * 64 - 6]
    # the dummy of the last end came at the end of that rollout, so an episode begins in row 0: 1 + .5·1, V(s_0) = 3
    assert score(rollout_of(make, [1, 1], [3, 0], 0, [0, 1])).tolist() == [1.5 - 3]
    # and here row 0 is the dummy; 5 alone, V(s_0) = 2
    assert score(rollout_of(make, [0, 5], [90, 2], 0, [0, 1])).tolist() == [5 - 2]


def test_rewards_are_those_that_the_learner_sees():
    rollout = rollout_of(HandMade(), [100, 200], [0, 0], 0, [0, 1])
    rollout.learner_rewards = torch.tensor([1.0, 1.0]).reshape(1, 2, 1)
    assert scorer()(rollout).tolist() == [1.5]


@pytest.mark.parametrize("cuts", [(12, 12), (1, 5, 18), (23, 1)])
def test_the_same_scores_wherever_rollouts_are_cut(cuts):
    rng = np.random.default_rng(0)
    done = rng.random((24, 2, 3)) < 0.2
    for t in range(1, 24):
        done[t] &= ~done[t - 1]  # no episode ends in the step of a reset
    rewards, values, terminated = rng.random((24, 2, 3)), rng.random((25, 2, 3)), rng.random((24, 2, 3)) < 0.5

    def scores(cuts):
        score, make, start, found = scorer(2, 3, gamma=0.9), HandMade(2, 3), 0, {}
        for length in cuts:
            part = slice(start, start + length)
            rollout = make(rewards[part], done[part])
            rollout.values = torch.from_numpy(values[part].swapaxes(0, 1).copy())
            rollout.last_values = torch.from_numpy(values[start + length])
            rollout.terminated = torch.from_numpy((done & terminated)[part].swapaxes(0, 1).copy())
            rollout.truncated = torch.from_numpy((done & ~terminated)[part].swapaxes(0, 1).copy())
            each = zip(rollout.episodes.agents, rollout.episodes.envs, rollout.episodes.ends, strict=True)
            found |= {(a, e, start + end): x for (a, e, end), x in zip(each, score(rollout), strict=True)}
            start += length
        return found

    whole = scores((24,))
    assert len(whole) > 10
    cut = scores(cuts)
    assert cut.keys() == whole.keys()
    # rewards are float32 in rollouts
    assert [cut[key] for key in whole] == pytest.approx([*whole.values()], abs=1e-6)


def test_state_survives():
    score, make, other = scorer(), HandMade(), scorer()
    score(rollout_of(make, [1, 2], [10, 20], 30, [0, 0]))
    other.load_state_dict(score.state_dict())
    rollout = rollout_of(make, [4, 8], [30, 40], 50, [0, 1])
    assert score(rollout).tolist() == other(rollout).tolist() == [1 + 1 + 1 + 1 - 10]
