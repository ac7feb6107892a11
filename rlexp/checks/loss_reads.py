"""Refuses changes to non-tensor attributes that a loss reads, once training has started.

A compiled loss is traced once, so that values it read, other than tensors, are constants of the graph. An eager loss
would read them again and compute something else. An attribute that changes is therefore an error that names it. Reads
by other ways, as inside a user's object, show when compiled updates are compared with eager ones (see
`compiling/graphs.py`).
"""

import functools
from collections.abc import Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, TypeVar

import numpy as np

from rlexp.errors import ObjectiveError
from rlexp.plain.attributes import leaves

Object = TypeVar("Object", bound=object)


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
            self.first[name] = _plain(name, value)

    def require_same(self, owner: Any) -> None:
        """Raise ObjectiveError if an attribute that was read has changed."""
        for name, before in self.first.items():
            if not before:
                continue
            now = _plain(name, getattr(owner, name, None))
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
    members = [member for base in kind.__mro__ for member in vars(base).items()]
    # reads inside a property are recorded themselves
    derived = {name for name, member in members if isinstance(member, property | functools.cached_property)}

    def read(self: Any, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if name not in derived and not name.startswith("__") and name != "_reads":
            object.__getattribute__(self, "_reads").note(name, value)
        return value

    return type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})


def _plain(name: str, nested: Any) -> dict[str, Any]:
    """Plain values in a nested value, by path; tensors, methods and other objects have none: not all need be read."""
    found: dict[str, Any] = {}
    for path, value in leaves(nested, name):
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum):
            found[path] = value
        elif isinstance(value, np.generic):
            found[path] = value.item()
        elif isinstance(value, FunctionType | BuiltinFunctionType | ModuleType | type):
            found[path] = id(value)
        elif isinstance(value, np.ndarray):
            found[path] = value.shape, value.dtype.str, value.tobytes()
        elif isinstance(value, set | frozenset):
            found[path] = frozenset(value)
        elif isinstance(value, Mapping | list | tuple):
            found[path] = (id(value), len(value)) if value else f"an empty {type(value).__name__}"
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
