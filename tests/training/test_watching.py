"""Episodes that are watched are those that are evaluated; their videos are whole, and change nothing of training."""

import json
import os
import re
import sys

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pygame
import pytest
import torch
from helpers import make_trainer, records, train, weights_of, write_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlexp import evaluate, play
from rlexp.errors import ConfigError
from rlexp.run import video
from rlexp.training.watching import Episode, drawn

# imageio leaves pipes to ffmpeg to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

SETTINGS = ("total_steps=2048", "env.num_envs=4", "algo.rollout_steps=64", "evaluation.episodes=2")


class Counter(gym.Env):
    """Pictures show the number of the step, 0 to 5, as their brightness; the last is of an episode that is over."""

    observation_space = gym.spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode=None, length=5, **broken):
        self.render_mode, self.length, self.broken = render_mode, length, broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(2, self.t, np.float32), 1.0, self.t == self.length, False, {}

    def close(self):
        if "pygame" in sys.modules:  # as those of Gymnasium do
            sys.modules["pygame"].display.quit()
            sys.modules["pygame"].quit()

    def render(self):
        if "raises" in self.broken:
            raise OSError("no GL")
        if "late" in self.broken and self.t > 2:
            raise OSError("no GL any more")
        if "floats" in self.broken:
            return np.full((5, 7, 3), 0.5)
        if "grows" in self.broken:
            return np.zeros((5 + self.t, 7, 3), np.uint8)
        if "shape" in self.broken:
            return np.zeros((5, 7), np.uint8)
        return np.full((5, 7, 3), 10 * self.t, np.uint8)


class Blind(gym.Env):
    observation_space, action_space = Counter.observation_space, Counter.action_space

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}


gym.register("Counter-v0", Counter)
gym.register("Blind-v0", Blind)
COUNTER = "env.id=Counter-v0"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = (*SETTINGS, COUNTER, "num_seeds=2", "env.normalize_obs=true")
    train(folder, *settings)
    write_config(folder, *settings)
    return folder


def frames(path):
    with imageio.get_reader(path) as reader:
        return [frame[..., 0].astype(int) for frame in reader], reader.get_meta_data()["fps"]


def test_every_episode_is_a_video_from_its_first_picture_to_its_last(run, capsys):
    evaluate.main([f"run={run}", "episodes=2", "video=true"])
    names = sorted(path.name for path in (run / "videos").glob("*.mp4"))
    assert names == [f"evaluation_seed_{seed}-episode_{number}.mp4" for seed in (0, 1) for number in (0, 1)]
    for name in names:
        shown, fps = frames(run / "videos" / name)
        assert fps == 5
        assert [round(frame[2, 3] / 10) for frame in shown] == [0, 1, 2, 3, 4, 5]
        assert shown[0].shape == (6, 8)  # H.264 has even sides
    assert capsys.readouterr().out.count("return 5.00, 5 steps") == 4
    known = json.loads((run / "evaluation.json").read_text())
    assert known["settings"]["episodes"] == 2
    accumulator = EventAccumulator(str(run / "videos"), size_guidance={"images": 0}).Reload()
    assert sorted(accumulator.Tags()["images"]) == ["evaluation_seed_0", "evaluation_seed_1"]
    events = accumulator.Images("evaluation_seed_1")
    assert [event.step for event in events] == [0, 1]
    shown = imageio.mimread(events[0].encoded_image_string)
    assert len(shown) == 6
    evaluate.main([f"run={run}", "episodes=1", "video=true"])  # the same again: its events give way
    assert json.loads((run / "evaluation.json").read_text()) == known
    accumulator = EventAccumulator(str(run / "videos"), size_guidance={"images": 0}).Reload()
    assert [event.step for event in accumulator.Images("evaluation_seed_0")] in ([0, 1], [1, 0])


def test_videos_are_of_three_episodes_and_one_agent_may_be_chosen(run, capsys):
    evaluate.main([f"run={run}", "video=true", "seed=1"])
    assert len(list((run / "videos").glob("evaluation_seed_1-*.mp4"))) == 3
    assert "seed 0" not in capsys.readouterr().out
    assert "evaluation_seed_0-episode_2.mp4" not in {path.name for path in (run / "videos").iterdir()}
    before = (run / "evaluation.json").read_bytes()
    evaluate.main([f"run={run}", "video=true", "episodes=1", "deterministic=false"])
    assert (run / "evaluation.json").read_bytes() == before
    with pytest.raises(SystemExit):
        evaluate.main([f"run={run}", "seed=1"])
    assert "seed=1: evaluation.json is of all agents" in capsys.readouterr().err


def test_what_the_policy_sees_stands_beside_the_picture(run):
    evaluate.main([f"run={run}", "episodes=1", "video=true", "observation=true"])
    shown, _ = frames(run / "videos" / "evaluation_seed_0-episode_0.mp4")
    assert shown[0].shape == (6, 7 + 2 + 120 + 1)


def test_what_the_policy_sees_is_in_videos_alone(run, capsys):
    with pytest.raises(SystemExit):
        evaluate.main([f"run={run}", "episodes=1", "observation=true"])
    assert capsys.readouterr().err == "rlexp.evaluate: observation=true: is drawn in videos; add video=true\n"


def test_the_video_is_of_the_episode_that_is_evaluated(tmp_path):
    folder = tmp_path
    settings = (*SETTINGS, "env=acrobot", "algo.rollout_steps=32", "total_steps=512")
    train(folder, *settings)
    write_config(folder, *settings)
    saved = evaluate.load_run(folder)
    environment = evaluate.build_environment(saved.config)
    results = evaluate.evaluate(
        saved.policy,
        saved.networks[0].distribution,
        environment,
        1,
        episodes=2,
        deterministic=True,
        max_steps=60,
        device=torch.device("cpu"),
    )[0]
    for result in results:
        episode = saved.episode(environment, 0, result["seed"], observation=False, watch=evaluate.Watch())
        episode.max_steps = 60
        pictures = sum(1 for _ in episode)
        assert (episode.total, episode.length) == (pytest.approx(result["return"]), result["length"])
        assert pictures == episode.length + 1
        assert episode.fps == 15


def test_videos_in_training_change_nothing_of_it(tmp_path):
    words = (*SETTINGS, COUNTER, "num_seeds=2", "algo=apo")
    plain = train(tmp_path / "plain", *words)
    filmed = train(tmp_path / "filmed", *words, "evaluation.video_every=1000")
    assert all(torch.equal(weights_of(filmed)[name], tensor) for name, tensor in weights_of(plain).items())
    assert records(tmp_path / "filmed") == records(tmp_path / "plain")
    steps = [int(path.stem.rpartition("_")[2]) for path in (tmp_path / "filmed" / "videos").glob("*.mp4")]
    assert len(steps) == 2  # at 1024 rows, and at the end
    assert all(frames(path)[0] for path in (tmp_path / "filmed" / "videos").glob("*.mp4"))
    assert not (tmp_path / "plain" / "videos").exists()


def test_a_resumed_run_makes_the_videos_after_its_checkpoint_again(tmp_path):
    trainer = make_trainer(tmp_path, *SETTINGS, COUNTER, "evaluation.video_every=512", "checkpoint_every=1024")
    trainer.train(False)
    made = sorted(path.name for path in (tmp_path / "videos").iterdir() if path.suffix == ".mp4")
    assert len(made) == 4
    video.remove_after(tmp_path, {0: 900})
    kept = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert len(kept) == 4  # two videos, and their events
    assert all(int(name.rpartition("_")[2].removesuffix(".mp4")) <= 900 for name in kept)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env.id=Blind-v0"], "env.id=Blind-v0: cannot be "),
        ([COUNTER, "+env.kwargs.raises=true"], "env.id=Counter-v0: cannot be rendered (OSError: no GL)"),
        ([COUNTER, "+env.kwargs.floats=true"], "its render returns float64 of shape (5, 7, 3), not uint8"),
        ([COUNTER, "+env.kwargs.grows=true"], "uint8 of shape (6, 7, 3), not uint8 of (5, 7, 3) at each step"),
        ([COUNTER, "+env.kwargs.shape=true"], "cannot be rendered: its render returns ndarray of shape (5, 7), not a"),
    ],
)
def test_what_cannot_be_rendered_is_one_line(tmp_path, words, said, capsys):
    train(tmp_path, *SETTINGS, *words)
    write_config(tmp_path, *SETTINGS, *words)
    with pytest.raises(SystemExit):
        evaluate.main([f"run={tmp_path}", "episodes=1", "video=true"])
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".mp4"]


def test_what_cannot_be_rendered_is_told_before_training_and_later_failures_do_not_end_it(tmp_path, caplog):
    with pytest.raises(ConfigError, match=r"cannot be rendered \(OSError: no GL\)"):
        train(tmp_path / "x", *SETTINGS, COUNTER, "+env.kwargs.raises=true", "evaluation.video_every=1000")
    trainer = train(tmp_path / "y", *SETTINGS, COUNTER, "+env.kwargs.late=true", "evaluation.video_every=1000")
    assert trainer.update_number == 8
    assert "no video: env.id=Counter-v0: cannot be rendered (OSError: no GL any more)" in caplog.text
    assert not [path for path in (tmp_path / "y").rglob("*") if path.suffix == ".mp4"]


def test_a_missing_extra_is_told_before_anything_is_played(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as if it were not installed
    said = "needs imageio_ffmpeg, which is not installed: pip install 'rlexp[video]'"
    with pytest.raises(SystemExit):
        evaluate.main([f"run={tmp_path}", "video=true"])
    assert capsys.readouterr().err == f"rlexp.evaluate: video=true: {said}\n"
    with pytest.raises(ConfigError, match=r"evaluation\.video_every=100: needs imageio_ffmpeg"):
        make_trainer(tmp_path, *SETTINGS, "evaluation.video_every=100")


def test_a_long_video_is_whole_and_its_animation_is_short(tmp_path):
    class Film:
        fps = 30.0

        def __iter__(self):
            yield from (np.full((4, 700, 3), k % 256, np.uint8) for k in range(1000))

    shown = video.write_mp4(tmp_path / "x.mp4", Film())
    assert len(frames(tmp_path / "x.mp4")[0]) == 1000
    assert 75 <= len(shown) <= 151
    assert shown[0].shape == (2, 234, 3)
    assert shown[-1][0, 0, 0] == 999 % 256


def test_drawn_vectors_are_bars_and_stacks_are_squares():
    bars = drawn(np.array([3.0, 0.0, -1.5]), 30)
    assert bars.shape == (30, 120, 3)
    assert (bars[:10, 61:] == (31, 119, 180)).all()
    assert (bars[10:20, 61:] == 255).all()
    assert (bars[20:, 31:60] == (31, 119, 180)).all()
    assert (bars[20:, :30] == 255).all()
    stack = np.stack([np.full((8, 8), value) for value in (0.0, 0.2, 0.4, 1.0)])
    square = drawn(stack, 32)
    assert square.shape == (32, 32, 3)
    assert [square[y, x, 0] for y in (4, 28) for x in (4, 28)] == [0, 51, 102, 255]
    colours = np.zeros((3, 8, 8))
    colours[1] = 1
    assert drawn(colours, 16)[3, 3].tolist() == [0, 255, 0]


# The window ----------------------------------------------------------------------------------------------------------


def test_a_window_shows_the_episodes(run, monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.display.quit()  # another test may have opened it with another driver
    seen = []
    show = play.Window.show
    monkeypatch.setattr(play.Window, "show", lambda self, picture, fps: seen.append(fps) or show(self, picture, fps))
    play.main([f"run={run}", "seed=1", "episodes=2", "speed=40"])
    assert capsys.readouterr().out == "return 5.00, 5 steps\n" * 2
    assert seen == [200.0] * 12


@pytest.mark.parametrize("key", ["K_q", "QUIT"])
def test_a_window_that_is_closed_ends_it(run, monkeypatch, capsys, key):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.display.quit()  # another test may have opened it with another driver

    event = pygame.event.Event(pygame.QUIT) if key == "QUIT" else pygame.event.Event(pygame.KEYDOWN, key=pygame.K_q)
    show = play.Window.show

    def then_close(self, picture, fps):
        show(self, picture, fps)
        pygame.event.post(event)
        return show(self, picture, fps)

    monkeypatch.setattr(play.Window, "show", then_close)
    play.main([f"run={run}", "speed=40"])
    assert capsys.readouterr().out == ""


def test_no_screen_is_one_line(run, monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        play.main([f"run={run}"])
    said = f"there is no screen here (DISPLAY is not set); python -m rlexp.evaluate run={run} video=true writes videos"
    assert capsys.readouterr().err == f"rlexp.play: {said} instead\n"


def test_a_broken_pygame_is_one_line(run, monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.display.quit()  # another test may have opened it with another driver
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(SystemExit):
        play.main([f"run={run}"])
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"rlexp\.play: a window needs pygame, which cannot be imported \(.+\): pip install .+ pygame\n", error
    )


def test_a_screen_that_does_not_answer_is_one_line(run, monkeypatch, capsys):

    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    pygame.display.quit()
    with pytest.raises(SystemExit):
        play.main([f"run={run}"])
    assert re.fullmatch(
        r"rlexp\.play: no window can be opened \([^\n]*\); rlexp\.evaluate with video=true [^\n]*\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize("word", ["speed=0", "speed=fast", "episodes=0", "seed=x", "sped=1"])
def test_wrong_words_of_play_are_one_line(word, capsys):
    with pytest.raises(SystemExit):
        play.main(["run=x", word])
    error = capsys.readouterr().err
    assert error.startswith(f"rlexp.play: {word}: ")
    assert error.count("\n") == 1


def test_an_environment_of_envpool_that_would_end_the_process_is_refused(monkeypatch):
    envpool = pytest.importorskip("envpool")
    assert envpool
    from helpers import make_config

    from rlexp.envs import ids

    environment = evaluate.build_environment(make_config("env=walker_walk"))
    monkeypatch.setattr(ids, "_dies", lambda code: True)
    episode = Episode(lambda obs: obs, None, environment, 0)
    with pytest.raises(ConfigError, match="envpool cannot render it on this machine"):
        next(iter(episode))
    assert os.environ.get("SDL_VIDEODRIVER") or os.environ.get("DISPLAY")
