"""The vector environment of worlds written in torch: autoreset, streams, compiled, and in training."""

import numpy as np
import pytest
import torch
from helpers import make_trainer, train, weights_of
from torch.testing import assert_close

from rlexp.compiling.compile import Graph
from rlexp.envs import Environment
from rlexp.envs.classic_control import WORLDS
from rlexp.envs.torch_vector import EnvBuffers, advance
from rlexp.seeding import env_seeds


def test_time_limit_and_next_step_autoreset():
    envs, first = Environment(id="MountainCar-v0", backend="torch").start([[3, 4]])
    for t in range(1, 201):
        obs, rewards, terminated, truncated, _ = envs.step(np.ones(2, np.int64))
        assert (rewards == -1).all()
        assert not terminated.any()
        assert (truncated == (t == 200)).all()
    final = obs.copy()
    obs, rewards, terminated, truncated, _ = envs.step(np.ones(2, np.int64))  # the dummy
    assert (rewards == 0).all()
    assert not (terminated | truncated).any()
    assert (obs[:, 1] == 0).all()
    assert not np.array_equal(obs, final)
    assert not np.array_equal(obs, first)


def test_an_agents_environments_do_not_depend_on_its_neighbours():
    environment = Environment(id="CartPole-v1", backend="torch")
    seen = []
    for agents in (range(3), range(2, 3)):
        envs, obs = environment.start([env_seeds(k, 4) for k in agents])
        seen.append([obs, *(envs.step(np.ones(envs.num_envs, np.int64))[0] for _ in range(40))])
    assert np.array_equal(np.array(seen[0])[:, 8:], np.array(seen[1]))


@pytest.mark.slow
def test_every_world_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("RLEXP_CACHE", str(tmp_path))
    names = list(WORLDS)
    envs = [Environment(id=name, backend="torch").start([[k, k]])[0] for k, name in enumerate(names)]
    places = [
        EnvBuffers(
            noise=env.draw(1)[:, 0],
            state=env.state,
            elapsed=env.elapsed,
            done=env.done,
            next_obs=torch.zeros_like(env.world.observe(env.state)),
            reward=torch.zeros(env.shape),
            terminated=torch.zeros(env.shape, dtype=torch.bool),
            truncated=torch.zeros(env.shape, dtype=torch.bool),
        )
        for env in envs
    ]
    actions = [
        torch.full((*env.shape, 1), 0.7) if "Pendulum" in n else torch.ones(env.shape, dtype=torch.int64)
        for n, env in zip(names, envs, strict=True)
    ]

    def step(places, actions):
        for name, place, action in zip(names, places, actions, strict=True):
            advance(WORLDS[name](), action, place)
        return (places[0].reward,)

    compiled = [EnvBuffers(*(x.clone() for x in place)) for place in places]
    graph = Graph(step, compiled, actions)
    graph.build()
    graph.load()
    for _ in range(20):
        graph.run(graph.leaves(compiled, actions))
        step(places, actions)
    for mine, theirs in zip(compiled, places, strict=True):
        assert_close(mine.next_obs, theirs.next_obs, atol=1e-5, rtol=1e-5)
        assert torch.equal(mine.done, theirs.done)


@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
def test_a_batch_a_loop_and_a_lone_seed_agree(tmp_path, env):
    settings = (f"env={env}", "env.backend=torch", "env.num_envs=4", "algo.rollout_steps=64", "total_steps=1024")
    batch = train(tmp_path / "batch", *settings, "num_seeds=3")
    loop = train(tmp_path / "loop", *settings, "num_seeds=3", "batching=loop")
    alone = train(tmp_path / "alone", *settings, "seed=2")
    for name, tensor in weights_of(batch).items():
        assert_close(weights_of(loop)[name], tensor, atol=2e-4, rtol=2e-3)
        assert_close(weights_of(alone)[name][0], tensor[2], atol=2e-4, rtol=2e-3)
    assert batch.games.finished[2] == alone.games.finished[0]


def test_the_bootstrap_step_leaves_the_environments_where_they_are(tmp_path):
    trainer = make_trainer(
        tmp_path, "env=cartpole", "env.backend=torch", "env.num_envs=3", "algo.rollout_steps=4", "algo.minibatches=2"
    )
    collector = trainer.collector
    for steps in (4, 8):  # too few for an episode to end
        rollout = collector.collect(trainer.learner.acting(collector.slots))
        assert not (rollout.terminated | rollout.truncated).any()
        assert collector.envs.elapsed.tolist() == [[steps] * 3]
        assert torch.equal(collector.envs.world.observe(collector.envs.state), collector.slots[-1].obs)
