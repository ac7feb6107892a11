"""Reference scores of well-known environments: no skill, mastery, solved."""

from typing import NamedTuple


class Scores(NamedTuple):
    """Mean returns of one environment."""

    low: float  # no skill: a random policy over 100 episodes, or the minimum
    high: float  # mastery: the maximum, or PPO's published score
    solved: float | None = None  # by convention


SCORES = {
    "CartPole-v1": Scores(0, 500, 475),
    "Acrobot-v1": Scores(-500, -70, -100),
    "MountainCar-v0": Scores(-200, -100, -110),
    "MountainCarContinuous-v0": Scores(-33, 95, 90),
    "Pendulum-v1": Scores(-1208, -150),
    "LunarLander-v3": Scores(-192, 250, 200),
    # mastery: CleanRL's PPO after a million steps on v4
    "HalfCheetah-v4": Scores(-282, 1443),
    "HalfCheetah-v5": Scores(-282, 1443),
    "Hopper-v4": Scores(17, 2383),
    "Hopper-v5": Scores(17, 2383),
    "Walker2d-v4": Scores(2, 2288),
    "Walker2d-v5": Scores(2, 2288),
}
