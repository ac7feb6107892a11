"""The state of Python objects: attributes, slots and container items."""

import collections
import contextlib
import enum
import functools
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np

MANY = 10_000  # items in a container that `leaves` opens
HEAD = 8  # bytes of the table's length
# built-in containers, subclasses first; Python classes derived from them are stored as containers, too
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
CODE = (FunctionType, BuiltinFunctionType, ModuleType, type, np.ufunc)  # stored by path; never created from data
PLAIN_KEYS = (str, bytes, int, float, complex, enum.Enum, np.generic, *CODE)
NO_SOURCES = ("builtins", "collections", "numpy", "torch", "enum", "random")  # modules not searched for classes
MISSING = object()
HEAP_TYPE = 1 << 9  # flag of types created at run time, such as Python classes


class NotPlainError(TypeError):
    """An object that cannot be stored as plain data, or data that does not fit the objects it is loaded into."""


def path_of(code: Any) -> str:
    """Qualified name of a class, function or module."""
    if isinstance(code, ModuleType):
        return code.__name__
    return f"{getattr(code, '__module__', '')}:{getattr(code, '__qualname__', code.__name__)}"


def base_of(kind: type) -> Any:
    """The built-in container that a class is or derives from; None: not a container."""
    return next((base for base in BASES if issubclass(kind, base)), None)


def slots_of(kind: type) -> dict[str, Any]:
    """Members defined by `__slots__` of a class and its bases."""
    bases = [base for base in kind.__mro__ if "__slots__" in vars(base)]  # not members of C classes
    return {name: slot for base in bases for name, slot in vars(base).items() if isinstance(slot, MemberDescriptorType)}


@functools.cache
def is_pure_python(kind: Any) -> bool:
    """Whether a class and all its bases are written in Python, so that its state is in attributes alone."""

    def in_extension(base: type) -> bool:
        file = getattr(sys.modules.get(getattr(base, "__module__", "")), "__file__", None) or ""
        return file.endswith(tuple(EXTENSION_SUFFIXES))

    bases = [base for base in kind.__mro__ if base is not object and base not in BASES]
    metaclasses = {type(base) for base in bases} - {type}
    if not all(base.__flags__ & HEAP_TYPE and not in_extension(base) for base in (*bases, *metaclasses)):
        return False
    extra_size = 8 * (len(slots_of(kind)) + 2)  # slots, __dict__ and weak references
    container: Any = base_of(kind) or object
    root: Any = type
    return kind.__basicsize__ <= container.__basicsize__ + extra_size and all(
        issubclass(meta, type) and meta.__basicsize__ <= root.__basicsize__ + 16 for meta in metaclasses
    )


def attributes_of(x: Any) -> dict[str, Any]:
    """Instance attributes; names of slots get a trailing dot. NotPlainError if part of the state is elsewhere."""
    kind: Any = type(x)
    slots = slots_of(kind)
    if not is_pure_python(kind) or not (kind.__dictoffset__ or slots):
        raise NotPlainError(f"a {path_of(kind)} has state that cannot be read")
    found = dict(object.__getattribute__(x, "__dict__")) if kind.__dictoffset__ else {}
    for name, slot in slots.items():
        with contextlib.suppress(AttributeError):  # not set
            found[f"{name}."] = slot.__get__(x, kind)
    return found


def leaves(value: Any, path: str = "", kinds: Any = (list, tuple), depth: int = 20) -> Iterator[Any]:
    """What nested containers hold, as (expression, value); containers that are empty, huge or deep are not opened."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, kinds):
        items = list(enumerate(value))
    if not items or len(items) > MANY or not depth:
        yield path, value
        return
    for key, item in items:
        yield from leaves(item, f"{path}[{key!r}]", kinds, depth - 1)


def require_key(x: Any) -> None:
    """Reject dictionary keys and set items with a custom `__hash__`."""
    if x is None or isinstance(x, PLAIN_KEYS) or type(x).__hash__ is object.__hash__:
        return
    if type(x).__hash__ not in (tuple.__hash__, frozenset.__hash__):
        raise NotPlainError(f"a key of {path_of(type(x))}, which has a custom __hash__")
    for item in x:
        require_key(item)
