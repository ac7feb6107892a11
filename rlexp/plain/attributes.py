"""What Python objects keep: attributes, slots, and what containers of C hold."""

import collections
import contextlib
import enum
import functools
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np

HEAD = 8  # bytes that hold the length of the table
# C's own containers, those that derive from others first; what Python classes derive from them is told as they are
BASES: tuple[Any, ...] = (
    collections.OrderedDict,
    collections.defaultdict,
    collections.deque,
    dict,
    list,
    tuple,
    set,
    frozenset,
)
BIT_GENERATORS = {name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")}
CODE = (FunctionType, BuiltinFunctionType, ModuleType, type, np.ufunc)  # stays as it is: never read from data
PLAIN_KEYS = (str, bytes, int, float, complex, enum.Enum, np.generic, *CODE)
NO_SOURCES = ("builtins", "collections", "numpy", "torch", "enum", "random")  # of classes that are not in use already
MISSING = object()
HEAP_TYPE = 1 << 9  # flag of types that are made at run time, as classes of Python are


class NotPlainError(TypeError):
    """Something that cannot be told as plain data, or data that does not fit the objects it is read into."""


def path_of(code: Any) -> str:
    """What a class, a function or a module is known by."""
    if isinstance(code, ModuleType):
        return code.__name__
    return f"{getattr(code, '__module__', '')}:{getattr(code, '__qualname__', code.__name__)}"


def base_of(kind: type) -> Any:
    """The container of C's that a class is or derives from; None: it is no container."""
    return next((base for base in BASES if issubclass(kind, base)), None)


def slots_of(kind: type) -> dict[str, Any]:
    """Members that `__slots__` of a class and of its bases define."""
    own = [base for base in kind.__mro__ if "__slots__" in vars(base)]  # members of C's classes are none
    return {name: slot for base in own for name, slot in vars(base).items() if isinstance(slot, MemberDescriptorType)}


@functools.cache
def is_of_python(kind: Any) -> bool:
    """Whether all that a class derives from is written in Python, and so keeps its state in attributes alone."""

    def by_extension(own: type) -> bool:
        file = getattr(sys.modules.get(getattr(own, "__module__", "")), "__file__", None) or ""
        return file.endswith(tuple(EXTENSION_SUFFIXES))

    mine = [own for own in kind.__mro__ if own is not object and own not in BASES]
    makers = {type(own) for own in mine} - {type}
    if not all(own.__flags__ & HEAP_TYPE and not by_extension(own) for own in (*mine, *makers)):
        return False
    own_size = 8 * (len(slots_of(kind)) + 2)  # slots, attributes and weak references
    own_base: Any = base_of(kind) or object
    maker_base: Any = type
    return kind.__basicsize__ <= own_base.__basicsize__ + own_size and all(
        issubclass(maker, type) and maker.__basicsize__ <= maker_base.__basicsize__ + 16 for maker in makers
    )


def attributes_of(x: Any) -> dict[str, Any]:
    """Attributes of an object's own; those in slots have a dot behind their names, as no others have.

    Raises:
        NotPlainError: part of its state is somewhere else.
    """
    kind: Any = type(x)
    slots = slots_of(kind)
    if not is_of_python(kind) or not (kind.__dictoffset__ or slots):
        raise NotPlainError(f"a {path_of(kind)} keeps its state where it cannot be read")
    found = dict(object.__getattribute__(x, "__dict__")) if kind.__dictoffset__ else {}
    for name, slot in slots.items():
        with contextlib.suppress(AttributeError):  # not set
            found[f"{name}."] = slot.__get__(x, kind)
    return found


def require_key(x: Any) -> None:
    """Refuse a key of dictionaries and sets that hashes by code of its class."""
    if x is None or isinstance(x, PLAIN_KEYS) or type(x).__hash__ is object.__hash__:
        return
    if type(x).__hash__ not in (tuple.__hash__, frozenset.__hash__):
        raise NotPlainError(f"a key of {path_of(type(x))}, which hashes in a way of its own")
    for item in x:
        require_key(item)
