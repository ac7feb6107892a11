"""Hyperparameters that are changed by hand while a run goes: live=true."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from rlexp.algos.base import Algorithm
from rlexp.algos.schedules import Schedule
from rlexp.errors import CheckpointError, ConfigError, UserError
from rlexp.training.learner import Learner

log = logging.getLogger(__name__)

LR, EPOCHS = "optimizer.lr", "algo.epochs"
MOST_EPOCHS = 1000  # minibatches of so many are made room for
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


def default_range(key: str, value: Schedule) -> Range:
    """Range of a hyperparameter that has this value when the run starts."""
    highest = value.highest
    if key == EPOCHS:
        return 1, max(16, 2 * highest)
    return min(0.0, 2 * min(value.knots)), 10 * highest if key == LR and highest else max(1.0, 2 * highest)


class Live:
    """Follows live.yaml: a value changed there is in force from the next update on, and is a row of live.csv.

    A resumed run repeats the changes that it had made, each at its update, and then follows the file again. Those that
    may change are the learning rate, the scheduled hyperparameters of the objective, and the number of epochs: what
    reaches compiled graphs as tensors, or does not reach them.

    Args:
        store: reads and writes the files.
        algo: the objective.
        rebuild: makes an objective like it with other hyperparameters, by key; ConfigError if it refuses them.
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
        self.values |= {algo.key(name): getattr(algo, name) for name in algo.scheduled()}
        self.values[EPOCHS] = Schedule(algo.epochs)
        self.ranges = {key: default_range(key, value) for key, value in self.values.items()}
        for key, given in ranges.items():
            if key not in self.ranges:
                raise ConfigError(f"live_ranges: {key} cannot be changed while the run goes; {self._names()} can")
            self.ranges[key] = low, high = given[0], given[1]
            knots = self.values[key].knots
            if min(knots) < low or max(knots) > high:
                raise ConfigError(f"live_ranges: {key} starts with {self.values[key]}, outside of {low:g} to {high:g}")
        low, high = self.ranges[EPOCHS]
        if low < 1 or high > MOST_EPOCHS:
            raise ConfigError(f"live_ranges: {EPOCHS} must lie within 1 to {MOST_EPOCHS}, not {low:g} to {high:g}")
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
            self._apply(change.key, self._repeated(change))
        self.store.offer({key: _plain(key, value) for key, value in self.values.items()}, self.ranges)
        return before

    def follow(self, update: int, step: int) -> list[Change]:
        """Apply what has been changed, or is to be repeated, before this update; returns the changes."""
        made: list[Change] = []
        while self.left and self.left[0].update <= update:
            change = self.left.pop(0)
            self._apply(change.key, self._repeated(change))
            made.append(change)
        if self.left:
            return made
        for key, value in self._accepted(self.store.read()).items():
            change = Change(update, step, key, str(_plain(key, self.values[key])), str(_plain(key, value)))
            self.store.keep(change)
            self._apply(key, value)
            log.info("live: %s is %s, was %s, from update %d on", key, change.value, change.before, update + 1)
            made.append(change)
        return made

    def _accepted(self, given: Mapping[str, Any]) -> dict[str, Schedule]:
        """What is new and allowed of the values in live.yaml; a warning for the rest."""
        new: dict[str, Schedule] = {}
        for key, typed in given.items():
            try:
                value = self._parsed(key, typed)
            except (UserError, OverflowError) as error:
                self._refuse(error, self.values.get(key, "the rest"))
                continue
            if value.knots != self.values[key].knots:
                new[key] = value
        try:
            self._require_accepted(new)
        except UserError as error:  # by the objective, of its hyperparameters together
            self._refuse(error, "its values")
            new = {key: value for key, value in new.items() if key == LR}
        return new

    def _refuse(self, error: Exception, kept: Any) -> None:
        log.warning("live.yaml: refused: %s; the run goes on with %s", error, kept)

    def _repeated(self, change: Change) -> Schedule:
        """The value of a change that was made; CheckpointError if it cannot be."""
        what = f"live.csv: {change.key}={change.value} of update {change.update + 1} is"
        try:
            value = Schedule(_typed(change.value), change.key)
        except (ValueError, OverflowError, ConfigError):
            value = None
        if value is None or change.key not in self.values:
            raise CheckpointError(f"{what} no value of this run; restore it, or use resume=never")
        if change.key == EPOCHS and value.highest > self.most_epochs:  # for which there is no room
            raise CheckpointError(f"{what} above live_ranges, up to {self.most_epochs}; widen it, or use resume=never")
        return value

    def _parsed(self, key: str, given: Any) -> Schedule:
        """A new value of a hyperparameter; ConfigError if it is out of range."""
        if key not in self.values:
            raise ConfigError(f"{key}: cannot be changed while the run goes; {self._names()} can")
        value, (low, high) = Schedule(given, key), self.ranges[key]
        if min(value.knots) < low or max(value.knots) > high:
            raise ConfigError(f"{key}={given}: its range is {low:g} to {high:g}")
        if key == EPOCHS and not (len(value.knots) == 1 and value.knots[0].is_integer()):
            raise ConfigError(f"{key}={given}: must be a whole number")
        if key == EPOCHS and self.learner is not None and "epochs" in self.learner.step.reads.first:
            raise ConfigError(f"{key}={given}: the loss reads it, so it is fixed once training starts")
        return value

    def _require_accepted(self, new: Mapping[str, Schedule]) -> None:
        """Refuse (ConfigError) new values, all of one save, that the objective does, given the values in force."""

        def made(values: Mapping[str, Schedule]) -> dict[str, str]:
            return self.rebuild({key: _plain(key, value) for key, value in values.items() if key != LR}).shared()

        if not new.keys() - {LR}:
            return
        ours, theirs = made(self.values), made({**self.values, **new})
        for attribute in ours:
            if f"algo.{attribute}" not in new and theirs.get(attribute) != ours[attribute]:
                which = ", ".join(f"{key}={value}" for key, value in new.items() if key != LR)
                raise ConfigError(f"{which}: algo.{attribute} is derived from it, and fixed once training starts")

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
