"""Plain data, as `dump.py` writes it, put into living objects of the same kind."""

import collections
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
    is_of_python,
    path_of,
    require_key,
    slots_of,
)


def _known(root: Any) -> tuple[dict[str, type], dict[str, Any]]:
    """Classes by their paths, of an object, of all that is found in it and of their modules; and other code in it."""
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
        for own in list(vars(sys.modules.get(name, object)).values()):
            if isinstance(own, type) and getattr(own, "__module__", "") == name:
                kinds.setdefault(path_of(own), own)
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
        try:
            yield from attributes_of(x).values()
        except NotPlainError:
            return


class _Reader:
    def __init__(self, data: bytes, live: Any) -> None:
        length = int.from_bytes(data[:HEAD], "little")
        content = json.loads(data[HEAD : HEAD + length])
        self.nodes, self.root = content["nodes"], content["root"]
        self.bytes = data[HEAD + length :]
        self.kinds, self.code = _known(live)
        self.made: dict[int, Any] = {}
        self.claimed: set[int] = set()  # identities of living objects that are somebody's already

    def value(self, told: Any, live: Any = MISSING) -> Any:
        """What a value stands for; live: what is now where it will be."""
        if not isinstance(told, list):
            return told
        (index,) = told
        if index not in self.made:
            made = self._make(index, self.nodes[index], live)
            self.made.setdefault(index, made)
        return self.made[index]

    def blob(self, place: list[int]) -> bytes:
        start, size = place
        if not 0 <= start <= start + size <= len(self.bytes):
            raise NotPlainError("an array lies beyond the end of the data")
        return self.bytes[start : start + size]

    def array(self, dtype: str, shape: list[int], place: list[int]) -> np.ndarray:
        return np.frombuffer(self.blob(place), np.dtype(dtype)).reshape(shape).copy()

    def kind(self, path: str) -> Any:
        if path not in self.kinds:
            raise NotPlainError(f"{path} is no class of these environments")
        return self.kinds[path]

    def _make(self, index: int, node: list[Any], live: Any) -> Any:
        what, *rest = node
        simple: dict[str, Callable[..., Any]] = {
            "enum": lambda path, name: self._enum(path, name),
            "array": self.array,
            "scalar": lambda *told: self.array(*told)[()],
            "tensor": lambda *told: torch.from_numpy(self.array(*told)),
            "dtype": lambda told, _: np.dtype(told),
            "bytes": self.blob,
            "bytearray": lambda place: bytearray(self.blob(place)),
            "complex": complex,
            "slice": lambda parts: slice(*map(self.value, parts)),
            "range": lambda parts: range(*map(self.value, parts)),
            "code": lambda path: self._code(path, live),
            "method": lambda owner, path: self._method(owner, path, live),
            "objects": self._objects,
        }
        if what in simple:
            return simple[what](*rest)
        if what == "container":
            return self._container(index, live, *rest)
        if what == "object":
            return self._object(index, live, *rest)
        return self._random(what, *rest)

    def _enum(self, path: str, name: str) -> Any:
        kind = self.kind(path)
        if not issubclass(kind, enum.Enum):
            raise NotPlainError(f"{path} is no enumeration")
        return kind.__members__[name]

    def _code(self, path: str, live: Any) -> Any:
        for found in (live, self.code.get(path, MISSING)):
            if isinstance(found, CODE) and path_of(found) == path:
                return found
        if isinstance(live, logging.Logger) and path_of(type(live)) == path:
            return live
        raise NotPlainError(f"{path} is no code of these environments")

    def _method(self, owner: Any, path: str, live: Any) -> Any:
        function = live.__func__ if isinstance(live, MethodType) else self.code.get(path)
        if not isinstance(function, FunctionType) or path_of(function) != path:
            raise NotPlainError(f"{path} is no method of these environments")
        return MethodType(function, self.value(owner, getattr(live, "__self__", MISSING)))

    def _objects(self, shape: list[int], items: list[Any]) -> np.ndarray:
        array = np.empty(len(items), object)
        for place, item in enumerate(items):
            array[place] = self.value(item)
        return array.reshape(shape)

    def _container(self, index: int, live: Any, path: str, items: list[Any], more: dict[str, Any]) -> Any:
        kind = self.kind(path)
        base = base_of(kind)
        if base is None:
            raise NotPlainError(f"{path} is no container")
        olds = list(base.__iter__(live)) if type(live) is kind and issubclass(base, list | tuple) else []
        if issubclass(base, tuple | frozenset):  # whose items must be there first
            news = [self._beside(item, olds, k) for k, item in enumerate(items)]
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
            for told, value in items:
                key = self.value(told)
                require_key(key)
                base.__setitem__(made, key, self.value(value, dict.get(before, key, MISSING)))
        elif base is set:
            news = [self.value(item) for item in items]
            require_key(tuple(news))
            set.update(made, news)
        else:
            base.extend(made, [self._beside(item, olds, k) for k, item in enumerate(items)])
        attributes = more.get("attributes", {})
        before = attributes_of(live) if attributes and type(live) is kind else {}
        for name, value in attributes.items():
            made.__dict__[name] = self.value(value, before.get(name, MISSING))
        return made

    def _beside(self, told: Any, olds: list[Any], place: int) -> Any:
        return self.value(told, olds[place] if place < len(olds) else MISSING)

    def _object(self, index: int, live: Any, path: str, attributes: dict[str, Any]) -> Any:
        kind = self.kind(path)
        made = live
        if type(live) is not kind or id(live) in self.claimed:
            if not is_of_python(kind) or base_of(kind) is not None or hasattr(kind, "__del__"):
                raise NotPlainError(f"a {path} cannot be made from its attributes")
            made = object.__new__(kind)
        self.claimed.add(id(made))
        self.made[index] = made
        for name in attributes:
            self._require_attribute(kind, name, made is live and name in attributes_of(made))
        olds, slots = attributes_of(made) if made is live else {}, slots_of(kind)
        news = {name: self.value(value, olds.get(name, MISSING)) for name, value in attributes.items()}
        for name, value in news.items():
            if name.endswith("."):
                slots[name[:-1]].__set__(made, value)
        if kind.__dictoffset__:
            own = {name: value for name, value in news.items() if not name.endswith(".")}
            made.__dict__.clear()
            made.__dict__.update(own)
        return made

    @staticmethod
    def _require_attribute(kind: Any, name: str, is_there: bool) -> None:
        """Refuse attributes that would stand in the way of methods, or be taken for more than values."""
        hidden = getattr(kind, name.rstrip("."), None)
        covers = callable(hidden) or isinstance(hidden, property)
        if (name.startswith("__") and name.endswith("__")) or (covers and not is_there):
            raise NotPlainError(f"{path_of(kind)}.{name} is no value of its own")

    def _random(self, what: str, *told: Any) -> Any:
        if what == "generator":
            return np.random.Generator(self.value(told[0]))
        if what == "bit generator":
            name, state, seeds = told
            sequence = self.value(seeds)
            made = BIT_GENERATORS[name](sequence if isinstance(sequence, np.random.SeedSequence) else 0)
            made.state = _within(self.value(state))
            return made
        if what == "seed sequence":
            entropy, spawn_key, pool_size, spawned = map(self.value, told[0])
            return np.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=spawned)
        if what == "random state":
            stream = np.random.RandomState()
            stream.set_state(_within(self.value(told[0])))
            return stream
        if what == "random":
            own = random.Random()
            own.setstate(self.value(told[0]))
            return own
        if what == "torch generator":
            generator = torch.Generator()
            generator.set_state(torch.from_numpy(self.array(*told[0])))
            return generator
        raise NotPlainError(f"{what} is nothing that is written here")


def _within(state: Any) -> Any:
    """The state of a random stream, if its place is one that there is: NumPy looks there unasked."""
    place = state["state"].get("pos", 0) if isinstance(state["state"], dict) else 0
    if not isinstance(place, int) or not 0 <= place <= 624 or not 0 <= state.get("buffer_pos", 0) <= 4:
        raise NotPlainError("a random stream stands where there is nothing")
    return state


def load(data: bytes, live: Any) -> Any:
    """What `dump` wrote of other objects, put into these of the same kind, in place; returns it.

    Args:
        data: what `dump` gave.
        live: objects whose classes are the only ones that are made, and whose code stays.

    Raises:
        NotPlainError: it does not fit.
        Exception: whatever comes of reading bytes that `dump` did not write.
    """
    reader = _Reader(data, live)
    return reader.value(reader.root, live)
