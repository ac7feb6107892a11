"""MiniGrid by envpool: the seven cells by seven that are seen, flattened, as the wrappers of env=minigrid give them."""

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from gymnasium.vector import VectorEnv

from rlexp.envs.environment import Environment
from rlexp.envs.joined import Joined
from rlexp.errors import ConfigError


@dataclass(kw_only=True)
class MiniGrid(Environment):
    """Makes envpool's MiniGrid tasks; fields are explained in conf/env/cartpole.yaml."""

    def __post_init__(self) -> None:
        """Check settings; no environment is made."""
        what = "this choice is envpool's; use env=minigrid for Gymnasium's, with env.id=minigrid:<id>"
        self._require("backend", self.backend == "envpool", what)
        super().__post_init__()

    def _pool(self, seeds: list[int], **more: Any) -> VectorEnv:
        pool = super()._pool(seeds, **more)
        space = pool.single_observation_space
        if not isinstance(space, spaces.Dict) or "image" not in space.spaces:
            raise ConfigError(f"env.id={self.id}: its observations are {space}, without an image; name a MiniGrid task")
        return Joined(pool, ["image"])
