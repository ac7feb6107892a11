"""Wrappers of single environments, for `env.wrappers`."""

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import MaxAndSkipObservation

from rlexp.errors import ConfigError


def area_weights(before: int, after: int) -> np.ndarray:
    """W (after, before): row i is the share of each of `before` pixels in the i-th of `after` equal parts of the line.

    Part i covers [i·s, (i+1)·s) with s = before / after, pixel j covers [j, j+1): W_ij = |part i ∩ pixel j| / s.
    """
    ends = np.arange(after + 1) * (before / after)
    pixels = np.arange(before)
    overlap = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * (after / before)).astype(np.float32)


class Resize(gym.ObservationWrapper):
    """Images of uint8, (H, W) or (H, W, C), of another size: each new pixel is the mean of the area that it covers.

    y = W_h · x · W_wᵀ, channel by channel, rounded; see `area_weights`. As OpenCV's INTER_AREA, without OpenCV.
    """

    def __init__(self, env: gym.Env[Any, Any], height: int = 84, width: int = 84) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
            raise ValueError(f"Resize needs images of uint8, (H, W) or (H, W, C), not {space}")
        self.rows = area_weights(space.shape[0], height)
        self.columns = area_weights(space.shape[1], width)
        self.observation_space = spaces.Box(0, 255, (height, width, *space.shape[2:]), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The image in its new size."""
        x = np.tensordot(self.rows, observation.astype(np.float32), 1)  # (H, W, C) -> (h, W, C)
        x = np.moveaxis(np.tensordot(self.columns, x, (1, 1)), 0, 1)  # -> (w, h, C) -> (h, w, C)
        return np.rint(x).astype(np.uint8)


class MaxAndSkip(MaxAndSkipObservation):
    """Gymnasium's wrapper, by which an action is repeated, with videos in real time."""

    def __init__(self, env: gym.Env[Any, Any], skip: int = 4) -> None:
        super().__init__(env, skip)
        if rate := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": rate / skip}


class NoopStart(gym.Wrapper):
    """An episode begins with up to `most` steps of the action `noop`, as many as the environment's own generator draws.

    So that episodes of a game that always starts alike differ, by their seed.
    """

    def __init__(self, env: gym.Env[Any, Any], most: int = 30, noop: int = 0) -> None:
        super().__init__(env)
        self.most, self.noop = most, noop

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.unwrapped.np_random.integers(self.most + 1)):
            obs, _, terminated, truncated, info = self.env.step(self.noop)
            if terminated or truncated:
                obs, info = self.env.reset()
        return obs, info


class Furthest(gym.Wrapper):
    """Reward is by how much the highest `info[key]` of the episode grows, so that its return is that number.

    r_t = M_t − M_{t−1} with M_t = max of info[key] at the start and after each step up to t, and M_0 = 0: the first
    step also counts where the episode starts.
    """

    def __init__(self, env: gym.Env[Any, Any], key: str) -> None:
        super().__init__(env)
        self.key = key

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        self.furthest, self.counted = float(info[self.key]), 0.0
        return obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Make a step."""
        obs, _, terminated, truncated, info = self.env.step(action)
        self.furthest = max(self.furthest, float(info[self.key]))
        reward, self.counted = self.furthest - self.counted, self.furthest
        return obs, reward, terminated, truncated, info


class DriftingStarts(gym.Wrapper):
    """Where episodes start changes over training: from `ranges[n]` in phase n, the first again after the last.

    A phase is `every` steps of this environment. Phases start anew at a reset with a seed: in training only the first
    has one, in evaluation each, which is therefore always in the first phase; and where a resumed run has to make its
    environments anew, as with `env.vectorization=async`. A range [low, high] is what Gymnasium's classic control takes
    as options of `reset`.
    """

    def __init__(self, env: gym.Env[Any, Any], ranges: Sequence[Sequence[float]], every: int) -> None:
        super().__init__(env)
        if not ranges or any(len(each) != 2 or each[0] > each[1] for each in ranges) or every < 1:
            raise ConfigError(f"DriftingStarts: ranges={ranges}, every={every}: give [low, high] each, and steps >= 1")
        self.ranges, self.every, self.steps = [(float(low), float(high)) for low, high in ranges], every, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode from the phase's range."""
        if seed is not None:
            self.steps = 0
        low, high = self.ranges[self.steps // self.every % len(self.ranges)]
        return self.env.reset(seed=seed, options=(options or {}) | {"low": low, "high": high})

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Make a step."""
        self.steps += 1
        return self.env.step(action)
