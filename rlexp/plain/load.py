"""Loads plain data, written by `dump.py`, into existing objects of the same classes."""

import collections
import contextlib
import enum
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from rlexp.plain.attributes import (
    BASES,
    BIT_GENERATORS,
    CODE,
    HEAD,
    MISSING,
    NO_SOURCES,
    NotPlainError,
    attributes_of,
    base_of,
    is_pure_python,
    path_of,
    require_key,
    slots_of,
)


def _known(root: Any) -> tuple[dict[str, type], dict[str, Any]]:
    """Classes by path: of an object, of everything inside it, and of their modules; and other code inside it."""
    kinds: dict[str, type] = {path_of(kind): kind for kind in (*BASES, collections.Counter)}
    code: dict[str, Any] = {}
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        x = waiting.pop()
        if id(x) in seen or x is None or isinstance(x, str | bytes | int | float):
            continue
        seen[id(x)] = x
        if isinstance(x, CODE):
            code[path_of(x)] = x
            continue
        kinds[path_of(type(x))] = type(x)
        waiting += _inside(x)
    for name in {kind.__module__ for kind in kinds.values() if kind.__module__.partition(".")[0] not in NO_SOURCES}:
        for member in list(vars(sys.modules.get(name, object)).values()):
            if isinstance(member, type) and getattr(member, "__module__", "") == name:
                kinds.setdefault(path_of(member), member)
    return kinds, code


def _inside(x: Any) -> Iterator[Any]:
    if isinstance(x, dict):
        yield from [*dict.keys(x), *dict.values(x), getattr(x, "default_factory", None)]
    elif isinstance(x, BASES):
        yield from base_of(type(x)).__iter__(x)
    elif isinstance(x, np.ndarray) and x.dtype == object:
        yield from x.reshape(-1)
    if isinstance(x, MethodType):
        yield from (x.__self__, x.__func__)
    elif not isinstance(x, np.ndarray | np.generic | torch.Tensor):
        with contextlib.suppress(NotPlainError):
            yield from attributes_of(x).values()


class _Reader:
    def __init__(self, data: bytes, live: Any) -> None:
        length = int.from_bytes(data[:HEAD], "little")
        content = json.loads(data[HEAD : HEAD + length])
        self.nodes, self.root = content["nodes"], content["root"]
        self.bytes = data[HEAD + length :]
        self.kinds, self.code = _known(live)
        self.made: dict[int, Any] = {}
        self.claimed: set[int] = set()  # ids of live objects that are in use already

    def value(self, data: Any, live: Any = MISSING) -> Any:
        """The object behind a value; live: the object that it replaces, reused if possible."""
        if not isinstance(data, list):
            return data
        (index,) = data
        if index not in self.made:
            made = self._make(index, self.nodes[index], live)
            self.made.setdefault(index, made)
        return self.made[index]

    def blob(self, span: list[int]) -> bytes:
        start, size = span
        if not 0 <= start <= start + size <= len(self.bytes):
            raise NotPlainError("an array exceeds the end of the data")
        return self.bytes[start : start + size]

    def array(self, dtype: str, shape: list[int], span: list[int]) -> np.ndarray:
        return np.frombuffer(self.blob(span), np.dtype(dtype)).reshape(shape).copy()

    def kind(self, path: str) -> Any:
        if path not in self.kinds:
            raise NotPlainError(f"{path} is not a class of these environments")
        return self.kinds[path]

    def _make(self, index: int, node: list[Any], live: Any) -> Any:
        what, *rest = node
        kinds: dict[str, Callable[..., Any]] = {
            "enum": self._enum,
            "array": self.array,
            "scalar": lambda *array: self.array(*array)[()],
            "tensor": self._tensor,
            "dtype": lambda dtype, _: np.dtype(dtype),
            "bytes": self.blob,
            "bytearray": lambda span: bytearray(self.blob(span)),
            "complex": complex,
            "slice": lambda parts: slice(*map(self.value, parts)),
            "range": lambda parts: range(*map(self.value, parts)),
            "code": lambda path: self._code(path, live),
            "method": lambda owner, path: self._method(owner, path, live),
            "objects": self._objects,
            "container": lambda *parts: self._container(index, live, *parts),
            "object": lambda *parts: self._object(index, live, *parts),
            "generator": lambda bits: np.random.Generator(self.value(bits)),
            "bit generator": self._bit_generator,
            "seed sequence": self._seed_sequence,
            "random state": lambda state: _set(np.random.RandomState(), "set_state", _valid_state(self.value(state))),
            "random": lambda state: _set(random.Random(), "setstate", self.value(state)),
            "torch generator": lambda array: _set(torch.Generator(), "set_state", self._tensor(*array)),
        }
        if what not in kinds:
            raise NotPlainError(f"{what} is not a kind of node")
        return kinds[what](*rest)

    def _tensor(self, *array: Any) -> torch.Tensor:
        return torch.from_numpy(self.array(*array))

    def _bit_generator(self, name: str, state: Any, seeds: Any) -> np.random.BitGenerator:
        sequence = self.value(seeds)
        made = BIT_GENERATORS[name](sequence if isinstance(sequence, np.random.SeedSequence) else 0)
        made.state = _valid_state(self.value(state))
        return made

    def _seed_sequence(self, parts: list[Any]) -> np.random.SeedSequence:
        entropy, spawn_key, pool_size, spawned = map(self.value, parts)
        return np.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=spawned)

    def _enum(self, path: str, name: str) -> Any:
        kind = self.kind(path)
        if not issubclass(kind, enum.Enum):
            raise NotPlainError(f"{path} is not an enumeration")
        return kind.__members__[name]

    def _code(self, path: str, live: Any) -> Any:
        for found in (live, self.code.get(path, MISSING)):
            if isinstance(found, CODE) and path_of(found) == path:
                return found
        if isinstance(live, logging.Logger) and path_of(type(live)) == path:
            return live
        raise NotPlainError(f"{path} is not code of these environments")

    def _method(self, owner: Any, path: str, live: Any) -> Any:
        function = live.__func__ if isinstance(live, MethodType) else self.code.get(path)
        if not isinstance(function, FunctionType) or path_of(function) != path:
            raise NotPlainError(f"{path} is not a method of these environments")
        return MethodType(function, self.value(owner, getattr(live, "__self__", MISSING)))

    def _objects(self, shape: list[int], items: list[Any]) -> np.ndarray:
        array = np.empty(len(items), object)
        for k, item in enumerate(items):
            array[k] = self.value(item)
        return array.reshape(shape)

    def _container(self, index: int, live: Any, path: str, items: list[Any], more: dict[str, Any]) -> Any:
        kind = self.kind(path)
        base = base_of(kind)
        if base is None:
            raise NotPlainError(f"{path} is not a container")
        olds = list(base.__iter__(live)) if type(live) is kind and issubclass(base, list | tuple) else []
        if issubclass(base, tuple | frozenset):  # immutable: items first
            news = [self._item(item, olds, k) for k, item in enumerate(items)]
            if base is frozenset:
                require_key(tuple(news))
            return base.__new__(kind, news)
        made = self.made[index] = base.__new__(kind)
        if base is collections.deque:
            base.__init__(made, maxlen=more["maxlen"])
        if base is collections.defaultdict:
            made.default_factory = self.value(more["factory"], getattr(live, "default_factory", MISSING))
        if issubclass(base, dict):
            before = live if isinstance(live, dict) else {}
            for key_data, value in items:
                key = self.value(key_data)
                require_key(key)
                base.__setitem__(made, key, self.value(value, dict.get(before, key, MISSING)))
        elif base is set:
            news = [self.value(item) for item in items]
            require_key(tuple(news))
            set.update(made, news)
        else:
            base.extend(made, [self._item(item, olds, k) for k, item in enumerate(items)])
        attributes = more.get("attributes", {})
        before = attributes_of(live) if attributes and type(live) is kind else {}
        for name, value in attributes.items():
            made.__dict__[name] = self.value(value, before.get(name, MISSING))
        return made

    def _item(self, data: Any, olds: list[Any], k: int) -> Any:
        return self.value(data, olds[k] if k < len(olds) else MISSING)

    def _object(self, index: int, live: Any, path: str, attributes: dict[str, Any]) -> Any:
        kind = self.kind(path)
        made = live
        if type(live) is not kind or id(live) in self.claimed:
            if not is_pure_python(kind) or base_of(kind) is not None or hasattr(kind, "__del__"):
                raise NotPlainError(f"a {path} cannot be created from its attributes")
            made = object.__new__(kind)
        self.claimed.add(id(made))
        self.made[index] = made
        olds, slots = attributes_of(made) if made is live else {}, slots_of(kind)
        for name in attributes:  # none that has a special meaning, or would shadow a method or property
            hidden = getattr(kind, name.rstrip("."), None)
            covers = callable(hidden) or isinstance(hidden, property)
            if (name.startswith("__") and name.endswith("__")) or (covers and name not in olds):
                raise NotPlainError(f"{path_of(kind)}.{name} is not a plain attribute")
        news = {name: self.value(value, olds.get(name, MISSING)) for name, value in attributes.items()}
        for name, value in news.items():
            if name.endswith("."):
                slots[name[:-1]].__set__(made, value)
        if kind.__dictoffset__:
            in_dict = {name: value for name, value in news.items() if not name.endswith(".")}
            made.__dict__.clear()
            made.__dict__.update(in_dict)
        return made


def _set(stream: Any, setter: str, state: Any) -> Any:
    getattr(stream, setter)(state)
    return stream


def _valid_state(state: Any) -> Any:
    """The state of a NumPy generator, if its position is in range, which NumPy does not check."""
    position = state["state"].get("pos", 0) if isinstance(state["state"], dict) else 0
    if not isinstance(position, int) or not 0 <= position <= 624 or not 0 <= state.get("buffer_pos", 0) <= 4:
        raise NotPlainError("the position of a random generator is out of range")
    return state


def load(data: bytes, live: Any) -> Any:
    """Restore the result of `dump` into existing objects, in place; returns them.

    live: objects of the same classes; only their classes are instantiated, and code is taken from them.

    Raises:
        NotPlainError: the data does not fit.
        Exception: anything, if `dump` did not write the data.
    """
    reader = _Reader(data, live)
    return reader.value(reader.root, live)
