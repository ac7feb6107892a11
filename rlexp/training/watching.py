"""Episodes of a frozen policy as pictures: for videos, and to watch."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlexp.config.declaration import is_number
from rlexp.envs import Environment
from rlexp.envs.agents import continues
from rlexp.envs.checks import close, raise_fault
from rlexp.errors import ConfigError
from rlexp.networks.distributions import Distribution
from rlexp.spaces import storage_dtype
from rlexp.text import one_line
from rlexp.watch import Watch

MAX_BAR = 3.0  # observed values from which on a bar is full


class Episode:
    """One episode, played from a seed; iterating gives its pictures (H, W, 3) of uint8: the first, and one a step.

    Args:
        policy: distribution parameters (1, P) of raw observations (1, ...).
        distribution: over the action space.
        environment: makes the environment.
        seed: of the episode, and of sampled actions.
        deterministic: take the most likely actions instead of sampling.
        max_steps: a longer episode is cut.
        watch: of environment calls; may interrupt.
        encode: what the policy's torso reads of raw observations; if given, it is drawn beside each picture.
    """

    def __init__(
        self,
        policy: Callable[[Tensor], Tensor],
        distribution: Distribution,
        environment: Environment,
        seed: int,
        *,
        deterministic: bool = True,
        max_steps: int = 100_000,
        watch: Watch | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.policy, self.distribution, self.environment, self.seed = policy, distribution, environment, seed
        self.deterministic, self.max_steps, self.watch, self.encode = deterministic, max_steps, watch or Watch(), encode
        self.total, self.length = 0.0, 0  # return and steps so far
        self.shape: tuple[int, ...] | None = None  # of the first picture, and so of all
        self.fps = 30.0  # pictures a second at which it is in real time

    @torch.no_grad()
    def __iter__(self) -> Iterator[np.ndarray]:
        """Play it.

        Raises:
            ConfigError: the environment cannot be rendered.
            EnvironmentFault: it raises an error.
        """
        envs, obs = self.watch.call(self.environment.start, [[self.seed]], independent=True, rendered=True)
        try:
            self.fps = float(frame_rate(envs))
            generator, dtype = torch.Generator().manual_seed(self.seed), storage_dtype(envs.single_observation_space)
            over = False
            while True:
                x = torch.from_numpy(np.array(obs)).to(dtype)
                yield self._picture(envs, x)
                if over or self.length == self.max_steps:
                    return
                params = self.policy(x).cpu()
                noise = None if self.deterministic else self.distribution.draw_noise(params.shape[:-1], generator)
                chosen = self.distribution.mode(params) if noise is None else self.distribution.sample(params, noise)
                actions = self.distribution.to_env(chosen.numpy())
                try:
                    obs, reward, terminated, truncated, infos = self.watch.call(envs.step, actions)
                except (Exception, SystemExit) as error:
                    raise_fault(error, envs, self.environment.id)
                self.total, self.length = self.total + float(reward[0]), self.length + 1
                over = bool(terminated[0] or truncated[0]) and not np.any(continues(infos))
        finally:
            close(envs, self.environment.id)

    def _picture(self, envs: Any, obs: Tensor) -> np.ndarray:
        try:
            (picture,) = self.watch.call(envs.render)
        except (Exception, SystemExit) as error:  # anything, from pygame to OpenGL
            why = one_line(f"{type(error).__name__}: {error}", 120)
            raise ConfigError(f"env.id={self.environment.id}: cannot be rendered ({why})") from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
            shape = f" of shape {picture.shape}" if isinstance(picture, np.ndarray) else ""
            what = f"its render returns {type(picture).__name__}{shape}, not a picture (H, W, 3)"
            raise ConfigError(f"env.id={self.environment.id}: cannot be rendered: {what}")
        self.shape = self.shape or picture.shape
        if picture.dtype != np.uint8 or not picture.size or picture.shape != self.shape:
            what = (
                f"its render returns {picture.dtype} of shape {picture.shape}, not uint8 of {self.shape} at each step"
            )
            raise ConfigError(f"env.id={self.environment.id}: cannot be rendered: {what}")
        if self.encode is None:
            return picture
        return beside(picture, drawn(self.encode(obs)[0].cpu().numpy(), picture.shape[0]))


def frame_rate(envs: Any) -> float:
    """Pictures a second of an environment in real time; 30 if it is not known."""
    while True:
        rate: Any = getattr(envs, "metadata", {}).get("render_fps")
        if is_number(rate) and rate > 0:
            return float(rate)
        inner = getattr(envs, "parts", None) or getattr(envs, "envs", None) or [getattr(envs, "env", None)]
        if inner[0] is None or inner[0] is envs:
            return 30.0
        envs = inner[0]


def drawn(seen: np.ndarray, height: int) -> np.ndarray:
    """What a policy sees as a picture of this height: frames in a square, or a bar for each value of a vector."""
    if seen.ndim == 3:
        last = seen.shape[2] <= 4 and seen.shape[2] < min(seen.shape[:2])
        if not last and seen.shape[0] == 3:
            seen, last = seen.transpose(1, 2, 0), True
        frames = [seen] if last else [np.repeat(frame[..., None], 3, -1) for frame in seen]
        side = math.ceil(math.sqrt(len(frames)))
        frames += [np.zeros_like(frames[0])] * (side * math.ceil(len(frames) / side) - len(frames))
        square = np.concatenate([np.concatenate(frames[k : k + side], 1) for k in range(0, len(frames), side)])
        rows = np.arange(height) * square.shape[0] // height
        columns = np.arange(round(square.shape[1] * height / square.shape[0])) * square.shape[0] // height
        shown = square[rows][:, np.minimum(columns, square.shape[1] - 1)]
        return (255 * np.clip(np.resize(shown, (*shown.shape[:2], 3)), 0, 1)).astype(np.uint8)
    values, width = seen.reshape(-1), 120
    picture = np.full((height, width, 3), 255, np.uint8)
    rows = np.arange(height) * len(values) // height
    ends = (width / 2 * (1 + np.clip(values / MAX_BAR, -1, 1))).astype(int)[rows, None]
    column = np.arange(width)[None]
    filled = (column >= np.minimum(ends, width // 2)) & (column < np.maximum(ends, width // 2))
    picture[filled] = (31, 119, 180)
    picture[:, width // 2] = 128
    return picture


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of one height, with a line between."""
    return np.concatenate([left, np.full((left.shape[0], 2, 3), 128, np.uint8), right], 1)
