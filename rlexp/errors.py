"""Errors shown to the user: one line each, with a remedy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self


class UserError(Exception):
    """An error that the user can fix: printed as one line without a traceback, exit code 1."""


class ConfigError(UserError):
    """An invalid setting: the message names the key, the value and what is valid."""


class LoggerError(ConfigError):
    """A logger cannot start: nothing is trained, and the run stays as it is."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, of another program, or does not fit the run."""


class TrustError(UserError):
    """Loading would run untrusted code: the message names it."""


class StorageError(UserError, OSError):
    """A file could not be written: disk full, read-only or folder removed. Earlier files are kept."""


class ObjectiveError(UserError):
    """An objective breaks the contract of `Algorithm`: the message names how, and an alternative."""


class RankError(UserError):
    """Another process of the run has ended: the message says why, if it is known."""


class EnvironmentFault(UserError):
    """An environment returned something unusable: the message names the environment, its index and the step."""


class DivergedError(UserError):
    """NaN or infinity in an update: the message names the update, the seed and the metric.

    Args:
        message: one line.
        runs: folders of the runs that diverged, with the message of each.
    """

    def __init__(self, message: str, runs: Mapping[Path, str] | None = None) -> None:
        super().__init__(message)
        self.runs = dict(runs or {})

    def for_run(self, folder: Path) -> Self:
        """The error of one of the runs."""
        return type(self)(self.runs[folder], {folder: self.runs[folder]}).with_traceback(self.__traceback__)


def user_error_behind(error: BaseException) -> UserError | None:
    """The first UserError in a chain of causes; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause
