"""Whose code it is: where the class of somebody else stands, and where in their code an error was raised."""

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

# What calls other people's code, or is called by it: never where an error is theirs to mend
NEVER = {"rlexp", "gymnasium", "torch", "numpy", "hydra", "envpool"}
INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
LIBRARIES = {PACKAGE, *INSTALLED}

MOST = 300  # characters of what was raised


def package_of(module: str) -> str:
    """The package that a module is part of."""
    return module.partition(".")[0]


def told(file: str, line: int) -> str:
    """A place in a file, as seen from here, or from where it is imported."""
    path = Path(file).resolve()
    roots = [Path.cwd(), *(Path(entry or ".").resolve() for entry in sorted(sys.path, key=len, reverse=True))]
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    return f"{path.relative_to(root)}:{line}"


def _class_in(kind: type, method: str) -> type | None:
    """The class of somebody else that a method of one is written in."""
    for base in kind.__mro__:
        if package_of(base.__module__) not in NEVER and method in vars(base):
            return base
    return None


def is_theirs(kind: type) -> bool:
    """Whether somebody else wrote a class."""
    return package_of(kind.__module__) not in NEVER | {"builtins"}


def where_defined(kind: type, method: str) -> str:
    """'their_pkg/maze.py:12: Maze.step' of a class and what it or a base of it defines; '' if not theirs."""
    if not is_theirs(kind):
        return ""
    found = _class_in(kind, method)
    try:
        if found is None:
            return f"{told(inspect.getsourcefile(kind) or '', inspect.getsourcelines(kind)[1])}: {kind.__qualname__}"
        code = getattr(function_of(vars(found)[method]), "__code__", None)
        if not isinstance(code, CodeType):
            return f"{found.__qualname__}.{method}"
        return f"{told(code.co_filename, code.co_firstlineno)}: {found.__qualname__}.{method}"
    except (OSError, TypeError):  # typed into a prompt
        return f"{kind.__qualname__}.{method}"


def function_of(member: Any) -> Any:
    """The function behind what a class holds under a name."""
    while True:
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        elif isinstance(member, functools.partialmethod | functools.partial):
            member = member.func
        else:
            return inspect.unwrap(member) if callable(member) else member


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def was_quit(error: BaseException | None) -> bool:
    """Whether a debugger was quit, however often what that raised was made another error of."""
    return any(isinstance(one, BdbQuit) for one in chain(error))


class Place(NamedTuple):
    """A line that an error came through."""

    file: str
    line: int
    name: str  # Maze.step


def through(error: BaseException, packages: Iterable[str] = ()) -> list[Place]:
    """The places in somebody else's code that an error came through, or failing that its causes; the deepest last.

    Theirs is what is in one of the packages, and whatever is no library.
    """
    known = set(packages) - NEVER
    for one in chain(error):
        walked = [
            (frame.f_globals.get("__name__", ""), Place(frame.f_code.co_filename, line, frame.f_code.co_qualname))
            for frame, line in traceback.walk_tb(one.__traceback__)
        ]
        theirs = [place for name, place in walked if package_of(name) in known or not is_library(place.file)]
        if theirs:
            return theirs
    return []


def where_raised(error: BaseException, packages: Iterable[str] = ()) -> str:
    """'their_pkg/maze.py:14: Maze.step', the deepest of `through`; '' if there is none."""
    return next((f"{told(at.file, at.line)}: {at.name}" for at in reversed(through(error, packages))), "")


def is_library(file: str) -> bool:
    """Whether code is installed, Python's own, rlexp's or of no file."""
    return file.startswith("<") or any(Path(file).resolve().is_relative_to(root) for root in LIBRARIES)


def raised(error: BaseException) -> str:
    """What was raised, in one line."""
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called while the run was at work"
    line = " ".join(f"{type(error).__name__}: {error}".removesuffix(": ").split())
    return line if len(line) <= MOST else f"{line[:MOST]} ..."
