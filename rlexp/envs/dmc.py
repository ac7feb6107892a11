"""DeepMind Control by envpool: dictionaries of vectors, joined to one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from rlexp.envs.environment import Environment
from rlexp.errors import ConfigError


@dataclass(kw_only=True)
class DMC(Environment):
    """Makes tasks of DeepMind Control; fields are explained in conf/env/cartpole.yaml."""

    def __post_init__(self) -> None:
        """Check settings; no environment is made."""
        self._require("backend", self.backend == "envpool", "these tasks are envpool's; remove the setting")
        super().__post_init__()

    def _pool(self, seeds: list[int], **more: Any) -> VectorEnv:
        pool = super()._pool(seeds, **more)
        space = pool.single_observation_space
        if not isinstance(space, spaces.Dict) or any(len(part.shape or ()) > 1 for part in space.values()):
            raise ConfigError(f"env.id={self.id}: its observations are {space}, not a dictionary of vectors")
        return Joined(pool)


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
