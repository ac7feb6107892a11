"""Errors shown to the user: one line each, with a remedy."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from rlexp.signals import Ended, end_on_signal
from rlexp.text import sanitized_output


class UserError(Exception):
    """An error that the user can fix: printed as one line without a traceback, exit code 1."""


class ConfigError(UserError):
    """An invalid setting: the message names the key, the value and what is valid."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, of another program, or does not fit the run."""


class TrustError(UserError):
    """Loading would run untrusted code: the message names it."""


class StorageError(UserError, OSError):
    """A file could not be written: disk full, read-only or folder removed. Earlier files are kept."""


class ObjectiveError(UserError):
    """An objective breaks the contract of `Algorithm`: the message names how, and an alternative."""


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


def command(name: str, help_text: str | None, run: Callable[[list[str]], None], arguments: list[str] | None) -> None:
    """Print help, or report a UserError in one line.

    A signal is reported in one line too, exit code 128 + signum.

    Args:
        name: of the module; error lines start with it.
        help_text: what --help prints.
        run: runs the command with its arguments.
        arguments: None: those of the command line.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(help_text)
        return
    with sanitized_output():
        try:
            with end_on_signal():
                run(words)
        except Ended as end:
            print(f"{name}: {end}", file=sys.stderr)
            sys.exit(128 + end.signum)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            sys.exit(1)
