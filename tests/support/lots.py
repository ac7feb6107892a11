"""Environments that differ by their seed alone, so that a test knows which of a run's is the best, or the bad one."""

import gymnasium as gym
import numpy as np
from probes import Probe, obs

from rlexp.seeding import env_seeds


def lot_of(seed):
    """What an environment with this seed has drawn."""
    return float(np.random.default_rng(seed).random())


def best_of(seed, num_envs):
    """Which environment of the agent with this seed has drawn most, and what."""
    lots = [lot_of(each) for each in env_seeds(seed, num_envs)]
    return int(np.argmax(lots)), max(lots)


class Lots(Probe):
    """Episodes of three steps, each rewarded with what the environment has drawn."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.lot = lot_of(seed)
        return super().reset(seed=seed)

    def step(self, action):
        self.t += 1
        return obs(self.lot - self.t / 4), self.lot, self.t == 3, False, {}


class BreaksOff(Lots):
    """The one that has drawn most of seed 1's four, the last, raises an error in its twentieth episode."""

    count = 0

    def reset(self, *, seed=None, options=None):
        self.count += 1
        if self.count == 20 and self.lot == best_of(1, 4)[1]:
            raise ValueError("it broke")
        return super().reset(seed=seed)


for each in (Lots, BreaksOff):
    gym.register(f"{each.__name__}-v0", entry_point=each)
