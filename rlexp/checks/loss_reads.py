"""What a loss reads of its algorithm besides tensors: fixed once training has started.

A compiled loss is traced once, so that whatever it read then, and is no tensor, stays in the graph for good. Eagerly it
would be read anew, and the same objective would be another one. Neither is left to chance: an attribute that changes is
refused by name. What a loss reads in other ways, as within an object of its own, shows where compiled updates are held
against eager ones (see `agent_group.py`).
"""

import functools
from collections.abc import Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from rlexp.errors import ObjectiveError

Object = TypeVar("Object", bound=object)
DEPTH = 20  # of containers within containers that are looked into
MANY = 10_000  # entries of a container from which on it is looked at as a whole


class Reads:
    """Values that were read by name of one object, as they were when they were first read."""

    def __init__(self) -> None:
        self.first: dict[str, dict[str, Any]] = {}  # name -> the plain values in it, by their path

    def watch(self, owner: Object) -> Object:
        """The same object, whose attributes are noted when they are read."""
        kind: Any = type(owner)
        try:
            owner.__class__ = _watched(kind)
        except TypeError:  # a class with slots, or one that minds being derived from
            return owner
        object.__setattr__(owner, "_reads", self)
        return owner

    def note(self, name: str, value: Any) -> None:
        """Note that a value was read."""
        if name not in self.first:
            self.first[name] = _leaves(name, value)

    def require_same(self, owner: Any) -> None:
        """Refuse an object that has changed in what was read of it.

        Raises:
            ObjectiveError: naming the attribute, what it was and what it is.
        """
        for name, before in self.first.items():
            if not before:
                continue
            now = _leaves(name, getattr(owner, name, None))
            for path in [*before, *(new for new in now if new not in before)]:
                old, new = before.get(path, "nothing"), now.get(path, "nothing")
                if type(old) is not type(new) or (old != new and not (old != old and new != new)):
                    raise ObjectiveError(
                        f"algo.{path}: has changed from {_told(old)} to {_told(new)}, but loss reads {name}, and what "
                        f"it reads is fixed once training starts. Declare it `{name}: Scheduled`, or return it from "
                        f"coefficients(), as algos/ppo_kl.py does with its beta"
                    )


@functools.cache
def _watched(kind: Any) -> Any:
    # what a property reads is noted by itself
    derived = {
        name
        for base in kind.__mro__
        for name, own in vars(base).items()
        if isinstance(own, property | functools.cached_property)
    }

    def read(self: Any, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if name not in derived and not name.startswith("__") and name != "_reads":
            object.__getattribute__(self, "_reads").note(name, value)
        return value

    return type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})


def _leaves(path: str, value: Any, depth: int = 0) -> dict[str, Any]:
    """The plain values in a value, by their path; tensors and code have none."""
    if isinstance(value, Tensor | MethodType | FunctionType | BuiltinFunctionType | ModuleType | type):
        return {} if isinstance(value, Tensor | MethodType) else {path: id(value)}
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum | np.generic):
        return {path: value.item() if isinstance(value, np.generic) else value}
    if isinstance(value, np.ndarray):
        return {path: (value.shape, value.dtype.str, value.tobytes())}
    items: dict[str, Any]
    if isinstance(value, Mapping):
        items = {f"{path}[{key!r}]": item for key, item in value.items()}
    elif isinstance(value, list | tuple):
        items = {f"{path}[{index}]": item for index, item in enumerate(value)}
    elif isinstance(value, set | frozenset):
        return {path: frozenset(value)}
    else:
        return {}  # an object: of what it holds not everything need be read
    if depth >= DEPTH or len(items) > MANY:
        return {path: (id(value), len(items))}
    found: dict[str, Any] = {} if items else {path: f"an empty {type(value).__name__}"}
    for name, item in items.items():
        found |= _leaves(name, item, depth + 1)
    return found


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
