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
    """Observations of a vector environment, numbers and vectors by name, joined to one vector of float32."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.num_envs, self.metadata = pool, len(pool), pool.metadata
        size = sum(int(np.prod(part.shape)) for part in pool.single_observation_space.values())
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.single_action_space = pool.single_action_space

    def _joined(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        parts = [obs[name].reshape(self.num_envs, -1) for name in self.pool.single_observation_space]
        return np.concatenate(parts, 1).astype(np.float32)

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
