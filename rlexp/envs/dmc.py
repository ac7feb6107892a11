"""DeepMind Control by envpool: dictionaries of vectors, joined to one."""

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from gymnasium.vector import VectorEnv

from rlexp.envs.environment import Environment
from rlexp.envs.joined import Joined
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
