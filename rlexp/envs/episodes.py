"""Environments that play the same episodes, by their seeds, again and again."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from rlexp.envs.agents import AgentVectorEnv, continues
from rlexp.envs.checks import close, raise_fault
from rlexp.envs.environment import Environment
from rlexp.errors import EnvironmentFault
from rlexp.watch import Watch


class Episodes:
    """Plays episodes from seeds, each to its end; the environments are made once and reset for the next time.

    environment: makes them, as for training; watch: of their calls.
    """

    def __init__(self, environment: Environment, watch: Watch) -> None:
        self.environment, self.watch = environment, watch
        self.envs: VectorEnv | None = None
        self.again: Callable[[list[list[int]]], np.ndarray] | None = None

    def start(self, seeds: list[list[int]]) -> np.ndarray:
        """First observations (rows * E, ...) of the episodes with these seeds, the same number each time."""
        if self.again is not None:
            self.obs = np.array(self.watch.call(self.again, seeds))
            return self.obs
        self.close()
        self.envs, obs, self.again = self.watch.call(self.environment.start_again, seeds)
        self.obs = np.array(obs)
        parts = self.envs.parts if isinstance(self.envs, AgentVectorEnv) else [self.envs]
        self.single: list[Any] = []  # environments that can be stepped one by one
        if all(isinstance(part, SyncVectorEnv) for part in parts):
            self.single = [env for part in parts for env in part.envs]  # type: ignore[attr-defined]
        return self.obs

    def step(self, actions: np.ndarray, playing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step those that are playing (rows * E,): observations, rewards, and which episodes have ended.

        The rest of what is returned has no meaning.

        Raises:
            EnvironmentFault: one raises an error, or returns something invalid.
        """
        try:
            obs, rewards, ended = self.watch.call(self._step, actions, playing)
        except (Exception, SystemExit) as error:  # user environments may raise anything
            raise_fault(error, self.envs, self.environment.id)
        finite = np.isfinite(rewards)
        if not finite[playing].all():
            raise self._fault("a reward")
        if obs.dtype.kind == "f" and not np.isfinite(obs[playing & ~ended]).all():
            raise self._fault("an observation")
        return obs, rewards, ended

    def _step(self, actions: np.ndarray, playing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.envs is not None
        if not self.single:
            obs, rewards, terminated, truncated, infos = self.envs.step(actions)
            over = np.asarray(terminated, bool) | np.asarray(truncated, bool)
            return obs, np.asarray(rewards, float), over & ~np.asarray(continues(infos), bool)
        rewards, ended = np.zeros(len(playing)), np.zeros(len(playing), bool)
        for index in np.flatnonzero(playing).tolist():
            self.obs[index], rewards[index], terminated, truncated, info = self.single[index].step(actions[index])
            ended[index] = terminated or truncated
            if ended[index] and continues(info):
                self.obs[index], ended[index] = self.single[index].reset()[0], False
        return self.obs, rewards, ended

    def _fault(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(f"env.id={self.environment.id}: returned {what} that is not finite in evaluation")

    def close(self) -> None:
        """Close the environments."""
        if self.envs is not None:
            close(self.envs, self.environment.id)
        self.envs = self.again = None
