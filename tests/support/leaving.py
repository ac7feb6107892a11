"""An objective that ends one process of several."""

import os
import sys
import time
from dataclasses import dataclass

from rlexp.algos.ppo import PPO
from rlexp.errors import ConfigError


@dataclass(kw_only=True)
class Leaves(PPO):
    """The second process ends where it is checked, or after its first rollout."""

    at: str = "check"

    def __post_init__(self):
        super().__post_init__()
        if os.environ.get("RANK") == "1" and self.at == "check":
            raise ConfigError("algo.at=check: not on this machine")
        if self.at == "check":
            time.sleep(0.5)  # until the second process has ended, which must not remove the first one's folder

    def observe(self, rollout):
        if os.environ.get("RANK") == "1":
            sys.exit(3)
        return super().observe(rollout)
