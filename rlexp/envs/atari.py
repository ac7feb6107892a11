"""Atari games by ALE's vector class, with the preprocessing of published PPO scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from rlexp.config.declaration import is_number
from rlexp.envs.agents import CONTINUES, AgentVectorEnv
from rlexp.envs.environment import Environment
from rlexp.errors import ConfigError

NOOP = 0
FIRE = 1  # of ALE's Action, and its index in the sets of actions that have it
LEAST = {  # of ALE's arguments that are whole numbers
    "noop_max": 0,
    "num_threads": 0,
    "thread_affinity_offset": -1,
    "frameskip": 1,
    "img_height": 1,
    "img_width": 1,
    "stack_num": 1,
    "max_num_frames_per_episode": 1,
}
MOST = 2**31 - 1  # ALE's whole numbers are of 32 bits
SWITCHES = ("use_fire_reset", "maxpool", "grayscale", "full_action_space")


@dataclass(kw_only=True)
class Atari(Environment):
    """Makes Atari games; fields are explained in conf/env/atari.yaml.

    life_loss: what a lost life is to the learner, see there.
    """

    life_loss: Literal["end", "reset", "ignore"] = "end"

    def __post_init__(self) -> None:
        """Check settings; no game is made."""
        what = "Atari is stepped by ALE's vector class"
        self._require("backend", self.backend in ("auto", "gymnasium"), f"{what}; use auto")
        self._require("vectorization", self.vectorization in ("auto", "vector"), f"{what}; use auto")
        if self.wrappers:
            raise ConfigError(f"env.wrappers: {what}, which makes no single environments; remove them")
        if self.kwargs.get("continuous"):
            raise ConfigError("env.kwargs.continuous=true: Atari is played by its discrete actions; remove it")
        super().__post_init__()
        for name, ours in {"episodic_life": "reset", "life_loss_info": "end"}.items():
            if name in self.kwargs:
                what = f"is env.life_loss={ours} or ignore here"
                raise ConfigError(f"env.kwargs.{name}={self.kwargs[name]}: {what}")
        self._require_numbers()

    def _require_numbers(self) -> None:
        """Refuse values by which ALE would hang, be silent, or say nothing of the key."""
        for name, least in LEAST.items():
            value = self.kwargs.get(name, least)
            if type(value) is not int or not least <= value <= MOST:
                raise ConfigError(f"env.kwargs.{name}={value}: must be a whole number, at least {least}, of 32 bits")
        for name in SWITCHES:
            if not isinstance(value := self.kwargs.get(name, True), bool):
                raise ConfigError(f"env.kwargs.{name}={value}: must be true or false")
        stickiness = self.kwargs.get("repeat_action_probability", 0.0)
        if not is_number(stickiness) or not 0 <= stickiness <= 1:
            raise ConfigError(f"env.kwargs.repeat_action_probability={stickiness}: must be a number from 0 to 1")
        most, first = self.kwargs.get("max_num_frames_per_episode"), self.kwargs.get("noop_max", 0)
        if most is not None and most <= first:
            what = f"no-ops alone may take {first} frames (env.kwargs.noop_max); it must be more"
            raise ConfigError(f"env.kwargs.max_num_frames_per_episode={most}: {what}")

    def _pictured(self, seeds: list[list[int]]) -> tuple[VectorEnv, Callable[[list[list[int]]], Any]]:
        whole = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}

        def game() -> VectorEnv:
            # beside the policy's the same game in whole frames, as ALE's vector class renders none
            games = Pictured(self._games(1, True), self._games(1, True, **whole))
            games.metadata = {**games.metadata, "render_fps": 60 / self.kwargs.get("frameskip", 4)}
            return self._with_lives(games, True)

        return AgentVectorEnv([game() for _ in seeds]), lambda seeds: [agent[0] for agent in seeds]

    def _games(self, num_envs: int, independent: bool, **more: Any) -> VectorEnv:
        return super()._vector(num_envs, independent, episodic_life=self.life_loss == "reset", **more)

    def _with_lives(self, games: VectorEnv, independent: bool) -> VectorEnv:
        fires = self.kwargs.get("use_fire_reset", True)
        return Lives(games, self.life_loss == "end", fires=fires, ends=not independent)

    def _vector(self, num_envs: int, independent: bool, **more: Any) -> VectorEnv:
        return self._with_lives(self._games(num_envs, independent, **more), independent)


class Pictured(VectorWrapper):
    """Games, and the same games in other frames beside them, which are what `render` returns."""

    def __init__(self, env: Any, pictures: VectorEnv) -> None:
        super().__init__(env)
        self.pictures = pictures

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start both with the same seeds."""
        self.shown = self.pictures.reset(seed=seed, options=options)[0]
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step both by the same actions."""
        self.shown = self.pictures.step(actions)[0]
        return self.env.step(actions)

    def render(self) -> tuple[Any, ...]:
        """The frames (H, W, 3) of all games."""
        return tuple(self.shown[:, -1])

    def close(self, **kwargs: Any) -> None:
        """Close both."""
        self.pictures.close(**kwargs)
        self.env.close(**kwargs)


class Lives(VectorWrapper):
    """Goes on with the game after a lost life, for the learner as a new episode; fills the frames of a reset.

    As `EpisodicLifeEnv` and `FireResetEnv` of OpenAI's baselines, by which PPO's scores on Atari were published: a lost
    life ends the learner's episode, and the game goes on by one step that is not the policy's, of FIRE where the game
    has it and ALE fires at its starts, else of no-op. Under next-step autoreset that step is the reset row. Whole games
    are recorded: `infos` says where one continues (`CONTINUES`). The first observation of an episode holds its frame
    as often as frames are stacked, as of the wrapper `FrameStack`; ALE's own begin with zeros.

    A game that ends in the very step after a lost life ends one row later, for the learner and on record, so that its
    length is one too many and the next game's one too few.

    Args:
        env: ALE's vector class under next-step autoreset, in which only games end episodes.
        restarts: whether such a step is made after a lost life; else it goes by unnoticed.
        fires: whether that step, as ALE's starts, is of FIRE.
        ends: whether it is an end for the learner; evaluation plays whole games, with the same steps.
    """

    def __init__(self, env: Any, restarts: bool, *, fires: bool, ends: bool) -> None:
        super().__init__(env)
        self.restarts, self.ends = restarts, ends
        has_fire = FIRE in [action.value for action in env.unwrapped.ale.get_action_set()]
        self.forced = FIRE if fires and has_fire else NOOP
        self.frames = env.single_observation_space.shape[0]
        self.lives = np.zeros(env.num_envs, np.int64)
        self.restart = np.zeros(env.num_envs, bool)  # in this step, the life before having been lost
        self.reset_row = np.zeros(env.num_envs, bool)  # in this step, the game before being over
        self.late = np.zeros(env.num_envs, bool)  # a game was over in a step after a lost life
        self.age = np.zeros(env.num_envs, np.int64)  # steps since the episode's first observation

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new games."""
        obs, infos = self.env.reset(seed=seed, options=options)
        self.lives = np.array(infos["lives"])
        for flags in (self.restart, self.reset_row, self.late):
            flags[:] = False
        self.age[:] = 0
        return self._filled(obs), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """A step of every game, in which those that begin a new life do not take the policy's action."""
        restart = self.restart
        obs, rewards, terminated, truncated, infos = self.env.step(np.where(restart, self.forced, actions))
        over, lives = terminated | truncated, np.array(infos["lives"])
        lost = (lives < self.lives) & ~over & ~self.reset_row & ~restart & self.restarts
        self.age = np.where(restart | self.reset_row, 0, self.age + 1)
        self.lives, self.reset_row = lives, over
        self.restart = lost | self.late
        ended = self.late.copy()
        self.late = over & restart
        if not self.ends:
            # a game that is over in a step after a lost life is just over
            return self._filled(obs), rewards, terminated, truncated, {}
        terminated = (terminated & ~restart) | ended | lost
        return self._filled(obs), rewards, terminated, truncated & ~restart, {CONTINUES: lost}

    def _filled(self, obs: np.ndarray) -> np.ndarray:
        """Observations without frames from before the episode: its first frame stands in their place."""
        for row in np.flatnonzero(self.age < self.frames - 1):
            first = self.frames - 1 - self.age[row]
            obs[row, :first] = obs[row, first]
        return obs
