"""Rewards that an objective adds, worked out by hand: to the environment's, or as a stream with a critic of its own."""

import math

import pytest
import torch
from extras import Given
from helpers import HandMade, make_trainer

from rlexp.algos.advantages import GAE, Advantages
from rlexp.data import ExtraRewards
from rlexp.errors import ConfigError, ObjectiveError
from rlexp.training.targets import Targets


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[None, :, None]  # (A, T, E) of one agent and environment


def rollout_of(rewards, done):
    return HandMade()([[[r]] for r in rewards], [[[d]] for d in done])


def targets_of(extra, rollout, *, sign=False, gae=None):
    gae = gae or GAE(gamma=0.5, lam=1.0)
    return Targets(Given(extra=extra), gae, sign=sign, scaler=None)(rollout, None)


def test_rewards_are_added_to_those_of_the_environment_after_their_signs():
    rollout = rollout_of([3.0, 0.0], [False, False])
    found = targets_of(ExtraRewards(column(0.25, 2.0)), rollout, sign=True)
    assert rollout.learner_rewards.flatten().tolist() == [1.25, 2.0]
    assert rollout.rewards.flatten().tolist() == [3.0, 0.0]  # what is recorded
    # A₁ = 2 ; A₀ = 1.25 + ½ · 2
    assert found.advantages.flatten().tolist() == [2.25, 2.0]


def test_a_stream_apart_has_its_own_critic_and_discount():
    rollout = rollout_of([0.0, 1.0], [False, False])
    extra = ExtraRewards(
        column(2.0, 4.0), values=column(1.0, 1.0), last_values=torch.tensor([[3.0]]), gamma=0.25, coef=2.0
    )
    found = targets_of(extra, rollout)
    # δ₁ = 4 + ¼ · 3 − 1 = 3.75 ; A₁ = 3.75 ; δ₀ = 2 + ¼ · 1 − 1 = 1.25 ; A₀ = 1.25 + ¼ · 3.75 = 2.1875
    # of the environment: A₁ = 1 ; A₀ = ½
    assert found.advantages.flatten().tolist() == [0.5 + 2 * 2.1875, 1 + 2 * 3.75]
    assert found.returns.flatten().tolist() == [0.5, 1.0]  # of the environment's critic
    assert found.extra["returns"].flatten().tolist() == [3.1875, 4.75]
    assert rollout.learner_rewards.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("episodic", "advantages"),
    [
        # the episode ends with row 0: A₀ = 2 − 1 ; row 1 is its reset's, of reward 0, of which no loss reads
        (True, [1.0, 2.25, 4.5]),
        # A₂ = 4 + ½ · 3 − 1 ; row 1, of which no loss trains a value, has V₁ = ½ · 1, so that A₁ = 0 + ½ · 4.5 ;
        # A₀ = 2 + ½ · ½ − 1 + ½ · 2.25
        (False, [2.375, 2.25, 4.5]),
    ],
)
def test_a_stream_may_go_on_past_the_end_of_an_episode(episodic, advantages):
    rollout = rollout_of([0.0, 0.0, 0.0], [True, False, False])
    extra = ExtraRewards(
        column(2.0, 9.0, 4.0),
        values=column(1.0, 7.0, 1.0),
        last_values=torch.tensor([[3.0]]),
        gamma=0.5,
        episodic=episodic,
    )
    assert targets_of(extra, rollout).advantages.flatten().tolist() == advantages


def test_a_stream_that_goes_on_does_not_read_the_value_of_a_final_observation():
    rollout = rollout_of([0.0, 0.0], [False, True])
    junk = torch.tensor([[-50.0]])  # no loss trains it
    extra = ExtraRewards(column(2.0, 4.0), values=column(1.0, 1.0), last_values=junk, gamma=0.5, episodic=False)
    # A₁ = 4 + ½ · 1 − 1 ; A₀ = 2 + ½ · 1 − 1 + ½ · 3.5
    assert targets_of(extra, rollout).advantages.flatten().tolist() == [3.25, 3.5]


def test_rows_reach_the_loss_and_nothing_is_added_without_rewards():
    rollout = rollout_of([1.0, 1.0], [False, False])
    found = targets_of(ExtraRewards(column(0.0, 0.0), rows={"x": column(5.0, 6.0)}), rollout)
    assert found.extra["x"].flatten().tolist() == [5.0, 6.0]
    assert targets_of(None, rollout).extra == ()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (torch.zeros(1, 2, 1), "returns a tensor (1, 2, 1); wants ExtraRewards(rewards, ...), or None"),
        (ExtraRewards(torch.zeros(2)), "rewards are a tensor (2,); wants (1, 2, 1), (agents, steps, envs)"),
        (ExtraRewards(column(0.0, 0.0), values=column(0.0, 0.0)), "values and last_values are of one critic"),
        (ExtraRewards(column(0.0, math.nan)), "rewards that count are not finite"),
        (ExtraRewards(column(0.0, 0.0), gamma=3.0), "gamma=3.0 is not a number in [0, 1]"),
        (ExtraRewards(column(0.0, 0.0), coef=torch.ones(2)), "coef is a tensor (2,); wants a number"),
        (ExtraRewards(column(0.0, 0.0), rows={"x": torch.zeros(2)}), "row 'x' is a tensor (2,); wants (1, 2, 1), ..."),
        (ExtraRewards(column(0.0, 0.0), rows={"returns": column(0.0, 0.0)}), "is the name of what gae returns"),
    ],
)
def test_what_is_not_of_the_rollouts_shape_is_refused(extra, said):
    with pytest.raises(ObjectiveError, match=r"Given\.rewards") as error:
        targets_of(extra, rollout_of([1.0, 1.0], [False, False]))
    assert said in str(error.value)


def test_an_estimator_without_a_discount_cannot_have_a_stream_apart():
    extra = ExtraRewards(column(1.0, 1.0), values=column(0.0, 0.0), last_values=torch.zeros(1, 1))
    plain = GAE()

    def own(*rows):
        return plain(*rows)

    with pytest.raises(ConfigError, match="function has no gamma"):
        targets_of(extra, rollout_of([1.0, 1.0], [False, False]), gae=own)


class Own:
    """An estimator without a discount, which turns or shapes what it returns."""

    def __init__(self, turn=lambda x: x):
        self.turn = turn

    def __call__(self, rewards, *rest):
        return self.turn(Advantages(rewards, rewards))


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (lambda x: Advantages(x.advantages.mT, x.returns), r"a tensor (1, 1, 2) and a tensor (1, 2, 1)"),
        (lambda x: Advantages(x.advantages, x.returns[..., None]), r"a tensor (1, 2, 1) and a tensor (1, 2, 1, 1)"),
        (lambda x: x.advantages, "a tensor (1, 2, 1)"),
        (lambda x: (x.advantages,), "a tensor (1, 2, 1)"),
        (lambda x: None, "nothing"),
    ],
)
def test_what_an_estimator_returns_has_the_shape_of_the_rewards(turn, said):
    with pytest.raises(ConfigError, match=r"^gae: \S*test_targets\.py:\d+") as error:
        targets_of(None, rollout_of([1.0, 1.0], [False, False]), gae=Own(turn))
    assert f"returns {said}; wants Advantages(advantages, returns), each (1, 2, 1)" in str(error.value)


def test_an_estimator_may_return_a_plain_pair():
    extra = ExtraRewards(column(0.0, 0.0), rows={"x": column(5.0, 6.0)})
    found = targets_of(extra, rollout_of([1.0, 2.0], [False, False]), gae=Own(tuple))
    assert found.returns.flatten().tolist() == [1.0, 2.0]
    assert found.extra.keys() == {"x"}


def test_rewards_are_not_scaled_by_an_estimator_without_a_discount(tmp_path):
    words = (f"gae._target_={__name__}.Own", "~gae.gamma", "~gae.lam", "~gae.bootstrap_truncation")
    with pytest.raises(ConfigError, match=r"^env\.normalize_reward=true: Own of gae has no gamma"):
        make_trainer(tmp_path, *words, "env.normalize_reward=true")


def test_rewards_beside_a_stream_are_added_to_those_of_the_environment():
    rollout = rollout_of([0.0, 1.0], [False, False])
    zeros = column(0.0, 0.0)
    stream = ExtraRewards(column(4.0, 4.0), values=zeros, last_values=torch.zeros(1, 1), rows={"x": zeros})
    both = stream.beside(ExtraRewards(column(2.0, 0.0), rows={"y": zeros}))
    found = targets_of(both, rollout)
    assert rollout.learner_rewards.flatten().tolist() == [2.0, 1.0]
    assert found.returns.flatten().tolist() == [2.5, 1.0]
    assert found.extra.keys() == {"x", "y", "returns"}
    assert stream.beside(None) is stream
    with pytest.raises(ConfigError, match="both bring rewards with a critic of their own"):
        stream.beside(stream)


def test_rewards_of_two_hooks_are_added_whichever_brings_a_stream():
    zeros = column(0.0, 0.0)
    one, two = ExtraRewards(column(2.0, 0.0), rows={"x": zeros}), ExtraRewards(column(1.0, 4.0), rows={"y": zeros})
    stream = ExtraRewards(column(4.0, 4.0), values=zeros, last_values=torch.zeros(1, 1))
    for extra in (one.beside(two), two.beside(one), one.beside(two.beside(stream)), stream.beside(one).beside(two)):
        rollout = rollout_of([0.0, 1.0], [False, False])
        found = targets_of(extra, rollout)
        assert rollout.learner_rewards.flatten().tolist() == [3.0, 5.0]
        assert {"x", "y"} <= found.extra.keys()


def test_what_would_be_added_to_nothing_is_refused():
    extra = ExtraRewards(column(1.0, 1.0), joined=column(1.0, 1.0))
    with pytest.raises(ObjectiveError, match="joined goes with a stream that has values; add it to rewards"):
        targets_of(extra, rollout_of([1.0, 1.0], [False, False]))


def test_a_hook_that_writes_rewards_in_place_does_not_move_the_learners():
    rollout = rollout_of([3.0, 0.0], [False, False])
    algo = Given()
    algo.rewards = lambda rollout, policies: setattr(rollout, "rewards", rollout.rewards.add_(5))
    Targets(algo, GAE(gamma=0.5, lam=1.0), sign=False, scaler=None)(rollout, None)
    assert rollout.learner_rewards.flatten().tolist() == [3.0, 0.0]
