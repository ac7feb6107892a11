"""Where in an objective's own files something stands, and what went wrong there in one line."""

import contextlib
import inspect
import re
import traceback
from bdb import BdbQuit
from collections.abc import Iterator
from typing import Any

import torch

from rlexp.algos.base import Algorithm
from rlexp.errors import ObjectiveError, UserError
from rlexp.user_code import function_of, is_library, package_of, raised, through, told

# what torch says where numbers are at fault, rather than shapes
_OF_VALUES = re.compile(r"out of bounds|probabilit|singular|positive|negative|converge|\bnan\b|\binf\b", re.IGNORECASE)
# what is looked for where a loss is another one from call to call
CHANGING = ("urandom", "time.", "time(", "uuid", "secrets", "default_rng", "generator=", "random", "next(", ".append(")
_OF_INDICES = re.compile(r"too many indices|Dimension out of range|out of bounds for dimension")


def _source(thing: Any) -> tuple[list[str], int, str]:
    """Lines, the number of the first, the file; no lines where there is no file, as of what is typed into a prompt."""
    try:
        lines, first = inspect.getsourcelines(thing)
        return lines, first, inspect.getsourcefile(thing) or ""
    except (OSError, TypeError):
        return [], 0, ""


def _kinds(algo: Algorithm) -> list[type]:
    """Classes of the objective, the nearest first, without those that all share."""
    return [kind for kind in type(algo).__mro__ if kind not in (Algorithm, object)]


def _packages(algo: Algorithm) -> set[str]:
    return {package_of(kind.__module__) for kind in _kinds(algo)}


def where_defined(algo: Algorithm, hook: str, *needles: str) -> str:
    """The last line in which the first of these that is found is written: in the hook, its bases', or in the class.

    Where none is, the hook's first line, and where the class has no such hook, its own.
    """
    kinds = _kinds(algo)
    hooks = [_source(function_of(vars(kind)[hook])) for kind in kinds if hook in vars(kind)]
    classes = [_source(kind) for kind in kinds]
    literal = bool(needles) and all(needle[:1] in "\"'" or needle.startswith("self.") for needle in needles)
    for lines, first, file in (*hooks, *classes * literal):  # what is written anywhere names nothing in a whole class
        for needle in needles:
            found = [number for number, line in enumerate(lines) if needle in line]
            if found:
                return told(file, first + found[-1])
    for lines, first, file in (*hooks, *classes):
        if lines:
            return told(file, first)
    return type(algo).__name__


def where_raised(error: BaseException, algo: Algorithm, hook: str) -> str:
    """The last line that is neither rlexp's nor a library's; where it is of another file than the objective, both."""
    files = {_source(kind)[2] for kind in _kinds(algo)} - {""}
    own = through(error, _packages(algo))
    walked = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    in_files = [told(file, line) for file, line in walked if file in files]
    if own and own[-1].file not in files:
        return told(own[-1].file, own[-1].line) + (f", called at {in_files[-1]}" if in_files else "")
    if in_files:
        return in_files[-1]
    return where_defined(algo, hook, *(CHANGING if isinstance(error, ObjectiveError) else ()))


def where_undone(error: BaseException, messages: list[str], algo: Algorithm) -> str:
    """The line in which a gradient failed: of a backward of somebody's own, or as anomaly detection tells it."""
    if through(error, _packages(algo)):
        return where_raised(error, algo, "loss")
    files = {_source(kind)[2] for kind in _kinds(algo)} - {""}
    frames = [frame for text in messages for frame in re.findall(r'File "(.+?)", line (\d+)', text)]
    own = [(file, int(line)) for file, line in frames if file in files or not is_library(file)]
    own = [frame for frame in own if frame[0] in files] or own
    return told(*own[-1]) if own else where_defined(algo, "loss")


def refusal(algo: Algorithm, hook: str, what: str, *needles: str) -> ObjectiveError:
    """What a hook does that training cannot follow, and the line in which it stands."""
    return ObjectiveError(f"{where_defined(algo, hook, *needles)}: {type(algo).__name__}.{hook}: {what}")


@contextlib.contextmanager
def named(algo: Algorithm, hook: str) -> Iterator[None]:
    """While entered, whatever the hook raises is told in one line, with where it was raised.

    Raises:
        ObjectiveError: an exception that is not of rlexp, or one of rlexp without a place.
    """
    try:
        yield
    except (BdbQuit, torch.OutOfMemoryError):
        raise
    except UserError as error:
        if not isinstance(error, ObjectiveError) or re.match(r"[^:]+:\d+[:,]", str(error)):
            raise
        raise ObjectiveError(f"{where_raised(error, algo, hook)}: {type(algo).__name__}.{hook}: {error}") from error
    except Exception as error:  # whatever somebody else's code raises
        place = where_raised(error, algo, hook)
        raise ObjectiveError(f"{place}: {type(algo).__name__}.{hook}: {raised(error)}") from error


def is_mistake(error: BaseException) -> bool:
    """Whether an exception would be raised whatever the numbers were: a misspelt name, another shape.

    Others may be of numbers that are made up, and of memories that nothing has filled; the first update tells those.
    """
    line = str(error)
    if "NoneType" in line:
        return False
    if isinstance(error, AttributeError | TypeError | NameError | NotImplementedError | ImportError):
        return True
    if isinstance(error, IndexError):
        return bool(_OF_INDICES.search(line))
    if isinstance(error, ValueError):
        return "values to unpack" in line
    if isinstance(error, RuntimeError):
        frames = traceback.extract_tb(error.__traceback__)
        by_python = bool(frames) and (frames[-1].line or "").startswith("raise")  # as checks of values do
        return not (by_python or isinstance(error, torch.linalg.LinAlgError) or _OF_VALUES.search(line))
    return False
