"""Environments in which a job comes to grief: jobs of a sweep that the others have to survive."""

import os
import signal

import gymnasium as gym
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


for env in (Raises, FailsOnce, OutOfMemory, Killed, Announced, Tells):
    gym.register(f"{env.__name__}-v0", entry_point=env)
