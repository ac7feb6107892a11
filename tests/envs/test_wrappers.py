"""env.wrappers: of each single environment, in training and in evaluation alike."""

import gymnasium as gym
import numpy as np
import pytest
from helpers import make_config, records, resumed, train

from rlexp import parts
from rlexp.errors import ConfigError, EnvironmentFault

TINY = ("env=cartpole", "tuned=none", "total_steps=256", "algo.rollout_steps=16", "compile=false", "progress=none")
TINY += ("evaluation.episodes=1",)


class Halved(gym.ObservationWrapper):
    """Half of every observation, whose space says so."""

    def __init__(self, env, by=2.0):
        super().__init__(env)
        self.by = by
        space = env.observation_space
        self.observation_space = gym.spaces.Box(space.low / by, space.high / by, dtype=np.float32)

    def observation(self, observation):
        return (observation / self.by).astype(np.float32)


class Raised(gym.ObservationWrapper):
    """One more than every observation."""

    def observation(self, observation):
        return observation + 1


class Broken(gym.ObservationWrapper):
    """Drops a number, of which its space does not tell."""

    def observation(self, observation):
        return observation[:3]


class Raises(gym.Wrapper):
    """Cannot be made."""

    def __init__(self, env):
        raise RuntimeError("no such file")


def made(*wrappers, **more):
    listed = ",".join(f"{{_target_: test_wrappers.{each}}}" for each in wrappers)
    words = [f"env.{key}={value}" for key, value in more.items()]
    return parts.build_environment(make_config("env=cartpole", "tuned=none", f"env.wrappers=[{listed}]", *words))


@pytest.mark.parametrize("vectorization", ["auto", "sync", "async"])
def test_they_are_applied_from_the_inside_out(vectorization):
    plain, _ = parts.build_environment(make_config("env=cartpole", "tuned=none", "env.vectorization=sync")).start([[3]])
    environment = made("Halved", "Raised", "Halved,by: 5", vectorization=vectorization)
    for independent in (False, True):
        envs, obs = environment.start([[3]], independent=independent)
        assert obs == pytest.approx((plain.reset(seed=[3])[0] / 2 + 1) / 5)
        assert envs.single_observation_space.high[0] == pytest.approx(4.8 / 10)
        envs.close()
    assert environment.world is None


def test_one_that_breaks_its_space_is_named_with_file_and_line():
    with pytest.raises(
        EnvironmentFault, match=r"test_wrappers\.py:\d+: Broken.*has shape \(3,\); its space has \(4,\)"
    ):
        made("Broken").try_steps()


def test_one_that_cannot_be_made_is_told():
    with pytest.raises((ConfigError, EnvironmentFault), match=r"cannot be made: .*no such file"):
        made("Raises").probe()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["env.wrappers=5"], "env.wrappers=5: "),
        (["env.wrappers=[gymnasium.wrappers.ClipReward]"], "give a list, each as {_target_: module.Class}"),
        (["env.wrappers=[{_target_: gymnasium.wrappers.ClipRewar}]"], "did you mean ClipReward?"),
        (["env.wrappers=[{_target_: gymnasium.wrappers.ClipReward,min: 0}]"], "env.wrappers[0].min=0: "),
        (["env.wrappers=[{_target_: test_wrappers.Halved}]", "env.backend=torch"], "steps no single environments"),
        (
            ["env.wrappers=[{_target_: test_wrappers.Halved}]", "env.vectorization=vector"],
            "steps no single environments",
        ),
        (["env.wrappers=[{_target_: builtins.str}]"], "env.wrappers: str makes no gymnasium.Env"),
        (["env=breakout", "env.wrappers=[{_target_: test_wrappers.Halved}]"], "Atari is stepped by ALE's vector class"),
    ],
)
def test_what_cannot_be_one_is_refused_in_one_line(cli, words, told):
    result = cli(*TINY, *words)
    assert result.code == 1
    assert told in result.err
    assert result.err.count("\n") == 1


def test_a_wrapped_environment_trains(cli):
    result = cli(*TINY, "env.wrappers=[{_target_: gymnasium.wrappers.TimeAwareObservation}]")
    assert result.code == 0, result.err


def test_starts_drift_from_phase_to_phase_and_back():
    from rlexp.envs.wrappers import DriftingStarts

    env = DriftingStarts(gym.make("CartPole-v1"), [[0.05, 0.15], [-0.15, -0.05]], every=30)
    sides, phases = [], []
    obs, _ = env.reset(seed=0)
    for step in range(90):
        obs, _, terminated, _, _ = env.step(step % 2)
        if terminated or step % 7 == 6:
            obs, _ = env.reset()
            assert (np.abs(obs) >= 0.05 - 1e-6).all()
            assert len(set(np.sign(obs))) == 1
            sides.append(int(np.sign(obs[0])))
            phases.append((step + 1) // 30 % 2)
    assert sides == [1 - 2 * phase for phase in phases]
    assert set(phases) == {0, 1}
    with pytest.raises(ConfigError, match=r"DriftingStarts: ranges=\[\[1, 0\]\], every=30: give \[low, high\]"):
        DriftingStarts(gym.make("CartPole-v1"), [[1, 0]], every=30)


def test_evaluation_starts_as_the_first_phase_does():
    environment = parts.build_environment(make_config("env=cartpole_drifting", "env.num_envs=2"))
    envs, obs = environment.start([[0, 1]], independent=True)
    assert (obs > 0.049).all()
    envs.close()


def test_so_does_every_one_of_many_evaluations_and_after_a_resume(tmp_path):
    drifts = ("env=cartpole_drifting", "env.wrappers.0.every=20", "env.num_envs=2", "algo.rollout_steps=32")
    words = (*drifts, "log_every=64", "evaluation.every=64", "evaluation.curve_episodes=2", "total_steps=512")
    trainer = train(tmp_path / "a", *words)
    starts = trainer.curve.envs.start([[0, 1]] * 2)
    assert (starts > 0.099).all()
    trained = [env.steps for env in trainer.collector.envs.envs]
    assert min(trained) > 200  # of 256 rows, in which no episode starts anew with a seed
    resumed(tmp_path / "b", *words)
    assert records(tmp_path / "a") == records(tmp_path / "b")
