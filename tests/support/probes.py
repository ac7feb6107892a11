"""Probe environments: in each, one thing at a time can fail, and what must be learnt is known."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

UNIT = spaces.Box(-1.0, 1.0, (1,), np.float32)


def obs(x):
    return np.array([x], np.float32)


class Probe(gym.Env):
    observation_space = UNIT
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.seen = self.first()
        return obs(self.seen), {}

    def first(self):
        return 0.0


class ConstantReward(Probe):
    """One step, reward 1, observation 0. V(0) = 1."""

    def step(self, action):
        return obs(0.0), 1.0, True, False, {}


class TwoSteps(Probe):
    """Observation −1, then 1; reward 1 at the end. With γ = .5: V(1) = 1, V(−1) = .5."""

    def first(self):
        return -1.0

    def step(self, action):
        self.t += 1
        return obs(1.0), float(self.t == 2), self.t == 2, False, {}


class ObservedReward(Probe):
    """One step; the reward is the observation, ±1. V(o) = o."""

    def first(self):
        return float(self.np_random.choice([-1.0, 1.0]))

    def step(self, action):
        return obs(self.seen), self.seen, True, False, {}


class MatchingAction(Probe):
    """One step; reward 1 if the action tells the sign of the observation, else −1. The policy must learn it."""

    def first(self):
        return float(self.np_random.choice([-1.0, 1.0]))

    def step(self, action):
        return obs(self.seen), 1.0 if action == int(self.seen > 0) else -1.0, True, False, {}


class Endless(Probe):
    """Reward 1 for ever, cut after 5 steps. With γ = .5 and bootstrapping V = 1 / (1 − .5) = 2; without, less."""

    def step(self, action):
        self.t += 1
        return obs(0.0), 1.0, False, self.t == 5, {}


class FinalAlarm(Probe):
    """Two steps from observation 0, reward 1 each. The final observation is .5, seen in the dummy row only.

    γ = 1: V(0) is the mean over both rows, 1.5, and V(.5) is never taught, wherever dummy rows are masked.
    """

    def step(self, action):
        self.t += 1
        return obs(0.5 if self.t == 2 else 0.0), 1.0, self.t == 2, False, {}


class Target(Probe):
    """One step, reward −(action − target)²; continuous. The mean must move to the target .5."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action):
        return obs(0.0), -float((action[0] - 0.5) ** 2), True, False, {}


class TwoSwitches(Probe):
    """One step, MultiDiscrete observation and action; reward 1 for each switch that repeats its input."""

    observation_space = spaces.MultiDiscrete([2, 3])
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.shown = self.np_random.integers([2, 3])
        return self.shown, {}

    def step(self, action):
        return self.shown, float((action == self.shown).sum()), True, False, {}


class Pixels(Probe):
    """Images; reward for the first action, one episode in three steps."""

    observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)

    def _image(self):
        return self.np_random.integers(0, 256, (3, 36, 36), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action):
        self.t += 1
        return self._image(), float(action == 0), self.t == 3, False, {}


class PickledByArguments(gym.utils.EzPickle, Endless):
    """Pickles, but only its constructor's arguments: a pickled copy would not go on where the original stood."""

    def __init__(self):
        gym.utils.EzPickle.__init__(self)

    def step(self, action):
        self.t += 1
        return obs(self.t / 10), 1.0, False, self.t == 5, {}


class CountsOfClass(Endless):
    """Keeps part of its state in its class, which no copy of an environment takes along."""

    count = 0

    def step(self, action):
        CountsOfClass.count += 1
        observation, *rest = super().step(action)
        return observation + CountsOfClass.count, *rest


class Corridor(Probe):
    """Fifteen cells: one action, not the same in all, steps on, the other back to the first; 30 steps.

    Reward 1 at the last, which ends it. By chance one in 2¹⁴ tries gets there.
    """

    observation_space = spaces.Discrete(15)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = 0
        return 0, {}

    def step(self, action):
        self.t += 1
        self.cell = self.cell + 1 if action == int("10011010001101"[self.cell]) else 0
        return self.cell, float(self.cell == 14), self.cell == 14, self.t == 30, {}


for probe in (
    ConstantReward,
    Corridor,
    TwoSteps,
    ObservedReward,
    MatchingAction,
    Endless,
    FinalAlarm,
    Target,
    TwoSwitches,
    Pixels,
    PickledByArguments,
    CountsOfClass,
):
    gym.register(f"{probe.__name__}-v0", entry_point=probe)
