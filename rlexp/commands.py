"""What all commands but `train` share: words like key=value, help, and errors in one line."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rlexp.errors import ConfigError, UserError
from rlexp.signals import Ended, end_on_signal
from rlexp.text import nearest, sanitized_output
from rlexp.torchrun import processes, rank

Options = Mapping[str, Callable[[str], Any]]  # for each setting what reads its value; a ValueError says what it must be


def boolean(text: str) -> bool:
    """A value that is true or false."""
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise ValueError("must be a whole number")
    return int(text)


def names(text: str) -> list[str]:
    """Names with commas in between, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def parse(words: list[str], known: Options, usage: str = "") -> tuple[list[str], dict[str, Any]]:
    """Split words into folders and settings; key=value is a folder if there is one of that name, or a / before the =.

    Args:
        words: of the command line.
        known: all settings.
        usage: the command with a folder, shown if none is given; empty: it takes none.

    Raises:
        ConfigError: an unknown setting, one given twice, a wrong value, or no folder.
    """
    folders, settings = [], {}
    for word in words:
        name, separator, value = word.partition("=")
        if usage and (not separator or "/" in name or os.path.exists(word)):  # Path.exists raises for a long word
            folders.append(word)
            continue
        if not separator or name not in known:
            raise ConfigError(f"{word}: no such setting{' or folder' if usage else ''}; {nearest(name, known)}")
        if name in settings:
            raise ConfigError(f"{word}: {name}= is given twice; leave one out")
        try:
            settings[name] = known[name](value)
        except ValueError as error:
            raise ConfigError(f"{word}: {error}") from None
    if usage and not folders:
        raise ConfigError(f"name a study: {usage}")
    return folders, settings


def command(
    name: str, help_text: str | None, run: Callable[[list[str]], None], arguments: list[str] | None = None
) -> None:
    """Run a command: print its help, or what it says; a UserError in one line.

    A signal is reported in one line too, exit code 128 + signum.

    Args:
        name: of the module; error lines start with it.
        help_text: what --help prints.
        run: runs the command with its arguments.
        arguments: None: those of the command line.
    """
    if processes() > 1:
        if not rank():
            print(f"{name}: takes one process, and these are {processes()}; leave out torchrun", file=sys.stderr)
        sys.exit(1)
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(help_text)
        return
    with sanitized_output():
        try:
            with end_on_signal():
                run(words)
        except (Ended, UserError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            sys.exit(128 + error.signum if isinstance(error, Ended) else 1)
