"""Reference scores of well-known environments: no skill, mastery, solved; and the limits of an episode's return."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from rlexp.config.declaration import is_number

# mean returns: of no skill (a random policy over 100 episodes, of DeepMind Control 20, or the minimum); of mastery (the
# maximum, or PPO's published score); and the one that counts as solved, where there is a convention
SCORES: dict[str, tuple[float, float, float | None]] = {
    "CartPole-v1": (0, 500, 475),
    "Acrobot-v1": (-500, -70, -100),
    "MountainCar-v0": (-200, -100, -110),
    "MountainCarContinuous-v0": (-33, 95, 90),
    "Pendulum-v1": (-1208, -150, None),
    "LunarLander-v3": (-192, 250, 200),
    # mastery: CleanRL's PPO after a million steps on v4
    "HalfCheetah-v4": (-282, 1443, None),
    "HalfCheetah-v5": (-282, 1443, None),
    "Hopper-v4": (17, 2383, None),
    "Hopper-v5": (17, 2383, None),
    "Walker2d-v4": (2, 2288, None),
    "Walker2d-v5": (2, 2288, None),
    "Humanoid-v5": (113, 716, None),
    "Ant-v5": (-48, 1327, None),  # RL Zoo's PPO after a million steps on v3
    "BipedalWalker-v3": (-103, 300, 300),
    # rewards of 0 to 1 in each of 1,000 steps
    "WalkerWalk-v1": (32, 1000, None),
    "CheetahRun-v1": (4, 1000, None),
    "CartpoleSwingupSparse-v1": (0, 1000, None),
    # mastery: RL Zoo's PPO; of DoorKey-8x8 the same door, farther away
    "MiniGrid-DoorKey-5x5-v0": (0.04, 0.964, None),
    "MiniGrid-DoorKey-8x8-v0": (0.01, 0.964, None),
    "MiniGrid-RedBlueDoors-6x6-v0": (0.03, 0.86, None),
    "MiniGrid-KeyCorridorS3R1-v0": (0.03, 0.949, None),
    # the whole game; CleanRL's PPO after ten million steps; Procgen's own normalisation of easy levels
    "ALE/Pong-v5": (-21, 21, None),
    "ALE/Breakout-v5": (1.7, 415, None),
    "StarpilotEasy-v0": (2.5, 64, None),
}

# Lowest and highest possible return of one episode: the id's time limit, and the limits at a time limit of t steps, by
# the rewards in Gymnasium's code, up to rounding of their sum. LunarLander's shaping and MuJoCo's velocities have no
# useful ones.
LIMITS: dict[str, tuple[int, Callable[[int], tuple[float, float]]]] = {
    # 1 a step, the last one included
    "CartPole-v0": (200, lambda t: (1, t)),
    "CartPole-v1": (500, lambda t: (1, t)),
    # -1 a step, 0 for the one that reaches the height
    "Acrobot-v1": (500, lambda t: (-t, 0)),
    # -1 a step, the one that reaches the flag included
    "MountainCar-v0": (200, lambda t: (-t, -1)),
    # 100 at the flag, less 0.1 a² of each step, actions a clipped to ±1
    "MountainCarContinuous-v0": (999, lambda t: (-0.1 * t, 100)),
    # -(θ² + 0.1 θ'² + 0.001 u²) a step, with |θ| ≤ π, |θ'| ≤ 8, |u| ≤ 2
    "Pendulum-v1": (200, lambda t: (-(math.pi**2 + 6.4 + 0.004) * t, 0)),
}
SCALED = ("CartPole-v1",)  # whose reference scores are shares of the time limit, so that another one scales them
_TIME_LIMIT, _KWARGS, _WRAPPERS = "env.kwargs.max_episode_steps", "env.kwargs.", "env.wrappers"
_PLAIN = ("gymnasium.wrappers.", "minigrid.wrappers.", "rlexp.envs.wrappers.")  # known to leave rewards as they are,
_REWARDING = ("Reward", "Bonus")  # except classes whose names end in one of these


def scores_of(settings: Mapping[str, Any]) -> tuple[float, float, float | None] | None:
    """Reference scores of a run's environment under its time limit, by its settings; None: not known."""
    name = str(settings.get("env.id")).rpartition(":")[2]  # without the module that registers it
    known, own, limit = SCORES.get(name), LIMITS.get(name, (None,))[0], settings.get(_TIME_LIMIT)
    if known is None or limit in (None, own):
        return known
    if name not in SCALED or own is None or not _is_time_limit(limit):
        return None
    factor = limit / own
    return known[0] * factor, known[1] * factor, None if known[2] is None else known[2] * factor


def unusual_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Arguments of the environment but for its time limit, and wrappers, that may change what its scores mean."""
    found = sorted(key for key in settings if key.startswith(_KWARGS) and key != _TIME_LIMIT)
    return found + [_WRAPPERS] * any(map(_may_change_rewards, settings.get(_WRAPPERS) or ()))


def _may_change_rewards(wrapper: Any) -> bool:
    target = str(wrapper.get("_target_") if isinstance(wrapper, Mapping) else wrapper)
    return not target.startswith(_PLAIN) or target.endswith(_REWARDING)


def limits_of(settings: Mapping[str, Any]) -> tuple[float | None, float | None] | None:
    """Lowest and highest possible return of an episode, by a run's settings; None, or a None in it: not known."""
    own = settings.get("env.limits")
    if own is not None:
        return own[0], own[1]
    # arguments may change the rewards, as CartPole's sutton_barto_reward does
    if unusual_arguments(settings) or (known := LIMITS.get(str(settings.get("env.id")))) is None:
        return None
    limit = settings.get(_TIME_LIMIT, known[0])
    if not _is_time_limit(limit):
        return None
    low, high = known[1](limit)
    return float(low), float(high)


def _is_time_limit(limit: Any) -> bool:
    return is_number(limit) and limit >= 1
