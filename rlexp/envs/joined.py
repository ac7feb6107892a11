"""A vector environment whose observations are arrays by name, as envpool's are, as one of vectors."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv


class Joined(VectorEnv):
    """Observations of a vector environment, arrays by name, flattened and joined to one vector.

    names: those that are joined; default: all, as float32. One alone keeps its type and bounds.
    """

    def __init__(self, pool: Any, names: list[str] | None = None) -> None:
        self.pool, self.num_envs, self.metadata = pool, len(pool), pool.metadata
        parts = pool.single_observation_space.spaces
        self.names = names or list(parts)
        size = sum(int(np.prod(parts[name].shape)) for name in self.names)
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        if len(self.names) == 1:
            one = parts[self.names[0]]
            self.single_observation_space = spaces.Box(one.low.ravel(), one.high.ravel(), (size,), one.dtype)
        self.single_action_space = pool.single_action_space

    def _joined(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        parts = [obs[name].reshape(self.num_envs, -1) for name in self.names]
        return np.concatenate(parts, 1).astype(self.single_observation_space.dtype)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset every environment."""
        obs, infos = self.pool.reset(**kwargs)
        return self._joined(obs), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment."""
        obs, *rest = self.pool.step(actions)
        return (self._joined(obs), *rest)

    def render(self) -> Any:
        """A picture of the first environment."""
        return self.pool.render()

    def close(self, **kwargs: Any) -> None:
        """Close the pool."""
        self.pool.close()
