import dataclasses
import importlib.util
from functools import partial

import gymnasium as gym
import numpy as np
import probes
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import WrapperSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import last_metrics, make_config, record, train

from rlexp import build, parts
from rlexp.envs import Environment
from rlexp.errors import ConfigError, EnvironmentFault
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


@pytest.mark.parametrize("vectorization", ["vector", "sync"])
def test_evaluation_episodes_depend_on_their_own_seed_alone_whatever_the_vector(vectorization):
    environment = Environment(id="CartPole-v1", backend="gymnasium", vectorization=vectorization)
    seeds = evaluation_seeds(4)
    together = play(environment, [seeds, seeds], steps=0, independent=True)[0]
    alone = play(environment, [seeds[2:3]], steps=0, independent=True)[0]
    assert np.array_equal(together[2], alone[0])
    assert np.array_equal(together[4:], together[:4])


# What other people's environments give ------------------------------------------------------------------------------

FEW = ("total_steps=64", "env.num_envs=2", "algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=1")


class Strange(probes.Endless):
    """One thing at a time is not as it should be."""

    def __init__(self, what=""):
        self.what = what
        if what == "discrete":
            self.observation_space = spaces.Discrete(4)

    def see(self, x):
        return self.t if self.what == "discrete" else x

    def reset(self, *, seed=None, options=None):
        first, info = super().reset(seed=seed)
        self.evaluated = seed in evaluation_seeds(4)
        return self.see(first + np.nan if self.what == "first" else first), info

    def step(self, action):
        seen, reward, *rest = super().step(action)
        if self.what == "evaluation" and self.evaluated:
            reward = float("nan")
        if self.what == "seen in evaluation" and self.evaluated:
            seen = seen + np.nan
        return self.see(seen), reward, *rest


class Arcade(probes.Endless):
    """Counts the continues that a player has left."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {"continues": 3}


class EndsTwice(SyncVectorEnv):
    """Says in the step of a reset once more that the episode has ended."""

    def __init__(self, num_envs=1):
        super().__init__([partial(gym.make, "Endless-v0")] * num_envs)
        self.last = np.zeros(num_envs, bool)

    def step(self, actions):
        seen, reward, terminated, truncated, info = super().step(actions)
        again, self.last = self.last, truncated.copy()
        return seen, reward, terminated, truncated | again, info


class Numbers(SyncVectorEnv):
    """Flags are whole numbers."""

    def __init__(self, num_envs=1):
        super().__init__([partial(gym.make, "Endless-v0")] * num_envs)

    def step(self, actions):
        seen, reward, terminated, truncated, info = super().step(actions)
        return seen, reward.tolist(), terminated.astype(np.int32), truncated.astype(np.uint8), info


class Turned(Numbers):
    """Observations lie the other way."""

    def reset(self, **kwargs):
        seen, info = super().reset(**kwargs)
        return seen.T, info


class Clips(SyncVectorEnv):
    """Clips rewards unless told otherwise."""

    def __init__(self, num_envs=1, reward_clipping=True):
        super().__init__([partial(gym.make, "Endless-v0")] * num_envs)
        self.clips = reward_clipping

    def step(self, actions):
        seen, reward, *rest = super().step(actions)
        return seen, np.sign(7 * reward) if self.clips else 7 * reward, *rest


class ClipsBehind(Clips):
    """Hands on what it is told."""

    def __init__(self, num_envs=1, **kwargs):
        super().__init__(num_envs, **kwargs)


gym.register("Strange-v0", entry_point=Strange)
gym.register("Arcade-v0", entry_point=Arcade)
for vector in (EndsTwice, Numbers, Turned, ClipsBehind):
    gym.register(f"{vector.__name__}-v0", entry_point=probes.Endless, vector_entry_point=vector)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("discrete", r"returned an observation outside Discrete\(4\) \(4\), at its step 4"),
        ("first", r"its first observations are not finite"),
        ("evaluation", r"returned a reward that is not finite in evaluation"),
        ("seen in evaluation", r"returned an observation that is not finite in evaluation"),
    ],
)
def test_what_an_environment_may_not_give_is_told(tmp_path, what, line):
    with pytest.raises(EnvironmentFault, match=rf"env\.id=Strange-v0: .*{line}"):
        train(tmp_path, *FEW, "env.id=Strange-v0", f"+env.kwargs.what={what}", "evaluation.episodes=4")


def test_a_number_of_continues_does_not_say_that_a_game_goes_on(tmp_path):
    words = (
        "env.id=Arcade-v0",
        "num_seeds=2",
        "evaluation.episodes=1",
        "evaluation.every=64",
        "evaluation.max_steps=9",
    )
    train(tmp_path, *FEW, *words)
    told = last_metrics(tmp_path)
    assert told["episodic_return"] == told["evaluation_return"] == 5.0
    assert record(tmp_path)["result"]["evaluation_return"] == [5.0, 5.0]


def test_an_end_in_the_step_of_a_reset_is_told(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"returned an episode end in the step of a reset, at its step 6"):
        train(tmp_path, *FEW, "env.id=EndsTwice-v0")


def test_flags_may_be_numbers_and_rewards_a_list(tmp_path):
    train(tmp_path, *FEW, "env.id=Numbers-v0", "evaluation.episodes=2")
    assert last_metrics(tmp_path)["episodic_return"] == 5.0


def test_observations_of_another_shape_than_promised_are_told(tmp_path):
    line = r"first observations have shape \(1, 2\); its space requires \(2, 1\)"
    with pytest.raises(EnvironmentFault, match=line):
        train(tmp_path, *FEW, "env.id=Turned-v0")


def test_a_vector_class_that_hands_on_what_it_is_told_clips_no_rewards(tmp_path):
    train(tmp_path, *FEW, "env.id=ClipsBehind-v0")
    assert last_metrics(tmp_path)["episodic_return"] == 35.0


def test_an_id_that_was_registered_anew_is_not_the_one_written_in_torch(monkeypatch):
    assert Environment(id="CartPole-v1").world is not None
    spec = gym.spec("CartPole-v1")
    for changes in ({"entry_point": "probes:Endless"}, {"max_episode_steps": 30}):
        monkeypatch.setitem(gym.registry, "CartPole-v1", dataclasses.replace(spec, **changes))
        assert Environment(id="CartPole-v1").world is None
        with pytest.raises(ConfigError, match="another environment than Gymnasium's is registered"):
            Environment(id="CartPole-v1", backend="torch")
    with pytest.raises(ConfigError, match="torch knows no such environment"):
        Environment(id="probes:CartPole-v1", backend="torch")


def test_a_vector_class_beside_additional_wrappers_gives_way():
    wrapper = WrapperSpec("FlattenObservation", "gymnasium.wrappers:FlattenObservation", {})
    own = {"entry_point": probes.Endless, "vector_entry_point": Numbers, "additional_wrappers": (wrapper,)}
    gym.register("Wrapped-v0", **own)
    envs, _ = Environment(id="Wrapped-v0", num_envs=2).start([[0, 1]])
    assert isinstance(envs, SyncVectorEnv)
    assert not isinstance(envs, Numbers)


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
    with pytest.raises(ConfigError, match=r"env\.kwargs\.colour=1: CartPoleVectorEnv takes no colour"):
        Environment(id="CartPole-v1", kwargs={"colour": 1}).start([[1]])


class Preprocessed(SyncVectorEnv):
    """The id's own vector class sees other observations than one environment alone."""

    def __init__(self, num_envs=1, shift=10.0, reward_clipping=True):
        def make():
            env = gym.wrappers.TransformObservation(gym.make("Endless-v0"), lambda obs: obs + shift, probes.UNIT)
            return gym.wrappers.TransformReward(env, np.sign) if reward_clipping else env

        super().__init__([make] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


gym.register("Preprocessed-v0", entry_point=probes.Endless, vector_entry_point=Preprocessed)


def test_evaluation_plays_what_training_does():
    environment = Environment(id="Preprocessed-v0")
    for independent in (False, True):
        envs, obs = environment.start([[1, 2]], independent=independent)
        assert obs.flatten().tolist() == [10.0, 10.0]
        envs.close()


def test_where_evaluation_would_play_something_else_nothing_starts(monkeypatch):
    start = Environment.start

    def other(self, seeds, *, independent=False, **kwargs):
        return start(Environment(id="Endless-v0" if independent else "Preprocessed-v0"), seeds, independent=independent)

    monkeypatch.setattr(Environment, "start", other)
    line = r"training and evaluation environments differ: .*TransformObs.* in training, .*Endless.* in evaluation"
    with pytest.raises(ConfigError, match=line):
        Environment(id="Preprocessed-v0").probe()


def test_a_vector_class_that_can_clip_rewards_is_told_not_to():
    envs, _ = Environment(id="Preprocessed-v0", kwargs={"shift": 0.0}).start([[1]])
    assert not any(isinstance(env, gym.wrappers.TransformReward) for env in envs.envs)
    for name in ("reward_clipping", "reward_clip"):
        with pytest.raises(ConfigError, match=rf"env\.kwargs\.{name}=True: would clip recorded returns"):
            Environment(id="Preprocessed-v0", kwargs={name: True})
    with pytest.raises(ConfigError, match=r"env\.sign_reward=true"):
        Environment(id="CartPole-v1", sign_reward=True, normalize_reward=True)


@pytest.mark.parametrize("independent", [False, True])
def test_returns_of_atari_are_the_games_own_and_no_action_sticks(independent):
    pytest.importorskip("ale_py", reason="extra atari is not installed")
    environment = parts.build_environment(make_config("env=breakout", "env.id=ale_py:ALE/SpaceInvaders-v5"))
    assert environment.sign_reward
    envs, obs = environment.start([[3]], independent=independent)
    assert obs.shape == (1, 4, 84, 84)
    assert envs.spec.kwargs["repeat_action_probability"] == 0.0
    rng = np.random.default_rng(0)
    paid = {float(envs.step(rng.integers(0, 6, 1))[1][0]) for _ in range(300)}
    envs.close()
    assert {5.0, 10.0} <= paid  # what the first two rows of invaders are worth


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"backend": "torch", "kwargs": {"sutton_barto_reward": True}},
            r"env\.kwargs=.*env\.backend=torch takes only max_episode_steps",
        ),
        (
            {"backend": "torch", "vectorization": "sync"},
            r"env\.vectorization=sync: has no effect",
        ),
    ],
)
def test_what_a_backend_would_not_heed_is_refused(settings, line):
    with pytest.raises(ConfigError, match=line):
        Environment(id="CartPole-v1", **settings)


@pytest.mark.parametrize("limit", [0, -1, 2000.0, True, "7"])
def test_a_time_limit_is_a_whole_number(limit):
    with pytest.raises(
        ConfigError, match=rf"env\.kwargs\.max_episode_steps={limit}: must be a whole number of at least"
    ):
        Environment(id="CartPole-v1", kwargs={"max_episode_steps": limit})


@pytest.mark.parametrize("limits", [[0], [1, 1], [2, 1], [None, None], [0, float("inf")], [0, float("nan")]])
def test_limits_of_a_score_are_low_and_high(limits):
    with pytest.raises(
        ConfigError, match=r"env\.limits=\[.*must be \[low, high\] with low < high, one of which may be"
    ):
        Environment(id="CartPole-v1", limits=limits)
    for good in ([None, 500.0], [0.0, None], [0.0, 500.0], None):
        assert Environment(id="CartPole-v1", limits=good).limits == good


BACKENDS = [
    {"backend": "torch"},
    {"backend": "gymnasium"},
    {"vectorization": "sync"},
    {"vectorization": "async"},
    {"backend": "envpool"},
]


@pytest.mark.parametrize("chosen", BACKENDS, ids=lambda chosen: "".join(chosen.values()))
def test_another_time_limit_reaches_training_and_evaluation_on_every_backend(chosen):
    if chosen.get("backend") == "envpool":
        pytest.importorskip("envpool", reason="extra envpool is not installed")
    environment = Environment(id="CartPole-v1", kwargs={"max_episode_steps": 700}, **chosen)
    for independent in (False, True):
        envs, obs = environment.start([[1]], independent=independent)
        score = 0.0
        for _ in range(700):
            # balances for ever: pushes towards where the pole falls and the cart drifts
            push = obs @ np.array([0.1, 0.3, 3.0, 1.0], np.float32) > 0
            obs, rewards, terminated, truncated, _ = envs.step(push.astype(np.int64))
            score += float(rewards[0])
            assert not terminated[0]
            assert truncated[0] == (score == 700)
        envs.close()
        assert score == 700


def test_settings_of_an_environment_reach_training_and_evaluation():
    environment = Environment(id="CartPole-v1", backend="gymnasium", kwargs={"max_episode_steps": 5})
    assert environment.world is None
    for independent in (False, True):
        envs, _ = environment.start([[1]], independent=independent)
        ends = [envs.step(np.ones(1, np.int64))[3][0] for _ in range(5)]
        envs.close()
        assert ends == [False] * 4 + [True]


def test_evaluation_takes_no_more_processes_than_training():
    assert Environment(id="CartPole-v1", vectorization="async", num_envs=3).evaluation_envs == 3
    assert Environment(id="CartPole-v1", vectorization="sync", num_envs=3).evaluation_envs is None


def test_an_extra_is_asked_for_before_wrappers_that_it_brings(monkeypatch):
    monkeypatch.setattr("rlexp.envs.ids.MODULES", {"minigrid": "no_such_module"})
    with pytest.raises(ConfigError, match=r"needs no_such_module, which is not installed: pip install"):
        build.check(make_config("env=minigrid", "env.wrappers=[{_target_: no_such_module.Wrapper}]"))


def test_an_id_whose_package_is_missing_names_how_it_is_installed(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "minigrid" else found(name))
    said = (
        r"needs minigrid, which is not installed: pip install 'rlexp\[minigrid\]'; then env.id=minigrid:MiniGrid-X-v0"
    )
    with pytest.raises(ConfigError, match=said):
        Environment(id="MiniGrid-X-v0")


def test_what_an_extra_brings_is_asked_for_before_anything_is_made(monkeypatch):
    monkeypatch.setattr("rlexp.envs.ids.MODULES", {"mujoco": "no_such_module"})
    with pytest.raises(
        ConfigError, match=r"HalfCheetah-v5: needs .*, which is not installed: pip install 'rlexp\[mujoco\]'"
    ):
        parts.build_environment(make_config("env=halfcheetah"))
    parts.build_environment(make_config("env=cartpole"))
