"""Super Mario Bros: its wrappers, on environments made by hand; the game itself where its package is installed."""

import csv
import importlib.util
import sys

import gymnasium as gym
import numpy as np
import pytest
from helpers import make_config

from rlexp import build, evaluate, parts
from rlexp.envs.wrappers import Furthest, MaxAndSkip, NoopStart, Resize, area_weights
from rlexp.errors import ConfigError, TrustError
from rlexp.run.trust import require_trusted

PACKAGE = "gymnasium_mariobros"
game = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")
# Gymnasium takes its other graphics, -v1 to -v3, for newer versions
pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
MARIO = ("env=mario", "env.num_envs=2", "algo.rollout_steps=8", "total_steps=32", "torch_threads=1")


class Walk(gym.Env):
    """Action a is a step of a; info tells where one is. Ends after `limit` steps; images are brighter by each step."""

    metadata = {"render_fps": 60}
    observation_space = gym.spaces.Box(0, 255, (2, 3), np.uint8)
    action_space = gym.spaces.Discrete(9, start=-4)

    def __init__(self, limit=100):
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = 40, 0
        return np.zeros((2, 3), np.uint8), {"x": self.x}

    def step(self, action):
        self.x, self.steps = self.x + action, self.steps + 1
        return np.full((2, 3), self.steps, np.uint8), -1.0, self.steps == self.limit, False, {"x": self.x}


class Picture(gym.Env):
    """Shows one picture."""

    action_space = gym.spaces.Discrete(1)

    def __init__(self, picture):
        self.picture = np.array(picture, np.uint8)
        self.observation_space = gym.spaces.Box(0, 255, self.picture.shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        return self.picture, {}


# Resize ---------------------------------------------------------------------------------------------------------------


def test_a_pixel_is_shared_by_the_parts_that_it_reaches_into():
    # 3 pixels to 2 parts of 1.5: the first takes pixel 0 and half of pixel 1, so 1/1.5 = 2/3 and .5/1.5 = 1/3
    assert area_weights(3, 2) == pytest.approx(np.array([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))
    # 2 to 3 parts of 2/3: [0, 2/3) in pixel 0, [2/3, 4/3) half in each, [4/3, 2) in pixel 1
    assert area_weights(2, 3) == pytest.approx(np.array([[1, 0], [0.5, 0.5], [0, 1]]))


def test_a_new_pixel_is_the_mean_of_its_area():
    # rows 4 -> 2 and columns 3 -> 2; each row's parts are (2 a + b) / 3 and (b + 2 c) / 3, then two rows' mean
    #   0  30  90 ->  10  70
    #  60  60  60 ->  60  60    mean 35, 65
    #   0   0   9 ->   0   6
    # 250 250 255 -> 250 253⅓   mean 125, 129⅔ -> 130
    env = Resize(Picture([[0, 30, 90], [60, 60, 60], [0, 0, 9], [250, 250, 255]]), 2, 2)
    seen, _ = env.reset()
    assert seen.tolist() == [[35, 65], [125, 130]]
    assert seen in env.observation_space


def test_colours_are_resized_one_by_one():
    # one row of two pixels, 0 and 100 in red, 10 and 20 in green, to one: their means
    env = Resize(Picture([[[0, 10, 255], [100, 20, 255]]]), 1, 1)
    assert env.reset()[0].tolist() == [[[50, 15, 255]]]
    assert env.observation_space.shape == (1, 1, 3)


def test_a_resized_image_of_one_brightness_keeps_it():
    seen, _ = Resize(Picture(np.full((240, 256), 255)), 84, 84).reset()
    assert seen.shape == (84, 84)
    assert seen.min() == 255


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(3), gym.spaces.Box(0, 1, (4, 4)), Picture([1]).observation_space]
)
def test_only_images_are_resized(space):
    env = Picture([[1]])
    env.observation_space = space
    with pytest.raises(ValueError, match="Resize needs images of uint8"):
        Resize(env)


# Furthest, NoopStart, MaxAndSkip --------------------------------------------------------------------------------------


def test_the_return_is_the_furthest_position():
    env = Furthest(Walk(), "x")
    for _ in range(2):  # the second episode is counted anew
        env.reset()
        # positions 43, 41, 43, 45: new ground is 43 (with the start, 40), 0, 0, 2
        assert [env.step(action)[1] for action in (3, -2, 2, 2)] == [43, 0, 0, 2]
    env.reset()
    assert [env.step(action)[1] for action in (-3, 4)] == [40, 1]  # 37, 41: the start is the furthest, then 41


def test_ground_gained_between_two_observations_counts():
    env = MaxAndSkip(Furthest(Walk(), "x"), 2)
    env.reset()
    assert env.step(1)[1] == 42


def test_videos_of_repeated_actions_are_in_real_time():
    env = MaxAndSkip(Walk(), 4)
    assert (env.metadata["render_fps"], Walk.metadata["render_fps"]) == (15, 60)
    env.reset()
    assert env.step(1)[0].max() == 4
    assert "render_fps" not in MaxAndSkip(Picture([[1]])).metadata


def test_starts_differ_by_seed_and_are_the_same_again():
    def first(env, seed):
        return int(env.reset(seed=seed)[0].max())  # no-ops

    env = NoopStart(Walk(), 3)
    assert {first(env, seed) for seed in range(30)} == {0, 1, 2, 3}
    assert [first(env, seed) for seed in range(9)] == [first(NoopStart(Walk(), 3), seed) for seed in range(9)]
    assert {first(NoopStart(Walk(), 0), seed) for seed in range(9)} == {0}


def test_an_end_before_the_start_starts_again():
    env = NoopStart(Walk(limit=2), 30)
    assert {int(env.reset(seed=seed)[0].max()) for seed in range(30)} == {0, 1}


# The game -------------------------------------------------------------------------------------------------------------


def test_without_its_package_one_line_says_how_it_is_installed(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # as if it were not installed
    result = cli("env=mario")
    assert result.code == 1
    assert result.err == (
        f"rlexp: env.id={PACKAGE}:SuperMarioBros-1-1-v0: needs {PACKAGE}, which is not installed: "
        "pip install --no-deps gymnasium-mariobros cynes\n"
    )


def test_a_module_that_the_package_needs_is_told_likewise(tmp_path, monkeypatch):
    (tmp_path / "their_game.py").write_text("import no_such_emulator")
    monkeypatch.syspath_prepend(tmp_path)
    words = ("env=mario", "env.id=their_game:Game-v0", "env.install=make game")
    with pytest.raises(ConfigError, match=r"needs no_such_emulator, which is not installed: make game$"):
        build.check(make_config(*words))


def test_wrappers_of_rlexp_are_trusted_and_other_classes_of_it_are_no_wrappers():
    def config(target):
        env = {"_target_": "rlexp.envs.Environment", "id": "CartPole-v1", "wrappers": [{"_target_": target}]}
        return {"env": env}

    require_trusted(config("rlexp.envs.wrappers.Resize"), {"env": parts.Environment})
    for target in ("rlexp.envs.wrappers.area_weights", "rlexp.networks.NatureCNN", "their_pkg.Wrapper"):
        with pytest.raises(TrustError, match=r"env\.wrappers\[0\]\._target_"):
            require_trusted(config(target), {"env": parts.Environment})


@pytest.fixture
def environment():
    pytest.importorskip(PACKAGE)
    return parts.build_environment(make_config(*MARIO))


def test_it_is_stepped_in_one_process_by_default(environment):
    assert (environment.world, environment._mode()) == (None, "sync")


def test_observations_are_stacked_grey_frames_of_uint8(environment):
    observation_space, action_space = environment.probe()
    assert observation_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert action_space == gym.spaces.Discrete(5)


@pytest.mark.parametrize("independent", [False, True])
def test_the_return_is_the_x_position_that_the_game_tells(environment, independent):
    envs, obs = environment.start([[0, 1]], independent=independent)
    assert obs.dtype == np.uint8
    total, furthest, over = np.zeros(2), np.zeros(2), np.zeros(2, bool)
    while not over.all():  # running to the right ends at the first enemy
        _, rewards, terminated, truncated, infos = envs.step(np.array([3, 3]))
        total += np.where(over, 0, rewards)
        furthest = np.where(over, furthest, np.maximum(furthest, infos["x_pos"]))
        over |= terminated
        assert not truncated.any()
    envs.close()
    assert total == pytest.approx(furthest)
    assert (total > 250).all()
    assert (total < 400).all()


def test_one_that_stands_still_is_truncated(environment):
    environment.kwargs = {"max_episode_steps": 60}
    envs, _ = environment.start([[0]])
    for step in range(1, 16):  # up to 30 no-ops of the start count, then 4 frames a step: step 8 to 15
        _, rewards, terminated, truncated, _ = envs.step(np.array([0]))
        assert rewards[0] == (40 if step == 1 else 0)
        assert not terminated[0]
        if truncated[0]:
            break
    envs.close()
    assert truncated[0]
    assert 8 <= step <= 15


@game
def test_it_trains_resumes_and_is_evaluated(cli, tmp_path, monkeypatch, capsys):
    tiny = (*MARIO, "tuned=none", "compile=false", "progress=none", "study=mario", "env.kwargs.max_episode_steps=40")
    assert cli(*tiny, "evaluation.episodes=2", "stop_at=16").code == 0
    result = cli(*tiny, "evaluation.episodes=2")
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "outputs" / "mario").iterdir()
    with open(folder / "metrics.csv", newline="") as file:
        returns = [float(row["row_return"]) for row in csv.DictReader(file)]
    assert all(40 <= x < 200 for x in returns)
    capsys.readouterr()
    pytest.importorskip("imageio")
    words = [f"run={folder}", "episodes=1", "video=true", f"trust={PACKAGE}"]
    monkeypatch.setattr(sys, "argv", ["rlexp.evaluate", *words])
    evaluate.main()
    assert "return" in capsys.readouterr().out
    assert list((folder / "videos").glob("*.mp4"))


@game
def test_processes_play_the_same(environment):
    steps = []
    for vectorization in ("sync", "async"):
        environment.vectorization = vectorization
        envs, first = environment.start([[0, 1]])
        steps.append([first.shape, *(x for _ in range(3) for x in envs.step(np.array([1, 4]))[1].tolist())])
        envs.close()
    assert steps[0] == steps[1]
