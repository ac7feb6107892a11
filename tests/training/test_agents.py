"""Losses and networks, whoever wrote them, stacked over agents: each agent trains as it would alone."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import probes
import pytest
import torch
from gymnasium import spaces
from helpers import have_same_weights, last_metrics, make_trainer, resumed, train, weights_of, write_config
from strangers import SMALL, algo, torso
from torch.testing import assert_close

import rlexp
from rlexp.errors import ConfigError, ObjectiveError
from rlexp.networks.actor_critic import Policy


def test_a_loss_that_cannot_be_stacked_is_not(tmp_path):
    with pytest.raises(
        ConfigError, match=r"batching=vmap: the loss \(.*strangers.py:\d+\) cannot be used with stacked agents"
    ):
        train(tmp_path / "a", *SMALL, algo("Branches"), "num_seeds=2", "batching=vmap")
    looped = train(tmp_path / "b", *SMALL, algo("Branches"), "num_seeds=2")
    assert len(looped.learner.groups) == 2


def test_a_replay_of_other_shapes_runs_uncompiled(tmp_path, traced, caplog):
    settings = (*SMALL, algo("Late"), "num_seeds=2")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    assert caplog.text.count("runs uncompiled where algo.replay returns other shapes") == 1
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-4)


def test_a_loss_augments_its_rows_stacked_alone_and_compiled(tmp_path, traced):
    settings = (*SMALL, algo("Augments"))
    alone = train(tmp_path / "alone", *settings, "seed=1")
    assert last_metrics(tmp_path / "alone", 1)["moved"] > 0.001
    for name, words in {
        "alone_compiled": ("seed=1", "compile=true"),
        "stacked": ("num_seeds=2",),
        "stacked_compiled": ("num_seeds=2", "compile=true"),
        "looped": ("num_seeds=2", "batching=loop"),
    }.items():
        other = train(tmp_path / name, *settings, *words)
        assert "compile=true" not in words or all(other.learner.graphs[0].made.values())
        for key, x in weights_of(alone).items():
            assert_close(weights_of(other)[key][-1], x[0], atol=2e-4, rtol=2e-3, msg=f"{name} {key}")


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_penalty_on_parameters_moves_them(tmp_path, num_seeds):
    plain = train(tmp_path / "plain", *SMALL, f"num_seeds={num_seeds}")
    penalised = train(tmp_path / "penalised", *SMALL, algo("Penalised"), f"num_seeds={num_seeds}")
    assert sum(x.norm() for x in weights_of(penalised).values()) < 0.99 * sum(
        x.norm() for x in weights_of(plain).values()
    )
    with pytest.raises(AttributeError):
        _ = Policy(SimpleNamespace(distribution=None), {}).network


def test_target_kl_wants_the_metric_that_it_reads(tmp_path):
    with pytest.raises(ObjectiveError, match=r"algo\.target_kl=0\.1: needs the metric approx_kl.*Silent"):
        train(tmp_path, *SMALL, algo("Silent"), "algo.target_kl=0.1")


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["Scaled", "Transient", "Frozen", "Projected", "OfNumbers", "Attends"])
def test_networks_train_stacked_as_alone_resume_and_are_loaded(tmp_path, name):
    settings = (*SMALL[:-1], *torso(name), "num_seeds=2", "evaluation.episodes=2", "batching=auto")
    if name in ("Projected", "Attends"):
        settings = (*settings, "batching=loop")
    batch = train(tmp_path / "batch", *settings)
    alone = train(tmp_path / "alone", *settings, "seed=1", "num_seeds=1")
    for key, x in weights_of(alone).items():
        assert_close(weights_of(batch)[key][1], x[0], atol=2e-4, rtol=2e-3, msg=key)
    norms = [last_metrics(tmp_path / name, seed=1)["grad_norm"] for name in ("batch", "alone")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert have_same_weights(resumed(tmp_path / "resumed", *settings), batch)
    for key in ("actor_torso.layer.weight", "actor_torso.layer.bias"):
        if name == "Attends":
            break
        start = make_trainer(tmp_path / "start", *settings)
        assert torch.equal(weights_of(start)[key], weights_of(batch)[key]) == (name == "Frozen")

    folder = tmp_path / "batch"
    write_config(folder, *settings)
    policy = rlexp.load_policy(folder, seed=1, trust=["strangers"])
    obs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    params, _ = batch.learner.policy(obs.expand(2, 5, 4))
    assert policy(obs.numpy()).tolist() == params[1].argmax(-1).tolist()


def test_a_network_that_draws_from_global_streams_draws_from_its_agents_seed(tmp_path):
    first, again, other = (make_trainer(tmp_path, *SMALL[:-1], *torso("OfNumbers"), f"seed={k}") for k in (0, 0, 1))
    weights = [weights_of(trainer)["actor_torso.projection"] for trainer in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loaded_policy_acts_on_one_observation_as_on_several(tmp_path):
    gym.register("Sets-v0", entry_point=Sets)
    settings = (*SMALL[1:-1], "env.id=Sets-v0", *torso("OverSet"))
    train(tmp_path, *settings)
    write_config(tmp_path, *settings)
    policy = rlexp.load_policy(tmp_path, trust=["strangers"])
    obs = np.random.default_rng(0).normal(size=(5, 4, 4)).astype(np.float32)
    assert policy(obs).tolist() == [policy(one).tolist() for one in obs]


PIXELS = ("env.id=Pixels-v0", "network=nature_cnn", "network.torso.features=16", "total_steps=64")


PIXELS += ("env.num_envs=2", "algo.rollout_steps=8", "algo.minibatches=2", "algo.epochs=1")


@pytest.mark.few(2)
@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [(*PIXELS, "total_steps=256", "env.num_envs=8"), (*SMALL[:-1], "total_steps=256", *torso("LaidOut"))],
    ids=["pixels", "others"],
)
def test_gradients_move_their_own_weights_however_they_are_laid_out(tmp_path, settings, num_seeds):
    seeds = (f"num_seeds={num_seeds}", "batching=vmap")
    fused = train(tmp_path / "fused", *settings, *seeds)
    plain = train(tmp_path / "plain", *settings, *seeds, "optimizer.fused=false", "+optimizer.foreach=false")
    for key, x in weights_of(plain).items():
        assert_close(weights_of(fused)[key], x, atol=1e-6, rtol=1e-5, msg=key)
    assert have_same_weights(resumed(tmp_path / "resumed", *settings, *seeds, after=1), fused)


def test_stacked_convolutions_are_those_of_a_loop(tmp_path):
    settings = (*PIXELS, "num_seeds=2")
    stacked = train(tmp_path / "vmap", *settings, "batching=vmap")
    looped = train(tmp_path / "loop", *settings, "batching=loop")
    assert (len(stacked.learner.groups), len(looped.learner.groups)) == (1, 2)
    for key, x in weights_of(looped).items():
        assert_close(weights_of(stacked)[key], x, atol=2e-4, rtol=2e-3, msg=key)


class Sets(probes.Endless):
    """Observations are four rows of four."""

    observation_space = spaces.Box(-np.inf, np.inf, (4, 4), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self.np_random.normal(size=(4, 4)).astype(np.float32), {}

    def step(self, action):
        _, *rest = super().step(action)
        return self.np_random.normal(size=(4, 4)).astype(np.float32), *rest
