"""Hyperparameters that may change during training."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from rlexp.errors import ConfigError


class Schedule:
    """Piecewise-linear in training progress, knots equally spaced over the run.

    ``Schedule(0.2)`` is constant, ``Schedule([2.5e-4, 0])`` falls linearly to 0 at the end, and
    ``Schedule([1, 1, 0])`` holds 1 for the first half, then falls to 0.

    Raises:
        ConfigError: not a finite number or a non-empty list of them.
    """

    def __init__(self, value: "float | Sequence[float] | Schedule") -> None:
        if isinstance(value, Schedule):
            self.knots: tuple[float, ...] = value.knots
            return
        knots: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        numbers = all(isinstance(k, int | float) and not isinstance(k, bool) and math.isfinite(k) for k in knots)
        if not knots or not numbers:
            raise ConfigError("is no schedule; give a number, or a list such as [0.2, 0] (linear)")
        self.knots = tuple(float(k) for k in knots)

    @classmethod
    def named(cls, key: str, value: Any) -> "Schedule":
        """The schedule that a setting asks for; a refusal names the key and the value."""
        try:
            return cls(value)
        except ConfigError as error:
            raise ConfigError(f"{key}={value}: {error}") from None

    @property
    def highest(self) -> float:
        """Largest value that it ever has."""
        return max(self.knots)

    def __call__(self, progress: float) -> float:
        """Value at ``progress`` in [0, 1], the fraction of the run's updates already made."""
        if len(self.knots) == 1:
            return self.knots[0]
        return float(np.interp(progress, np.linspace(0.0, 1.0, len(self.knots)), self.knots))

    def __repr__(self) -> str:
        """As typed on the command line."""
        return str(self.knots[0]) if len(self.knots) == 1 else str(list(self.knots))


class PerAgent:
    """The schedules of agents that are trained side by side and differ in them: one value an agent, (A,)."""

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self.schedules = list(schedules)

    @property
    def highest(self) -> float:
        """Largest value that any agent's ever has."""
        return max(schedule.highest for schedule in self.schedules)

    def __call__(self, progress: float) -> np.ndarray:
        """Values at ``progress``."""
        return np.array([schedule(progress) for schedule in self.schedules])


def side_by_side(schedules: Sequence[Schedule]) -> Schedule | PerAgent:
    """The schedules of agents, one each; a single one if they are all the same."""
    same = len({schedule.knots for schedule in schedules}) == 1
    return schedules[0] if same else PerAgent(schedules)


# The annotation of a dataclass field that becomes a Schedule on construction and reaches `loss` as a tensor.
Scheduled = Annotated[Any, Schedule]
