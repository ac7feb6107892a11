"""Environments in which a job comes to grief: jobs of a sweep that the others have to survive."""

import os
import signal
import sys
import time

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from probes import Endless


class Raises(Endless):
    """Raises in its first step."""

    def step(self, action):
        raise RuntimeError("poisoned\non two lines")


class FailsOnce(CartPoleEnv):
    """Raises in the first step of the first launch."""

    def step(self, action):
        if not os.path.exists("failed-once"):
            open("failed-once", "w").close()
            raise RuntimeError("for once")
        return super().step(action)


class OutOfMemory(Endless):
    """The allocator says no."""

    def step(self, action):
        raise MemoryError("cannot allocate 1 TiB")


class Killed(Endless):
    """As the kernel kills a process when memory runs out: without a word."""

    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Announced(Endless):
    """As a cluster announces that it takes the machine: one SIGUSR2, at the hundredth step, in the first launch."""

    steps = 0

    def step(self, action):
        Announced.steps += 1
        if Announced.steps == 100 and not os.path.exists("announced"):
            open("announced", "w").close()
            os.kill(os.getpid(), signal.SIGUSR2)
        return super().step(action)


class Tells(CartPoleEnv):
    """Leaves in a file how many threads its process may have."""

    def __init__(self):
        super().__init__()
        with open("threads", "a") as file:
            file.write(os.environ.get("OMP_NUM_THREADS", "") + "\n")


class RaisesAtReset(Endless):
    """Raises in its first reset."""

    def reset(self, **kwargs):
        raise ValueError("no maze could be made")


class Exits(Endless):
    """Ends the process in its first step, as scripts do."""

    def step(self, action):
        sys.exit(3)


class OddError(Exception):
    """An error that cannot be made from its text."""

    def __init__(self, text, more):
        super().__init__(f"{text}: {more}")


class RaisesOddly(Endless):
    """Raises an error of its own."""

    def step(self, action):
        raise OddError("poisoned", 7)


class Hangs(Endless):
    """Waits for ever in its first step once a file is there; without `when`, at once."""

    def __init__(self, when=None):
        self.when = when

    def step(self, action):
        while self.when is None or os.path.exists(self.when):
            time.sleep(0.05)
        return super().step(action)


class Slow(Endless):
    """Takes a moment for each step."""

    def step(self, action):
        time.sleep(0.02)
        return super().step(action)


class HangsAtReset(Endless):
    """Waits for ever in a reset once a file is there, and minds no Exception."""

    def reset(self, **kwargs):
        while os.path.exists("hang"):
            try:
                time.sleep(0.05)
            except Exception:
                continue
        return super().reset(**kwargs)


class HangsLate(Endless):
    """Waits for ever in the three hundredth step of an episode, which no training comes to."""

    def step(self, action):
        while self.t > 300:
            time.sleep(0.05)
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


class PlaysLong(Endless):
    """Episodes of a thousand steps; once a file is there, the later ones take a tenth of a second each."""

    def step(self, action):
        if self.t > 300 and os.path.exists("evaluating"):
            time.sleep(0.1)
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, self.t >= 1000, info


class OddReward(Endless):
    """A reward that is a list of one, as arrays."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward]), *rest


GRIEF = (Raises, FailsOnce, OutOfMemory, Killed, Announced, Tells)
GRIEF += (RaisesAtReset, Exits, RaisesOddly, Hangs, HangsAtReset, HangsLate, Slow, PlaysLong, OddReward)
for env in GRIEF:
    gym.register(f"{env.__name__}-v0", entry_point=env)
