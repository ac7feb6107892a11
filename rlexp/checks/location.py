"""Errors of an objective's hooks in one line, with the file and line in user code."""

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
from rlexp.user_code import describe_error, function_of, is_library, location, package_of, user_frames

# torch's messages when values, rather than shapes, are at fault
_OF_VALUES = re.compile(r"out of bounds|probabilit|singular|positive|negative|converge|\bnan\b|\binf\b", re.IGNORECASE)
# code to look for when a loss differs from call to call
CHANGING = ("urandom", "time.", "time(", "uuid", "secrets", "default_rng", "generator=", "random", "next(", ".append(")
_SCHEDULED = "a Scheduled field is a tensor in loss alone; elsewhere its value is self.<name>(progress)"
HINTS = {  # of Python's messages
    "'Schedule'": _SCHEDULED,
    "'PerAgent'": _SCHEDULED,
    "'function' object": "policy.module(name) can only be called; let its forward return what else you need",
    "tuple indices must be integers": "batch.extra has what rewards() adds as rows, batch.replay what replay() returns",
}
_OF_INDICES = re.compile(r"too many indices|Dimension out of range|out of bounds for dimension")


def _source(thing: Any) -> tuple[list[str], int, str]:
    """Source lines, number of the first, file; no lines if there is no file, as at a prompt."""
    try:
        lines, first = inspect.getsourcelines(thing)
        return lines, first, inspect.getsourcefile(thing) or ""
    except (OSError, TypeError):
        return [], 0, ""


def _kinds(algo: Algorithm) -> list[type]:
    """The objective's class and its bases, without Algorithm and object."""
    return [kind for kind in type(algo).__mro__ if kind not in (Algorithm, object)]


def _packages(algo: Algorithm) -> set[str]:
    return {package_of(kind.__module__) for kind in _kinds(algo)}


def where_defined(algo: Algorithm, hook: str, *needles: str) -> str:
    """File and line of the first needle found, last occurrence: in the hook, then in its bases, then in the class.

    If none is found, the first line of the hook, or of the class if it lacks the hook.
    """
    kinds = _kinds(algo)
    hooks = [_source(function_of(vars(kind)[hook])) for kind in kinds if hook in vars(kind)]
    classes = [_source(kind) for kind in kinds]
    literal = bool(needles) and all(needle[:1] in "\"'" or needle.startswith("self.") for needle in needles)
    for lines, first, file in (*hooks, *classes * literal):  # other needles are too common to search in a whole class
        for needle in needles:
            found = [number for number, line in enumerate(lines) if needle in line]
            if found:
                return location(file, first + found[-1])
    for lines, first, file in (*hooks, *classes):
        if lines:
            return location(file, first)
    return type(algo).__name__


def where_raised(error: BaseException, algo: Algorithm, hook: str) -> str:
    """File and line of the innermost user frame; if it is in another file, also where the objective called it."""
    files = {_source(kind)[2] for kind in _kinds(algo)} - {""}
    frames = user_frames(error, _packages(algo))
    walked = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    in_files = [location(file, line) for file, line in walked if file in files]
    if frames and frames[-1].file not in files:
        return location(frames[-1].file, frames[-1].line) + (f", called at {in_files[-1]}" if in_files else "")
    if in_files:
        return in_files[-1]
    return where_defined(algo, hook, *(CHANGING if isinstance(error, ObjectiveError) else ()))


def where_gradient_failed(error: BaseException, messages: list[str], algo: Algorithm) -> str:
    """File and line where a gradient failed: in a user's backward, or as reported by anomaly detection."""
    if user_frames(error, _packages(algo)):
        return where_raised(error, algo, "loss")
    files = {_source(kind)[2] for kind in _kinds(algo)} - {""}
    frames = [frame for text in messages for frame in re.findall(r'File "(.+?)", line (\d+)', text)]
    users = [(file, int(line)) for file, line in frames if file in files or not is_library(file)]
    users = [frame for frame in users if frame[0] in files] or users
    return location(*users[-1]) if users else where_defined(algo, "loss")


def refusal(algo: Algorithm, hook: str, what: str, *needles: str) -> ObjectiveError:
    """An error in a hook, located by its first needle found."""
    return ObjectiveError(f"{where_defined(algo, hook, *needles)}: {type(algo).__name__}.{hook}: {what}")


@contextlib.contextmanager
def located_errors(algo: Algorithm, hook: str) -> Iterator[None]:
    """While entered, an error of the hook becomes an ObjectiveError: one line with file and line."""
    try:
        yield
    except (BdbQuit, torch.OutOfMemoryError):
        raise
    except UserError as error:
        if not isinstance(error, ObjectiveError) or re.match(r"[^:]+:\d+[:,]", str(error)):
            raise
        raise ObjectiveError(f"{where_raised(error, algo, hook)}: {type(algo).__name__}.{hook}: {error}") from error
    except Exception as error:  # anything that user code raises
        where = where_raised(error, algo, hook)
        raise ObjectiveError(f"{where}: {type(algo).__name__}.{hook}: {describe_error(error)}{hint(error)}") from error


def hint(error: BaseException) -> str:
    """What to do about an error whose own message does not say."""
    return next((f"; {hint}" for said, hint in HINTS.items() if said in str(error)), "")


def is_mistake(error: BaseException) -> bool:
    """Whether an exception does not depend on the values of tensors: a misspelt name, a wrong shape.

    Others may be due to synthetic data or empty memories; the first update reports those.
    """
    line = str(error)
    if "NoneType" in line:
        return False
    if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
        frames = traceback.extract_tb(error.__traceback__)
        by_python = bool(frames) and (frames[-1].line or "").startswith("raise")  # as value checks do
        return not (by_python or isinstance(error, torch.linalg.LinAlgError) or _OF_VALUES.search(line))
    return (
        isinstance(error, AttributeError | TypeError | NameError | NotImplementedError | ImportError)
        or (isinstance(error, IndexError) and bool(_OF_INDICES.search(line)))
        or (isinstance(error, ValueError) and ("values to unpack" in line or line.startswith("weighted_mean: x is")))
    )
