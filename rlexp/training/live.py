"""Hyperparameters that are changed by hand while a run goes: live=true."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from rlexp.algos.base import Algorithm
from rlexp.algos.schedules import Schedule
from rlexp.errors import ConfigError, UserError
from rlexp.training.learner import Learner

log = logging.getLogger(__name__)

LR, EPOCHS = "optimizer.lr", "algo.epochs"
Range = tuple[float, float]  # lowest and highest value, both included


class Change(NamedTuple):
    """One change: in force from an update on."""

    update: int  # updates done before it
    step: int  # environment steps done before it, of the first agent
    key: str
    before: str
    value: str  # as typed


class LiveStore(Protocol):
    """A run's live.yaml and live.csv."""

    def offer(self, values: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
        """Write live.yaml, unless it is there."""

    def read(self) -> dict[str, Any]:
        """Values in live.yaml, if the file has changed since it was last read; else none."""

    def changes(self) -> list[Change]:
        """The rows of live.csv."""

    def keep(self, change: Change) -> None:
        """Append a row to live.csv."""


def default_range(key: str, highest: float) -> Range:
    """Range of a hyperparameter that is at most `highest` when the run starts."""
    if key == EPOCHS:
        return 1, max(16, 2 * highest)
    return 0, 10 * highest if key == LR and highest else max(1, 2 * highest)


class Live:
    """Follows live.yaml: a value changed there is in force from the next update on, and is a row of live.csv.

    A resumed run repeats the changes that it had made, each at its update, and then follows the file again. Those that
    may change are the learning rate, the scheduled hyperparameters of the objective, and the number of epochs: what
    reaches compiled graphs as tensors, or does not reach them.

    Args:
        store: reads and writes the files.
        algo: the objective.
        rebuild: makes an objective like it with other hyperparameters, by name; ConfigError if it refuses them.
        lr: the learning rate, None: it cannot be changed.
        ranges: other than `default_range`.

    Raises:
        ConfigError: a range of something that cannot be changed.
    """

    def __init__(
        self,
        store: LiveStore,
        algo: Algorithm,
        rebuild: Callable[[dict[str, Any]], Algorithm],
        lr: Schedule | None,
        ranges: Mapping[str, Sequence[float]],
    ) -> None:
        self.store, self.algo, self.rebuild = store, algo, rebuild
        self.values: dict[str, Schedule] = {} if lr is None else {LR: lr}
        self.values |= {f"algo.{name}": getattr(algo, name) for name in algo.scheduled()}
        self.values[EPOCHS] = Schedule(algo.epochs)
        self.ranges = {key: default_range(key, value.highest) for key, value in self.values.items()}
        for key, given in ranges.items():
            if key not in self.ranges:
                raise ConfigError(f"live_ranges: {key} cannot be changed while the run goes; {self._names()} can")
            self.ranges[key] = given[0], given[1]
        self.learner: Learner | None = None  # attached when there is one
        self.left: list[Change] = []  # to be repeated

    @property
    def most_epochs(self) -> int:
        """Highest number of epochs."""
        return int(self.ranges[EPOCHS][1])

    def _names(self) -> str:
        return ", ".join(self.values)

    def begin(self, learner: Learner, update: int) -> list[Change]:
        """Start or resume at an update: repeat the changes before it, which are returned; those after are to come."""
        self.learner = learner
        changes = self.store.changes()
        self.left = [change for change in changes if change.update >= update]
        before = [change for change in changes if change.update < update]
        for change in before:
            self._apply(change.key, self._checked(change.key, _typed(change.value)))
        self.store.offer({key: _plain(key, value) for key, value in self.values.items()}, self.ranges)
        return before

    def follow(self, update: int, step: int) -> list[Change]:
        """Apply what has been changed, or is to be repeated, before this update; returns the changes."""
        made: list[Change] = []
        while self.left and self.left[0].update <= update:
            change = self.left.pop(0)
            self._apply(change.key, self._checked(change.key, _typed(change.value)))
            made.append(change)
        if self.left:
            return made
        for key, given in self.store.read().items():
            try:
                value = self._checked(key, given)
            except UserError as error:
                log.warning("live.yaml: refused: %s; the run goes on with %s", error, self.values.get(key, "the rest"))
                continue
            if value.knots == self.values[key].knots:
                continue
            change = Change(update, step, key, str(_plain(key, self.values[key])), str(_plain(key, value)))
            self.store.keep(change)
            self._apply(key, value)
            log.info("live: %s is %s, was %s, from update %d on", key, change.value, change.before, update + 1)
            made.append(change)
        return made

    def _checked(self, key: str, given: Any) -> Schedule:
        """A new value of a hyperparameter; ConfigError if it is out of range, or the objective refuses it."""
        if key not in self.values:
            raise ConfigError(f"{key}: cannot be changed while the run goes; {self._names()} can")
        value, (low, high) = Schedule(given, key), self.ranges[key]
        if min(value.knots) < low or max(value.knots) > high:
            raise ConfigError(f"{key}={given}: its range is {low:g} to {high:g}")
        if key == EPOCHS and not (len(value.knots) == 1 and value.knots[0].is_integer()):
            raise ConfigError(f"{key}={given}: must be a whole number")
        name = key.partition(".")[2]
        if key == LR:
            return value
        assert self.learner is not None
        if name in self.learner.reads.first and key == EPOCHS:
            raise ConfigError(f"{key}={given}: the loss reads it, so it is fixed once training starts")
        other, ours = self.rebuild({name: _plain(key, value)}).shared(), self.rebuild({}).shared()
        for attribute in ours:
            if attribute != name and other.get(attribute) != ours[attribute]:
                raise ConfigError(f"{key}={given}: algo.{attribute} is derived from it, and fixed once training starts")
        return value

    def _apply(self, key: str, value: Schedule) -> None:
        assert self.learner is not None
        self.values[key] = value
        if key == LR:
            self.learner.lr = value
        else:
            setattr(self.algo, key.partition(".")[2], _plain(key, value) if key == EPOCHS else value)


def _plain(key: str, value: Schedule) -> Any:
    """A value as it is typed."""
    if key == EPOCHS:
        return int(value.knots[0])
    return value.knots[0] if len(value.knots) == 1 else list(value.knots)


def _typed(text: str) -> Any:
    """The inverse of `_plain`, of its text."""
    numbers = [float(word) for word in text.strip("[]").split(",")]
    return numbers if text.startswith("[") else numbers[0]
