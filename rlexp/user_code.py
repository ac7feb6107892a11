"""Locations in user code: where a class is defined, and where an error was raised."""

import functools
import inspect
import sys
import sysconfig
import traceback
from bdb import BdbQuit
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from rlexp.files import PACKAGE
from rlexp.text import one_line

# Packages that call user code or are called by it: errors are never located in them
NEVER = {"rlexp", "gymnasium", "torch", "numpy", "hydra", "envpool"}
INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
LIBRARIES = {PACKAGE, *INSTALLED}

MAX_CHARS = 300  # of an error message


def package_of(module: str) -> str:
    """The package that a module is part of."""
    return module.partition(".")[0]


def location(file: str, line: int) -> str:
    """'file:line', relative to the working directory or to its entry of sys.path."""
    path = Path(file).resolve()
    roots = [Path.cwd(), *(Path(entry or ".").resolve() for entry in sorted(sys.path, key=len, reverse=True))]
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    return f"{path.relative_to(root)}:{line}"


def is_user_code(kind: type) -> bool:
    """Whether a class is user code."""
    return package_of(kind.__module__) not in NEVER | {"builtins"}


def where_defined(kind: type, method: str) -> str:
    """Definition of a method in a class or its bases, 'their_pkg/maze.py:12: Maze.step'; '' if not user code."""
    if not is_user_code(kind):
        return ""
    users = [base for base in kind.__mro__ if package_of(base.__module__) not in NEVER and method in vars(base)]
    try:
        if not users:
            where = location(inspect.getsourcefile(kind) or "", inspect.getsourcelines(kind)[1])
            return f"{where}: {kind.__qualname__}"
        found = users[0]
        code = getattr(function_of(vars(found)[method]), "__code__", None)
        if not isinstance(code, CodeType):
            return f"{found.__qualname__}.{method}"
        return f"{location(code.co_filename, code.co_firstlineno)}: {found.__qualname__}.{method}"
    except (OSError, TypeError):  # defined at a prompt
        return f"{kind.__qualname__}.{method}"


def function_of(member: Any) -> Any:
    """The function behind a class attribute: unwrapped from staticmethod, classmethod, partial and decorators."""
    while True:
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        elif isinstance(member, functools.partialmethod | functools.partial):
            member = member.func
        else:
            return inspect.unwrap(member) if callable(member) else member


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes or contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def was_quit(error: BaseException | None) -> bool:
    """Whether the user quit a debugger: BdbQuit is among the causes."""
    return any(isinstance(one, BdbQuit) for one in chain(error))


class Frame(NamedTuple):
    """A frame of a traceback."""

    file: str
    line: int
    name: str  # Maze.step


def user_frames(error: BaseException, packages: Iterable[str] = ()) -> list[Frame]:
    """Frames of an error in user code, else those of its causes; the innermost last.

    User code is what is in one of the packages, and whatever is not a library.
    """
    known = set(packages) - NEVER
    for one in chain(error):
        walked = [
            (frame.f_globals.get("__name__", ""), Frame(frame.f_code.co_filename, line, frame.f_code.co_qualname))
            for frame, line in traceback.walk_tb(one.__traceback__)
        ]
        users = [frame for name, frame in walked if package_of(name) in known or not is_library(frame.file)]
        if users:
            return users
    return []


def where_raised(error: BaseException, packages: Iterable[str] = ()) -> str:
    """The innermost frame in user code, 'their_pkg/maze.py:14: Maze.step'; '' if there is none."""
    return next((f"{location(at.file, at.line)}: {at.name}" for at in reversed(user_frames(error, packages))), "")


def is_library(file: str) -> bool:
    """Whether a file is an installed package's, Python's or rlexp's; also true of code without a file."""
    return file.startswith("<") or any(Path(file).resolve().is_relative_to(root) for root in LIBRARIES)


def describe_error(error: BaseException) -> str:
    """'Type: message' of an exception in one line."""
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called during the run"
    line = one_line(f"{type(error).__name__}: {error}".removesuffix(": "))
    return line if len(line) <= MAX_CHARS else f"{line[:MAX_CHARS]} ..."
