"""Refuses changes to non-tensor attributes that a loss reads, once training has started.

A compiled loss is traced once, so that values it read, other than tensors, are constants of the graph. An eager loss
would read them again and compute something else. An attribute that changes is therefore an error that names it. Reads
by other ways, as inside a user's object, show when compiled updates are compared with eager ones (see
`compiling/graphs.py`).
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
DEPTH = 20  # maximum nesting of containers that are compared by content
MANY = 10_000  # larger containers are compared by identity and length


class Reads:
    """Attributes of an object that were read, with their first values."""

    def __init__(self) -> None:
        self.first: dict[str, dict[str, Any]] = {}  # name -> plain values in it by path

    def watch(self, owner: Object) -> Object:
        """Record attribute reads of an object; returns it."""
        kind: Any = type(owner)
        try:
            owner.__class__ = _watched(kind)
        except TypeError:  # a class with slots, or that refuses subclasses
            return owner
        object.__setattr__(owner, "_reads", self)
        return owner

    def note(self, name: str, value: Any) -> None:
        """Record that a value was read."""
        if name not in self.first:
            self.first[name] = _leaves(name, value)

    def require_same(self, owner: Any) -> None:
        """Refuse an object of which an attribute that was read has changed.

        Raises:
            ObjectiveError: names the attribute, its first and its current value.
        """
        for name, before in self.first.items():
            if not before:
                continue
            now = _leaves(name, getattr(owner, name, None))
            for path in [*before, *(new for new in now if new not in before)]:
                old, new = before.get(path, "nothing"), now.get(path, "nothing")
                if type(old) is not type(new) or (old != new and not (old != old and new != new)):
                    raise ObjectiveError(
                        f"algo.{path}: has changed from {_short(old)} to {_short(new)}, but loss reads {name}, which "
                        f"is fixed once training starts. Declare it `{name}: Scheduled`, or return it from "
                        f"coefficients(), as algos/ppo_kl.py does with its beta"
                    )


@functools.cache
def _watched(kind: Any) -> Any:
    # reads inside a property are recorded themselves
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
    """Plain values in a nested value, by path; tensors and methods have none."""
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
        return {}  # another object: not all of its content need be read
    if depth >= DEPTH or len(items) > MANY:
        return {path: (id(value), len(items))}
    found: dict[str, Any] = {} if items else {path: f"an empty {type(value).__name__}"}
    for name, item in items.items():
        found |= _leaves(name, item, depth + 1)
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
