"""Errors whose message is meant for the person at the keyboard: one line, with a way out."""

from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """Something the user can mend. Shown as one line, without a traceback, with exit code 1."""


class ConfigError(UserError):
    """A setting that cannot be: the message names the key, the value and what would do."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, foreign or does not fit the run."""


class DivergedError(UserError):
    """A NaN or an infinity in the update: names the update, the seed and the metric.

    Args:
        message: the line.
        folders: of the runs that it befell.
    """

    def __init__(self, message: str, folders: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.folders = list(folders)


def user_error_behind(error: BaseException) -> UserError | None:
    """The error meant for the user that another one was made of; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause
