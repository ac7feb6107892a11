"""Dummy rows carry no weight: whatever they hold, nothing changes, bit for bit; what is used must be finite."""

import gymnasium as gym
import numpy as np
import probes  # noqa: F401
import pytest
import torch
from gymnasium import spaces
from helpers import make_trainer, weights_of

from rlexp.errors import EnvironmentFault

NAN = float("nan")
SMALL = ("total_steps=256", "env.num_envs=4", "algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=2")
ALGOS = ("ppo", "apo", "apo_ce", "ppo_kl", "sil", "opr", pytest.param("rapid_bc", marks=pytest.mark.slow))
BOTH = ("env.normalize_obs=true", "env.normalize_reward=true")


class Ends(gym.Env):
    """Episodes of 3 to 5 steps, each of which ends in a terminal state or by its time limit, at random."""

    def __init__(self, final=None, limit=None):
        self.final, self.limit = final, limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.last = 0, int(self.np_random.integers(3, 6))
        self.cut = bool(self.np_random.integers(2))
        return self.see(), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.last
        obs = self.see()
        broken = self.limit if self.cut else self.final
        if over and broken is not None:
            obs = np.full_like(obs, broken)
        return obs, self.pay(action), over and not self.cut, over and self.cut, {}

    def pay(self, action):
        return float(self.np_random.normal())


class BoxEnds(Ends):
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def see(self):
        return self.np_random.normal(size=3).astype(np.float32)


class DiscreteEnds(Ends):
    observation_space = spaces.Discrete(5, start=2)
    action_space = spaces.Discrete(3)

    def see(self):
        return int(self.np_random.integers(2, 7))


class PixelEnds(Ends):
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(3)

    def see(self):
        return self.np_random.integers(0, 256, (1, 36, 36), np.uint8)


for env in (BoxEnds, DiscreteEnds, PixelEnds):
    gym.register(f"{env.__name__}-v0", entry_point=env)

KINDS = {
    "box": ("env.id=BoxEnds-v0", "network.torso.hidden=[8]"),
    "normalised box": ("env.id=BoxEnds-v0", "network.torso.hidden=[8]", *BOTH),
    "discrete": ("env.id=DiscreteEnds-v0", "network.torso.hidden=[8]", "env.normalize_reward=true"),
    "pixels": ("env.id=PixelEnds-v0", "network=nature_cnn", "network.torso.features=8", "total_steps=128"),
}


def poison(rollout):
    """Spoil every field of every dummy row but what bootstraps: observation and value of a time limit."""
    dummy = rollout.weights == 0
    cut = torch.zeros_like(dummy)
    cut[:, 1:] = rollout.truncated[:, :-1]  # a first row's was asked for in the rollout before
    spoilt = 0
    for name in ("obs", "actions", "dist_params", "log_probs", "values", "rewards"):
        x = getattr(rollout, name)
        rows = dummy & ~cut if name in ("obs", "values") else dummy
        spoilt += int(rows.sum())
        worst = NAN if x.is_floating_point() else 255 if x.dtype == torch.uint8 else 0
        x[rows.nonzero(as_tuple=True)] = worst
    return spoilt


@pytest.mark.few(14)
@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algo", ALGOS)
def test_whatever_stands_in_dummy_rows_changes_nothing(tmp_path, algo, kind, num_seeds):
    settings = (*SMALL, f"algo={algo}", *KINDS[kind], f"num_seeds={num_seeds}", "log_every=1")
    clean, spoilt = (make_trainer(tmp_path / name, *settings) for name in ("clean", "spoilt"))
    found = []
    collect = spoilt.collector.collect

    def collect_and_poison(act):
        rollout = collect(act)
        found.append(poison(rollout))
        return rollout

    spoilt.collector.collect = collect_and_poison
    for trainer in (clean, spoilt):
        trainer.train(False)
    assert sum(found) > 50
    for name, x in weights_of(clean).items():
        assert torch.equal(weights_of(spoilt)[name], x), name
    logs = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("clean", "spoilt")]
    told = logs[0][0].split(",")
    kept = [i for i, name in enumerate(told) if name not in ("wall_time", "steps_per_second")]
    ours, theirs = ([[row.split(",")[i] for i in kept] for row in rows] for rows in logs)
    assert ours == theirs


@pytest.mark.parametrize("kind", ["box", "normalised box"])
@pytest.mark.parametrize("final", ["nan", "inf"])
def test_a_terminal_observation_is_nobodys(tmp_path, kind, final):
    settings = (*SMALL, *KINDS[kind], "algo=apo")
    clean, broken = (make_trainer(tmp_path / str(x), *settings, f"+env.kwargs.final={x}") for x in (0.5, final))
    for trainer in (clean, broken):
        trainer.train(False)
    assert all(torch.equal(weights_of(broken)[name], x) for name, x in weights_of(clean).items())


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_an_observation_that_bootstraps_must_be_finite(tmp_path, num_seeds):
    trainer = make_trainer(tmp_path, *SMALL, *KINDS["box"], "+env.kwargs.limit=nan", f"num_seeds={num_seeds}")
    line = r"env\.id=BoxEnds-v0: environment [0-3] of seed [01] returned an observation that is not finite \(nan\), "
    line += r"at its step \d+"
    with pytest.raises(EnvironmentFault, match=line):
        trainer.train(False)


@pytest.mark.parametrize(
    ("words", "broken"),
    [
        ("bonus=rnd", "final"),
        ("bonus=rnd", "limit"),
        ("algo=apo algo.anchor_by=advantage", "limit"),
        ("algo=sil algo.bootstrap_truncation=true", "limit"),
    ],
)
def test_an_observation_that_the_objective_reads_must_be_finite(tmp_path, words, broken):
    settings = (*SMALL, *KINDS["box"], *words.split(), "gae.bootstrap_truncation=false", "gae.gamma=0.9")
    trainer = make_trainer(tmp_path, *settings, f"+env.kwargs.{broken}=nan")
    with pytest.raises(EnvironmentFault, match=r"returned an observation that is not finite \(nan\)") as error:
        trainer.train(False)
    assert ("terminate the episode" in str(error.value)) == ("bonus=rnd" not in words)


def test_the_environment_its_number_and_step_are_named(tmp_path):
    trainer = make_trainer(tmp_path, *SMALL, *KINDS["box"])
    third = trainer.collector.envs.envs[2].unwrapped
    step, made = third.step, []

    def fails(action):
        made.append(1)
        obs, reward, *rest = step(action)
        return obs, NAN if len(made) == 14 else reward, *rest

    third.step = fails
    with pytest.raises(
        EnvironmentFault, match=r"environment 2 of seed 0 returned a reward that is not finite \(nan\)"
    ) as error:
        trainer.train(False)
    resets = int(str(error.value).partition("its step ")[2].partition(";")[0]) - 14
    assert 2 <= resets <= 4  # of episodes of 3 to 5 steps, a row each


class OneStep(Ends):
    """Every step ends an episode, in a state that is not finite."""

    observation_space, action_space = BoxEnds.observation_space, BoxEnds.action_space

    def see(self):
        return self.np_random.normal(size=3).astype(np.float32)

    def step(self, action):
        return np.full(3, NAN, np.float32), 1.0, True, False, {}


gym.register("OneStep-v0", entry_point=OneStep)


@pytest.mark.parametrize("algo", ALGOS)
def test_an_agent_with_dummy_rows_alone_learns_nothing_from_them(tmp_path, algo):
    settings = ("env.id=OneStep-v0", "env.num_envs=2", "algo.rollout_steps=1", "algo.minibatches=1", "total_steps=16")
    trainer = make_trainer(tmp_path, *settings, f"algo={algo}", "num_seeds=2")
    trainer.train(False)
    assert all(x.isfinite().all() for x in weights_of(trainer).values())


def test_a_time_limit_that_nobody_bootstraps_may_leave_anything_behind(tmp_path):
    settings = (*SMALL, *KINDS["box"], "+env.kwargs.limit=nan", "gae.bootstrap_truncation=false")
    make_trainer(tmp_path, *settings).train(False)


def test_a_reward_that_a_reset_pays_may_be_anything(tmp_path):
    trainer = make_trainer(tmp_path, *SMALL, *KINDS["box"])
    envs = trainer.collector.envs
    step = envs.step

    def watched(actions):
        before = envs._autoreset_envs.copy()
        seen, rewards, *rest = step(actions)
        return seen, np.where(before, NAN, rewards), *rest

    envs.step = watched
    trainer.train(False)


def test_metrics_of_an_update_are_means_over_rows_with_weight(tmp_path):
    # one minibatch, one epoch: the entropy before any step is that of the policies that acted, dummies left out
    settings = ("total_steps=64", "env.num_envs=4", "algo.rollout_steps=16", "algo.minibatches=1", "algo.epochs=1")
    trainer = make_trainer(tmp_path, *settings, *KINDS["discrete"], "num_seeds=2", "algo.ent_coef=0.1")
    rollouts, targets = [], []
    collect, gae = trainer.collector.collect, trainer.targets.gae
    trainer.collector.collect = lambda act: rollouts.append(collect(act)) or rollouts[-1]
    trainer.targets.gae = lambda *args: targets.append(gae(*args)) or targets[-1]
    with torch.no_grad():  # one state is surer than the others, so that means differ
        for group in trainer.learner.groups:
            group.params["actor_torso.layers.0.weight"].mul_(5)
            group.params["actor_head.weight"].mul_(500)
    metrics = []
    update = trainer.learner.update
    trainer.learner.update = lambda *args, **last: metrics.append(update(*args, **last)) or metrics[-1]
    trainer.train(False)
    (rollout,), (target,), (told,) = rollouts, targets, metrics
    entropy = trainer.collector.distribution.entropy(rollout.dist_params)
    for agent in range(2):
        rows = rollout.weights[agent] > 0
        assert 0 < rows.sum() < rows.numel()
        assert told["entropy"][agent].item() == pytest.approx(entropy[agent][rows].mean().item(), rel=1e-4)
        errors = (target.returns - rollout.values)[agent][rows]
        explained = 1 - errors.var(correction=0) / target.returns[agent][rows].var(correction=0)
        assert told["explained_variance"][agent].item() == pytest.approx(explained.item(), rel=1e-3)
