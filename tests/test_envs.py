import gymnasium as gym
import numpy as np
import probes
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlexp.envs import Environment
from rlexp.envs.state import copyable, restore, snapshot
from rlexp.errors import ConfigError
from rlexp.seeding import env_seeds, evaluation_seeds


def play(environment, seeds, steps=60, agents=1, **kwargs):
    envs, obs = environment.start(seeds, **kwargs)
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, 2, envs.num_envs // agents) for _ in range(steps)]
    seen = [obs.copy(), *(envs.step(np.tile(a, agents))[0].copy() for a in actions)]
    envs.close()
    return np.stack(seen)


@pytest.mark.parametrize(
    ("backend", "vectorization"), [("gymnasium", "auto"), ("gymnasium", "sync"), ("envpool", "auto")]
)
def test_an_agents_environments_do_not_depend_on_its_neighbours(backend, vectorization):
    if backend == "envpool":
        pytest.importorskip("envpool", reason="extra envpool is not installed")
    environment = Environment(id="CartPole-v1", backend=backend, vectorization=vectorization)
    seeds = [env_seeds(k, 3) for k in range(3)]
    batch, alone = play(environment, seeds, agents=3), play(environment, seeds[2:])
    assert np.array_equal(batch[:, 6:], alone)
    assert not np.array_equal(batch[:, :3], alone)


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
def test_next_step_autoreset(backend):
    if backend == "envpool":
        pytest.importorskip("envpool", reason="extra envpool is not installed")
    envs, _ = Environment(id="CartPole-v1", backend=backend).start([[1, 2]])
    done = np.zeros(2, bool)
    ends = 0
    for _ in range(80):
        obs, rewards, terminated, truncated, _ = envs.step(np.ones(2, np.int64))
        if done.any():  # the dummy step: no reward, no end, the first observation of a new episode
            assert (rewards[done] == 0).all()
            assert not (terminated | truncated)[done].any()
            assert (abs(obs[done]) <= 0.05).all()
        done = terminated | truncated
        assert (abs(obs[done][:, 2]) > 0.2).all()  # the true final observation: the pole is down
        ends += done.sum()
    envs.close()
    assert ends > 4


def test_time_limits_truncate():
    envs, _ = Environment(id="MountainCar-v0").start([[1]])
    ends = [envs.step(np.ones(1, np.int64))[2:4] for _ in range(200)]
    envs.close()
    assert [bool(t[0]) for t, _ in ends] == [False] * 200
    assert [bool(t[0]) for _, t in ends] == [False] * 199 + [True]


def test_evaluation_episodes_depend_on_their_own_seed_alone():
    environment, seeds = Environment(id="CartPole-v1"), evaluation_seeds(4)
    together = play(environment, [seeds], steps=1, independent=True)
    alone = play(environment, [seeds[2:3]], steps=1, independent=True)
    assert np.array_equal(together[0, 2], alone[0, 0])


def test_evaluation_seeds_are_apart_from_training_seeds():
    training = {s for seed in range(2000) for s in env_seeds(seed, 16)}
    assert not training & set(evaluation_seeds(200))
    assert len(training) > 31_990  # and neighbouring seeds share none but by chance


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1"])
def test_classic_control_and_toys_are_copied_exactly(id):
    assert copyable(Environment(id=id))


def test_a_copy_that_does_not_go_on_exactly_is_not_trusted():
    assert not copyable(Environment(id="PickledByArguments-v0"))
    if gym.spec("HalfCheetah-v5") and pytest.importorskip("mujoco", reason="extra mujoco is not installed"):
        assert not copyable(Environment(id="HalfCheetah-v5"))


def test_snapshots_load_nothing_but_an_environments_own_classes():
    class Evil:
        def __reduce__(self):
            return (print, ("gotcha",))

    envs, _ = Environment(id="Endless-v0").start([[1]])
    envs.envs[0].unwrapped.extra = Evil()
    data = snapshot(envs)
    other, _ = Environment(id="Endless-v0").start([[1]])
    with pytest.raises(Exception, match="print has no place"):
        restore(other, data)


def test_other_autoreset_modes_are_refused():
    class SameStep(SyncVectorEnv):
        def __init__(self, num_envs=1, **kwargs):
            super().__init__([lambda: gym.make("Endless-v0")] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

    gym.register("SameStep-v0", entry_point=probes.Endless, vector_entry_point=SameStep)
    with pytest.raises(ConfigError, match=r"autoreset mode is .*SAME_STEP"):
        Environment(id="SameStep-v0").start([[1]])


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"env.id=CartPol-v1: .* did you mean CartPole-v1"):
        Environment(id="CartPol-v1")
    with pytest.raises(ConfigError, match=r"env.num_envs=0"):
        Environment(id="CartPole-v1", num_envs=0)
    with pytest.raises(ConfigError, match=r"needs no_such_module.*pip install 'rlexp\[toys\]'"):
        Environment(id="no_such_module:Toy-v0", extra="toys")
    with pytest.raises(ConfigError, match=r"env.id=CartPole-v1: cannot be made.*colour"):
        Environment(id="CartPole-v1", kwargs={"colour": 1}).start([[1]])
