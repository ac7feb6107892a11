"""Atari as a single ALE stepped by hand, frame by frame: frames, rewards, lives, starts, and whole games on record."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from helpers import last_metrics, make_trainer, resumed, train

from rlexp.envs.agents import CONTINUES
from rlexp.envs.atari import FIRE, NOOP, Atari, Lives
from rlexp.errors import ConfigError
from rlexp.training.evaluation import evaluate

ale_py = pytest.importorskip("ale_py")
SETTINGS = {"noop_max": 0, "repeat_action_probability": 0.0}


def atari(game="Breakout", num_envs=1, **more):
    kwargs = SETTINGS | more.pop("kwargs", {})
    return Atari(id=f"ale_py:ALE/{game}-v5", kwargs=kwargs, num_envs=num_envs, extra="atari", **more)


def areas(of, to):
    """Weights (to, of) by which each of `to` equal parts of a line is the mean of what of `of` pixels lies in it."""
    ends = np.arange(to + 1) * of / to
    pixels = np.arange(of)
    shared = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return np.clip(shared, 0, None) * to / of


class ByHand:
    """One game: ALE's own interface, four frames an action, the maximum of the last two, shrunk to 84 × 84."""

    def __init__(self, game="breakout", seed=0):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(ale_py.roms.get_rom_path(game))
        self.actions = self.ale.getMinimalActionSet()
        self.reset()

    def reset(self):
        self.ale.reset_game()
        self.ale.act(self.actions[FIRE])  # one frame
        self.stack = [self.shrunk(self.ale.getScreenGrayscale())] * 4

    def shrunk(self, screen):
        return areas(screen.shape[0], 84) @ screen.astype(float) @ areas(screen.shape[1], 84).T

    def step(self, action):
        """Reward of four frames, and whether the game is over."""
        reward, screens = 0, []
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            screens.append(self.ale.getScreenGrayscale())
            if self.ale.game_over():
                break
        self.stack = [*self.stack[1:], self.shrunk(np.max(screens[-2:], 0))]
        return reward, self.ale.game_over()

    def fill(self):
        """Forget what was before the newest frame."""
        self.stack = [self.stack[-1]] * 4

    @property
    def obs(self):
        return np.stack(self.stack)


def require_same(obs, by_hand, over=False):
    """Frames are equal but for rounding; nobody reads the newest one of a game that is over, which ALE cuts."""
    frames = slice(0, 3 if over else 4)
    assert obs.dtype == np.uint8
    assert np.abs(obs.astype(float) - by_hand.obs)[frames].max() <= 1.0


def actions_of(game, steps, seed=0):
    return np.random.default_rng(seed).integers(0, len(ByHand(game).actions), steps)


def test_a_lost_life_ends_the_learners_episode_and_the_game_goes_on(monkeypatch):
    """By EpisodicLifeEnv and FireResetEnv, whose step after the loss is the reset row of next-step autoreset."""
    hand, lost, games, total, whole = ByHand(), 0, 0, 0.0, []
    envs, obs = atari().start([[0]])
    require_same(obs[0], hand)
    after = None  # what ended in the row before
    for action in actions_of("breakout", 700):
        lives = hand.ale.lives()
        obs, rewards, terminated, truncated, infos = envs.step(np.array([action]))
        if after == "game":
            hand.reset()
            reward, over = 0, False
        else:
            reward, over = hand.step(FIRE if after == "life" else action)
        total += reward
        life = not over and hand.ale.lives() < lives and after is None
        if after == "life":
            hand.fill()
        require_same(obs[0], hand, over)
        assert rewards[0] == reward
        assert terminated[0] == (over or life)
        assert infos[CONTINUES][0] == life
        assert not truncated[0]
        lost, games = lost + life, games + over
        if over:
            whole.append(total)
            total = 0.0
        after = "game" if over else "life" if life else None
    assert (lost > 5, games > 1, max(whole) > 1) == (True, True, True)  # otherwise nothing was tried


def test_evaluation_plays_whole_games_with_the_same_steps():
    training, evaluation = atari(), atari()
    envs, _ = training.start([[0]])
    whole, _ = evaluation.start([[0]], independent=True)
    for action in actions_of("breakout", 500):
        ours, theirs = envs.step(np.array([action])), whole.step(np.array([action]))
        assert (ours[0] == theirs[0]).all()
        assert ours[1] == theirs[1]
        assert theirs[2][0] == (ours[2][0] and not ours[4][CONTINUES][0])
    envs.close()
    whole.close()


@pytest.mark.parametrize("life_loss", ["reset", "ignore"])
def test_a_lost_life_may_begin_a_new_game_or_be_nothing(life_loss):
    hand, seen, after = ByHand(), 0, False
    envs, obs = atari(life_loss=life_loss).start([[0]])
    for action in actions_of("breakout", 400):
        lives = hand.ale.lives()
        obs, rewards, terminated, _, infos = envs.step(np.array([action]))
        if after:
            hand.reset()
            reward, ended = 0, False
        else:
            reward, ended = hand.step(action)
            lost = hand.ale.lives() < lives
            ended, seen = ended or (lost and life_loss == "reset"), seen + lost
        require_same(obs[0], hand, ended)
        assert (rewards[0], terminated[0]) == (reward, ended)
        assert not infos[CONTINUES].any()
        after = ended
    assert seen > 3


@pytest.mark.parametrize("episodic", [True, False])
def test_envpools_lives_are_episodes_too_but_go_on_by_a_single_frame(episodic):
    """Its `episodic_life` goes on with the game, by one frame of FIRE and with the frames from before the loss."""
    envpool = pytest.importorskip("envpool")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"noop_max": 1, "use_fire_reset": True, "repeat_action_probability": 0.0, "reward_clip": False}
        envs = envpool.make_gymnasium("Breakout-v5", num_envs=1, env_seed=[0], episodic_life=episodic, **settings)
    hand, after, ends = ByHand(), None, {"life": 0, "game": 0}
    require_same(envs.reset()[0][0], hand)
    for action in actions_of("breakout", 500):
        lives = hand.ale.lives()
        obs, rewards, terminated, truncated, _ = envs.step(np.array([action]))
        reward, over = 0, False
        if after == "game":
            hand.reset()
        elif after == "life":
            reward, over = hand.ale.act(hand.actions[FIRE]), hand.ale.game_over()
            hand.stack = [*hand.stack[1:], hand.shrunk(hand.ale.getScreenGrayscale())]
        else:
            reward, over = hand.step(action)
        life = not over and hand.ale.lives() < lives
        require_same(obs[0], hand, over)
        assert (rewards[0], terminated[0], truncated[0]) == (reward, over or (life and episodic), False)
        after = "game" if over else "life" if life and episodic else None
        for kind in ends:
            ends[kind] += {"life": life, "game": over}[kind]
    assert ends["life"] > 8
    assert ends["game"] > 1


def test_a_game_without_lives_ends_with_itself():
    hand, points = ByHand("pong"), 0
    envs, obs = atari("Pong").start([[0]])
    for action in actions_of("pong", 200):
        obs, rewards, terminated, *_ = envs.step(np.array([action]))
        reward, over = hand.step(action)
        require_same(obs[0], hand, over)
        assert (rewards[0], terminated[0]) == (reward, over)
        points += abs(reward)
    assert points > 1


def test_games_begin_with_up_to_thirty_no_ops_and_seeds_of_their_own():
    first = atari(num_envs=8, kwargs={"noop_max": 30}).start([[*range(8)]])[0]
    again = atari(num_envs=8, kwargs={"noop_max": 30}).start([[*range(8)]])[0]
    frames = [envs.env.reset(seed=np.arange(8))[1]["episode_frame_number"] for envs in (first, again)]
    assert (frames[0] == frames[1]).all()
    assert len({*frames[0].tolist()}) > 3
    assert frames[0].min() >= 1
    assert frames[0].max() <= 31


# The wrapper, of a game of one's own ---------------------------------------------------------------------------------


class Script(VectorEnv):
    """A game that plays a list of rows: reward, lives, over."""

    def __init__(self, *rows):
        self.num_envs, self.metadata = 1, {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = spaces.Box(0, 255, (3, 1, 1), np.uint8)
        self.single_action_space = spaces.Discrete(3)
        self.rows, self.taken, self.at = rows, [], 0
        self.ale = self

    def get_action_set(self):
        return [ale_py.Action.NOOP, ale_py.Action.FIRE]

    def obs(self):
        return np.array([[self.at - 2, self.at - 1, self.at]]).clip(0).astype(np.uint8).reshape(1, 3, 1, 1)

    def reset(self, *, seed=None, options=None):
        return self.obs(), {"lives": np.array([3])}

    def step(self, actions):
        reward, lives, over = self.rows[self.at]
        self.at += 1
        self.taken.append(int(actions[0]))
        flags = np.array([over]), np.array([False])
        return self.obs(), np.array([reward]), *flags, {"lives": np.array([lives])}


def played(*rows, **more):
    game = Script(*rows)
    envs = Lives(game, True, **({"fires": True, "ends": True} | more))
    envs.reset()
    steps = [envs.step(np.array([2])) for _ in rows]
    frames = [step[0][0].reshape(-1).tolist() for step in steps]
    ended = [(bool(step[2][0]), bool(step[4].get(CONTINUES, [False])[0])) for step in steps]
    return game.taken, frames, ended


def test_the_step_after_a_lost_life_is_not_the_policys():
    rows = [(1, 3, False), (0, 2, False), (5, 2, False), (0, 2, False), (0, 1, False)]
    taken, frames, ended = played(*rows)
    assert taken == [2, 2, FIRE, 2, 2]
    assert ended == [(False, False), (True, True), (False, False), (False, False), (True, True)]
    assert frames == [[0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4], [3, 4, 5]]
    assert played(*rows, fires=False)[0] == [2, 2, NOOP, 2, 2]
    taken, frames, ended = played(*rows, ends=False)  # evaluation
    assert taken == [2, 2, FIRE, 2, 2]
    assert not any(any(each) for each in ended)


def test_a_game_that_is_over_in_the_step_after_a_lost_life_ends_a_row_later():
    rows = [(0, 2, False), (0, 1, True), (0, 3, False), (0, 3, False), (0, 3, False)]
    taken, _, ended = played(*rows)
    # life lost; game over in the forced step; the game's own reset, now an end; its reset row; the policy's again
    assert ended == [(True, True), (False, False), (True, False), (False, False), (False, False)]
    assert taken == [2, FIRE, 2, FIRE, 2]
    assert played(*rows, ends=False)[2][1] == (True, False)


# In training ---------------------------------------------------------------------------------------------------------

TINY = ("env=breakout", "tuned=none", "algo.rollout_steps=64", "env.num_envs=2", "total_steps=1024", "compile=false")


def test_recorded_returns_are_of_whole_games(tmp_path):
    trainer = make_trainer(tmp_path, *TINY, "torch_threads=1")
    lives, games = 0, 0
    for _ in range(8):
        rollout = trainer.collector.collect(trainer.learner.acting(trainer.collector.slots))
        lives, games = lives + len(rollout.episodes.returns), games + len(rollout.games.returns)
        assert set(zip(rollout.games.envs, rollout.games.ends, strict=True)) <= set(
            zip(rollout.episodes.envs, rollout.episodes.ends, strict=True)
        )
    assert 3 * games < lives
    assert games > 0


def test_every_agent_says_that_its_games_go_on(tmp_path):
    envs, _ = atari(num_envs=1).start([[0], [1]])
    seen = np.zeros(2, bool)
    for action in actions_of("breakout", 200):
        *_, infos = envs.step(np.array([action, action]))
        seen |= infos[CONTINUES]
    assert seen.all()
    envs.close()


FROZEN = {"deterministic": True, "max_steps": 99, "device": torch.device("cpu")}


class Lives3(gym.Env):
    """Three lives of five steps, reward 1 each; a reset after the first two goes on."""

    observation_space, action_space = spaces.Box(0, 9, (1,)), spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0 if self.steps >= 15 else self.steps
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        ends = self.steps % 5 == 0
        infos = {CONTINUES: True} if ends and self.steps < 15 else {}
        return np.ones(1, np.float32), 1.0, ends, False, infos


@pytest.fixture
def lives():
    gym.register("Lives3-v0", Lives3)
    yield ("env.id=Lives3-v0", "env=cartpole", "tuned=none", "compile=false", "env.num_envs=1", "algo.rollout_steps=8")
    del gym.registry["Lives3-v0"]


def test_games_of_single_environments_are_whole_too(tmp_path, lives):
    words = (*lives, "total_steps=128", "evaluation.every=32", "evaluation.curve_episodes=1", "log_every=32")
    words += ("algo.minibatches=1", "env.vectorization=sync")
    whole = train(tmp_path / "whole", *words)
    rows = last_metrics(tmp_path / "whole")
    assert rows["episodic_return"] == 15
    assert (rows["evaluation_return"], rows["evaluation_return_sampled"]) == (15, 15)
    parts = resumed(tmp_path / "parts", *words, after=4)  # in the third life of a game
    assert last_metrics(tmp_path / "parts")["episodes"] == rows["episodes"]
    assert whole.games.recent[0] == parts.games.recent[0]
    played = evaluate(whole.learner.policy, whole.collector.distribution, whole.environment, 1, episodes=2, **FROZEN)
    assert [episode["return"] for episode in played[0]] == [15, 15]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kwargs": {"episodic_life": True}}, "env.kwargs.episodic_life=True: is env.life_loss=reset or ignore here"),
        ({"kwargs": {"life_loss_info": True}}, "env.kwargs.life_loss_info=True: is env.life_loss=end or ignore here"),
        ({"backend": "torch"}, "env.backend=torch: Atari is stepped by ALE's vector class"),
        ({"vectorization": "sync"}, "env.vectorization=sync: Atari is stepped by ALE's vector class"),
        ({"kwargs": {"continuous": True}}, "env.kwargs.continuous=true: Atari is played by its discrete actions"),
        ({"kwargs": {"reward_clipping": True}}, "would clip recorded returns"),
        ({"kwargs": {"stack_num": 0}}, "env.kwargs.stack_num=0: must be a whole number, at least 1"),  # ALE hangs
        ({"kwargs": {"img_height": 0}}, "env.kwargs.img_height=0: must be a whole number, at least 1"),
        ({"kwargs": {"noop_max": -1}}, "env.kwargs.noop_max=-1: must be a whole number, at least 0"),
        ({"kwargs": {"noop_max": "many"}}, "env.kwargs.noop_max=many: must be a whole number, at least 0"),
        ({"kwargs": {"frameskip": 2.5}}, "env.kwargs.frameskip=2.5: must be a whole number, at least 1"),
        ({"kwargs": {"frameskip": 2**31}}, f"env.kwargs.frameskip={2**31}: must be a whole number, at least 1, of 32"),
        ({"kwargs": {"noop_max": 30.0}}, "env.kwargs.noop_max=30.0: must be a whole number, at least 0"),
        ({"kwargs": {"num_threads": "x"}}, "env.kwargs.num_threads=x: must be a whole number, at least 0"),
        ({"kwargs": {"maxpool": 7}}, "env.kwargs.maxpool=7: must be true or false"),
        ({"kwargs": {"grayscale": "foo"}}, "env.kwargs.grayscale=foo: must be true or false"),
        ({"kwargs": {"repeat_action_probability": 2}}, "env.kwargs.repeat_action_probability=2: must be a number from"),
        ({"kwargs": {"max_num_frames_per_episode": 30, "noop_max": 30}}, "no-ops alone may take 30 frames"),
    ],
)
def test_what_would_play_otherwise_is_refused(settings, told):
    with pytest.raises(ConfigError, match=told.replace("(", "\\(")):
        atari(**settings)
