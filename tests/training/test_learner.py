import gc
import weakref

import pytest
import torch
from helpers import make_trainer, train, weights_of
from torch.testing import assert_close

SMALL = ("total_steps=1536", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.few(3)
@pytest.mark.parametrize("algo", ["ppo", "apo", "ppo_kl"])
@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
def test_a_seed_in_a_batch_is_that_seed_alone(tmp_path, algo, env):
    settings = (*SMALL, f"algo={algo}", f"env={env}", "env.normalize_obs=true", "env.normalize_reward=true")
    batch = train(tmp_path / "batch", *settings, "num_seeds=5")
    alone = train(tmp_path / "alone", *settings, "seed=3")
    assert [len(g.params["critic_head.bias"].shape) for g in (batch.learner.groups[0], alone.learner.groups[0])] == [
        2,
        1,
    ]
    for name, tensor in weights_of(alone).items():
        assert_close(weights_of(batch)[name][3], tensor[0], atol=2e-4, rtol=2e-3, msg=name)
    assert batch.steps[3] == alone.steps[0]
    assert_close(
        torch.tensor(list(batch.games.recent[3])), torch.tensor(list(alone.games.recent[0])), rtol=1e-5, atol=1e-3
    )


def test_a_loop_over_agents_is_the_stacked_batch(tmp_path):
    stacked = train(tmp_path / "vmap", *SMALL, "num_seeds=3", "batching=vmap")
    looped = train(tmp_path / "loop", *SMALL, "num_seeds=3", "batching=loop")
    assert (len(stacked.learner.groups), len(looped.learner.groups)) == (1, 3)
    for name, tensor in weights_of(stacked).items():
        assert_close(weights_of(looped)[name], tensor, atol=2e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_trainer_that_is_gone_leaves_no_weights(tmp_path, num_seeds):
    trainer = train(tmp_path, *SMALL, f"num_seeds={num_seeds}")
    left = [weakref.ref(param) for param in trainer.learner.groups[0].params.values()]
    del trainer
    gc.collect()
    assert [param for param in left if param() is not None] == []  # kept by the graphs of their own gradients


def test_seeds_differ_and_a_seed_repeats(tmp_path):
    first = weights_of(train(tmp_path / "a", *SMALL, "num_seeds=2"))
    again = weights_of(train(tmp_path / "b", *SMALL, "num_seeds=2"))
    assert same(first, again)
    assert not torch.equal(first["actor_head.weight"][0], first["actor_head.weight"][1])


def test_first_minibatch_has_ratio_one(tmp_path):
    trainer = make_trainer(tmp_path, "algo.epochs=1", "algo.minibatches=1", "env.normalize_obs=true")
    for _ in range(3):  # also once the normaliser has moved
        rollout = trainer.collector.collect(trainer.learner.acting(trainer.collector.slots))
        targets = trainer.targets.gae(
            rollout.rewards, rollout.values, rollout.last_values, rollout.terminated, rollout.truncated
        )
        metrics = trainer.learner.update(rollout, targets, 0.0)
        trainer.learner.normalize(rollout)
        assert metrics["approx_kl"].abs().max() < 1e-6
        assert metrics["clip_fraction"].max() == 0


def test_gradients_are_clipped_agent_by_agent(tmp_path):
    trainer = make_trainer(tmp_path, "num_seeds=2", "algo.max_grad_norm=0.1", "algo.epochs=1", "algo.minibatches=1")
    rollout = trainer.collector.collect(trainer.learner.acting(trainer.collector.slots))
    rollout.rewards[1] *= 100  # the second agent's gradient is far larger
    targets = trainer.targets(rollout, trainer.learner.policies)
    norms = trainer.learner.update(rollout, targets, 0.0)["grad_norm"]
    assert norms[1] > 10 * norms[0] > 1
    grads = [leaf.grad for leaf in trainer.learner.groups[0].params.values()]
    clipped = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    assert_close(clipped, torch.full((2,), 0.1), rtol=1e-3, atol=0)


def test_schedules_and_annealing_reach_the_update(tmp_path):
    trainer = make_trainer(tmp_path, "algo.clip_coef=[0.4,0]", "optimizer.lr=[1e-2,0]", "num_seeds=2")
    values = trainer.algo.coefficients(0.25, 2, torch.device("cpu"))
    assert_close(values["clip_coef"], torch.full((2,), 0.3))
    rollout = trainer.collector.collect(trainer.learner.acting(trainer.collector.slots))
    targets = trainer.targets(rollout, trainer.learner.policies)
    trainer.learner.update(rollout, targets, 0.5)
    assert trainer.learner.groups[0].optimizer.param_groups[0]["lr"] == pytest.approx(5e-3)


def test_target_kl_stops_each_agent_for_itself(tmp_path):
    settings = (*SMALL, "algo.epochs=6", "optimizer.lr=5e-3", "algo.target_kl=0.01")
    batch = make_trainer(tmp_path / "batch", *settings, "num_seeds=3")
    alone = [make_trainer(tmp_path / f"{k}", *settings, f"seed={k}") for k in range(3)]
    epochs = []
    for trainer in (batch, *alone):
        rollout = trainer.collector.collect(trainer.learner.acting(trainer.collector.slots))
        targets = trainer.targets.gae(
            rollout.rewards, rollout.values, rollout.last_values, rollout.terminated, rollout.truncated
        )
        epochs.append(trainer.learner.update(rollout, targets, 0.0)["epochs"].tolist())
    assert epochs[0] == [e for (e,) in epochs[1:]]
    assert min(epochs[0]) < 6
