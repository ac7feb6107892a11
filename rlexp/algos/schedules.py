"""Schedules: hyperparameters that change during training."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from rlexp.errors import ConfigError


class NoNumber:
    """What is read by a call, by progress, and is no number itself: misuse that Python would let pass is refused."""

    def __bool__(self) -> bool:
        """Refused, as it would be true at 0, too."""
        raise TypeError("a 'Schedule' is neither true nor false")

    def __eq__(self, other: object) -> bool:
        """With a number refused, as it would never be equal."""
        if isinstance(other, int | float):
            raise TypeError("a 'Schedule' is not to be compared with a number")
        return self is other

    __hash__ = object.__hash__


class Schedule(NoNumber):
    """Piecewise linear in training progress, with knots equally spaced over the run.

    ``Schedule(0.2)`` is constant, ``Schedule([2.5e-4, 0])`` decays linearly to 0, and ``Schedule([1, 1, 0])`` stays at
    1 for the first half, then decays to 0. Raises ConfigError, naming the key, for anything else.
    """

    def __init__(self, value: "float | Sequence[float] | Schedule", key: str = "value") -> None:
        given: Any = value.knots if isinstance(value, Schedule) else value
        knots = given if isinstance(given, list | tuple) else [given]
        numbers = all(isinstance(k, int | float) and not isinstance(k, bool) and math.isfinite(k) for k in knots)
        if not knots or not numbers:
            raise ConfigError(f"{key}={value}: is not a schedule; use a number, or a list such as [0.2, 0] (linear)")
        self.knots: tuple[float, ...] = tuple(float(k) for k in knots)

    @property
    def highest(self) -> float:
        """Largest value over the run."""
        return max(self.knots)

    def __call__(self, progress: float) -> float:
        """Value at ``progress`` in [0, 1], the fraction of the run's updates done."""
        if len(self.knots) == 1:
            return self.knots[0]
        return float(np.interp(progress, np.linspace(0.0, 1.0, len(self.knots)), self.knots))

    def __repr__(self) -> str:
        """As typed on the command line."""
        return str(self.knots[0]) if len(self.knots) == 1 else str(list(self.knots))


class PerAgent(NoNumber):
    """Schedules that differ between agents trained side by side: one value per agent (A,)."""

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self.schedules = list(schedules)

    @property
    def highest(self) -> float:
        """Largest value of any agent over the run."""
        return max(schedule.highest for schedule in self.schedules)

    def __call__(self, progress: float) -> np.ndarray:
        """Values at ``progress`` (A,)."""
        return np.array([schedule(progress) for schedule in self.schedules])


def side_by_side(schedules: Sequence[Schedule]) -> Schedule | PerAgent:
    """Merge the agents' schedules, one each; a single one if all are equal."""
    same = len({schedule.knots for schedule in schedules}) == 1
    return schedules[0] if same else PerAgent(schedules)


# Annotates a dataclass field that becomes a Schedule on construction and is a tensor inside `loss`.
Scheduled = Annotated[Any, Schedule]
