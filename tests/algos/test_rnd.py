"""Random network distillation, and bonuses in general: mixins over any objective."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import probes  # noqa: F401
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from helpers import have_same_weights, last_metrics, make_config, make_trainer, records, resumed, train, weights_of

from rlexp import build
from rlexp.algos.apo import APO
from rlexp.algos.base import Algorithm
from rlexp.algos.bonus import require_own_attributes, with_bonus
from rlexp.algos.ppo import PPO
from rlexp.algos.rnd import RND, Distillation
from rlexp.algos.spo import SPO
from rlexp.data import RunSpec
from rlexp.errors import ConfigError
from rlexp.seeding import AgentStreams

SMALL = ("total_steps=1536", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")
SPACES = [
    Box(-1, 1, (3,), np.float32),
    Box(-1, 1, (), np.float32),
    Box(0, 255, (4, 40, 40), np.uint8),
    Discrete(5),
    MultiDiscrete([2, 3]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_error_is_that_of_a_network_that_learns_to_predict_one_that_does_not(space):
    error = Distillation(space, [16], 8)
    obs = torch.stack([torch.as_tensor(space.sample()) for _ in range(6)])
    before = {name: x.clone() for name, x in error.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in error.parameters() if p.requires_grad], 1e-2)
    first = error(obs)
    assert first.shape == (6,)
    by_hand = (error.predictor(obs) - error.target(obs)).square().mean(-1)
    torch.testing.assert_close(first, by_hand)
    for _ in range(50):
        optimizer.zero_grad()
        error(obs).mean().backward()
        optimizer.step()
    assert (error(obs).mean() < first.mean() / 4).item()
    assert all(torch.equal(x, before[name]) for name, x in error.state_dict().items() if name.startswith("target"))


@pytest.mark.parametrize("algo", ["ppo", "apo", "ppo_kl"])
def test_a_bonus_of_no_weight_leaves_any_objective_as_it_is(tmp_path, algo):
    settings = (f"algo={algo}", *SMALL, "algo.max_grad_norm=null")  # one norm would be of both gradients
    mine = train(tmp_path / "bonus", *settings, "bonus=rnd", "bonus.rnd_coef=0")
    assert have_same_weights(train(tmp_path / "plain", *settings), mine)


def test_the_first_rollout_has_no_bonus(tmp_path):
    trainer = make_trainer(tmp_path, "bonus=rnd", *SMALL)
    means = []
    for _ in range(3):
        trainer.iterate()
        means.append(trainer.algo.rnd_mean.item())
    assert means[0] == 0
    assert min(means[1:]) > 0
    # raw errors by the running deviation of their discounted return
    assert trainer.algo.rnd_scaler.count.item() == pytest.approx(2 * 256, abs=60)  # rows of two rollouts, less resets
    trainer._close()


@pytest.mark.slow
def test_final_observations_are_learnt_as_others_are(tmp_path):
    # in CartPole they are the only ones beyond the limits: were they never learnt, their bonus would stay
    trainer = make_trainer(tmp_path, "bonus=rnd", *SMALL[1:], "total_steps=12800", "bonus.rnd_proportion=1")
    kept = {}
    observe = trainer.algo.observe

    def look(rollout):
        kept["error"] = trainer.learner.policies.each(lambda p, obs: p.module("rnd")(obs), rollout.next_obs)
        kept["ends"] = rollout.terminated.clone()
        return observe(rollout)

    trainer.algo.observe = look
    for _ in range(50):
        trainer.iterate()
    ends, others = kept["error"][kept["ends"]].mean(), kept["error"][~kept["ends"]].mean()
    assert ends < 4 * others
    trainer._close()


def test_resumed_and_side_by_side(tmp_path):
    settings = ("algo=apo", "bonus=rnd", "num_seeds=2", *SMALL)
    whole, again = train(tmp_path / "a", *settings), resumed(tmp_path / "b", *settings)
    assert have_same_weights(whole, again)
    assert records(tmp_path / "a") == records(tmp_path / "b")
    alone = train(tmp_path / "c", "algo=apo", "bonus=rnd", "seed=1", *SMALL)
    for name, x in weights_of(whole).items():
        torch.testing.assert_close(x[1:], weights_of(alone)[name], rtol=1e-3, atol=1e-4)


def test_a_goal_that_chance_never_reaches_is_found(tmp_path):
    settings = (
        "env.id=Corridor-v0",
        "env.num_envs=8",
        "algo.rollout_steps=64",
        "total_steps=10_000",
        "algo.ent_coef=0.01",
    )
    settings += ("gae.gamma=0.99", "optimizer.lr=1e-3", "evaluation.episodes=0")
    train(tmp_path / "ppo", *settings)
    train(tmp_path / "rnd", *settings, "bonus=rnd", "bonus.rnd_coef=1")
    assert last_metrics(tmp_path / "ppo")["episodic_return"] == 0
    assert last_metrics(tmp_path / "rnd")["episodic_return"] > 0.5


def test_rewards_of_the_objective_are_kept_beside_the_bonus(tmp_path):
    settings = ("algo=opr", "algo.shaping_coef=2", *SMALL, "bonus=rnd")
    trainer = make_trainer(tmp_path, *settings)
    seen = []
    observe = trainer.algo.observe
    trainer.algo.observe = lambda rollout: seen.append(rollout.learner_rewards - rollout.rewards) or observe(rollout)
    for _ in range(4):
        trainer.iterate()
    assert seen[-1].max() > 0  # OPR's shaping, of which RND's stream is apart
    assert trainer.algo.shaping.item() > 0
    trainer._close()


# Bonuses in general ---------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Tidy(Algorithm):
    """A bonus of a user's: a term on top of whatever it is given."""

    tidy_coef: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        self.require("tidy_coef", self.tidy_coef >= 0, "must not be below 0")

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.tidy_coef * policy(batch)[1].square().mean(), metrics


@dataclass(kw_only=True)
class Decorated(Algorithm):
    """A hook of it is decorated, and calls that of whatever it is given."""

    @torch.no_grad()
    def observe(self, rollout):
        return super().observe(rollout)


@dataclass(kw_only=True)
class Clashing(Algorithm):
    clip_coef: float = 1.0


def test_a_bonus_is_a_subclass_of_whatever_it_is_given():
    made = with_bonus(partial(APO, anchor_coef=0.5), partial(Tidy, tidy_coef=2.0))
    assert isinstance(made, APO)
    assert isinstance(made, Tidy)
    assert (made.anchor_coef.knots, made.tidy_coef, type(made).__name__) == ((0.5,), 2.0, "TidyAPO")
    assert "clip_coef" in type(made).scheduled()
    assert isinstance(with_bonus(partial(APO), partial(Decorated)), Decorated)


def test_the_objectives_own_defaults_hold():
    @dataclass(kw_only=True)
    class Short(PPO):
        rollout_steps: int = 7

    assert with_bonus(partial(Short), partial(RND)).rollout_steps == 7


def test_a_setting_is_named_as_it_is_typed():
    with pytest.raises(ConfigError, match=r"^bonus\.rnd_gamma=1\.5: must lie in \[0, 1\]"):
        build.check(make_config("bonus=rnd", "bonus.rnd_gamma=1.5"))
    with pytest.raises(ConfigError, match=r"^algo\.clip_coef=-1\.0: "):
        build.check(make_config("bonus=rnd", "algo.clip_coef=-1"))
    with pytest.raises(ConfigError, match=r"^bonus\.coef=1: rlexp.algos.rnd.RND has no such setting"):
        build.check(make_config("bonus=rnd", "+bonus.coef=1"))
    with pytest.raises(ConfigError, match=r"^bonus\.epochs: a bonus takes it from its objective; set algo\.epochs=9"):
        build.check(make_config("bonus=rnd", "+bonus.epochs=9"))


@dataclass(kw_only=True)
class Forgets(Algorithm):
    """Its loss is not that of whatever it is given."""

    def loss(self, policy, batch):
        return policy(batch)[1].square().mean(), {}


@dataclass(kw_only=True)
class KeepsMemory(Algorithm):
    def prepare(self, spec):
        super().prepare(spec)
        self.memory = 0


def test_two_that_keep_something_under_one_name_are_refused():
    spec = RunSpec(1, 1, [AgentStreams.make(0, torch.device("cpu"))], torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"^bonus: both APO and KeepsMemory keep self\.memory, and would overwrite"):
        require_own_attributes(partial(APO), partial(KeepsMemory), spec)
    require_own_attributes(partial(APO), partial(RND), spec)


def test_what_cannot_be_composed_is_refused():
    with pytest.raises(ConfigError, match=r"^bonus: Forgets\.loss does not call super\(\)\.loss"):
        with_bonus(partial(PPO), partial(Forgets))
    with pytest.raises(ConfigError, match=r"^bonus\.clip_coef: PPO has a setting of that name too; give it a prefix"):
        with_bonus(partial(PPO), partial(Clashing))
    with pytest.raises(ConfigError, match=r"^bonus: SPO is a PPO, as the objective is; derive a bonus from Algorithm"):
        with_bonus(partial(APO), partial(SPO))
    with pytest.raises(ConfigError, match=r"^bonus\._target_: sqrt is not a class derived from"):
        with_bonus(partial(PPO), partial(math.sqrt))
