"""Errors whose message is meant for the person at the keyboard: one line, with a way out."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from rlexp.signals import Ended, ending_at_once
from rlexp.text import harmless_output


class UserError(Exception):
    """Something the user can mend. Shown as one line, without a traceback, with exit code 1."""


class ConfigError(UserError):
    """A setting that cannot be: the message names the key, the value and what would do."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, foreign or does not fit the run."""


class TrustError(UserError):
    """Something read that would have code run which nobody trusts: the message names it."""


class StorageError(UserError, OSError):
    """A file that could not be written: full, read-only or removed. What was written before is kept."""


class ObjectiveError(UserError):
    """An objective that does what training cannot follow: the message names what, and how else it can be had."""


class EnvironmentFault(UserError):
    """An environment that gave what nobody can learn from: names it, its number and the step."""


class DivergedError(UserError):
    """A NaN or an infinity in the update: names the update, the seed and the metric.

    Args:
        message: the line.
        runs: that it befell, by their folders, and the line of each.
    """

    def __init__(self, message: str, runs: Mapping[Path, str] | None = None) -> None:
        super().__init__(message)
        self.runs = dict(runs or {})

    def of(self, folder: Path) -> Self:
        """What befell one of the runs."""
        return type(self)(self.runs[folder], {folder: self.runs[folder]}).with_traceback(self.__traceback__)


def user_error_behind(error: BaseException) -> UserError | None:
    """The error meant for the user that another one was made of; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause


def command(name: str, help_text: str | None, run: Callable[[list[str]], None], arguments: list[str] | None) -> None:
    """The entry point of a command: its help without words or on request, what the user can mend in one line.

    A signal ends it in one line, too, with exit code 128 + the signal.

    Args:
        name: of the module, which begins the line.
        help_text: what --help prints.
        run: does what the words say.
        arguments: the words; None: those of the command line.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(help_text)
        return
    with harmless_output():
        try:
            with ending_at_once():
                run(words)
        except Ended as end:
            print(f"{name}: {end}", file=sys.stderr)
            sys.exit(128 + end.signum)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            sys.exit(1)
