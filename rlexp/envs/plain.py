"""The state of Python objects as plain data, and back into objects of the same kind.

A pickle says which code to call when it is read. What is written here says only which values were found where: reading
it calls nothing, and makes no object of a class that the objects it is read into, or the modules of their classes, do
not hold already. What cannot be told so (files, sockets, the state of C libraries) is refused when it is written.

The format: a table of nodes as JSON, then the bytes of all arrays. A value is null, a boolean, a number, a text, or
`[n]`, node n of the table; one object that is found in two places is one node.
"""

import collections
import contextlib
import enum
import functools
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

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


def _path(code: Any) -> str:
    """What a class, a function or a module is known by."""
    if isinstance(code, ModuleType):
        return code.__name__
    return f"{getattr(code, '__module__', '')}:{getattr(code, '__qualname__', code.__name__)}"


def _base(kind: type) -> Any:
    """The container of C's that a class is or derives from; None: it is no container."""
    return next((base for base in BASES if issubclass(kind, base)), None)


def _slots(kind: type) -> dict[str, Any]:
    own = [base for base in kind.__mro__ if "__slots__" in vars(base)]  # members of C's classes are none
    return {name: slot for base in own for name, slot in vars(base).items() if isinstance(slot, MemberDescriptorType)}


@functools.cache
def _is_of_python(kind: Any) -> bool:
    """Whether all that a class derives from is written in Python, and so keeps its state in attributes alone."""

    def by_extension(own: type) -> bool:
        file = getattr(sys.modules.get(getattr(own, "__module__", "")), "__file__", None) or ""
        return file.endswith(tuple(EXTENSION_SUFFIXES))

    mine = [own for own in kind.__mro__ if own is not object and own not in BASES]
    makers = {type(own) for own in mine} - {type}
    if not all(own.__flags__ & HEAP_TYPE and not by_extension(own) for own in (*mine, *makers)):
        return False
    own_size = 8 * (len(_slots(kind)) + 2)  # slots, attributes and weak references
    own_base: Any = _base(kind) or object
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
    slots = _slots(kind)
    if not _is_of_python(kind) or not (kind.__dictoffset__ or slots):
        raise NotPlainError(f"a {_path(kind)} keeps its state where it cannot be read")
    found = dict(object.__getattribute__(x, "__dict__")) if kind.__dictoffset__ else {}
    for name, slot in slots.items():
        with contextlib.suppress(AttributeError):  # not set
            found[f"{name}."] = slot.__get__(x, kind)
    return found


def _require_key(x: Any) -> None:
    """Refuse a key of dictionaries and sets that hashes by code of its class."""
    if x is None or isinstance(x, PLAIN_KEYS) or type(x).__hash__ is object.__hash__:
        return
    if type(x).__hash__ not in (tuple.__hash__, frozenset.__hash__):
        raise NotPlainError(f"a key of {_path(type(x))}, which hashes in a way of its own")
    for item in x:
        _require_key(item)


# Writing -------------------------------------------------------------------------------------------------------------


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.places: dict[int, int] = {}  # identity -> node
        self.held: list[Any] = []  # an identity lasts as long as its owner
        self.blobs: list[bytes] = []
        self.size = 0

    def value(self, x: Any) -> Any:
        if x is None or type(x) in (bool, int, float, str):
            return x
        if id(x) not in self.places:
            self.places[id(x)] = len(self.nodes)
            self.held.append(x)
            self.nodes.append(None)
            self.nodes[self.places[id(x)]] = self._node(x)
        return [self.places[id(x)]]

    def blob(self, data: bytes) -> list[int]:
        place = [self.size, len(data)]
        self.blobs.append(data)
        self.size += len(data)
        return place

    def array(self, x: np.ndarray) -> list[Any]:
        if x.dtype.kind not in "biufcSUMm":
            raise NotPlainError(f"an array of {x.dtype}")
        return [x.dtype.str, list(x.shape), self.blob(x.tobytes())]

    def _node(self, x: Any) -> list[Any]:
        kind = type(x)
        if isinstance(x, enum.Enum):
            return ["enum", _path(kind), x.name]
        if kind is np.ndarray:
            if x.dtype == object:
                return ["objects", list(x.shape), [self.value(item) for item in x.reshape(-1)]]
            return ["array", *self.array(x)]
        if isinstance(x, np.generic):
            return ["scalar", *self.array(np.asarray(x))]
        if kind is torch.Tensor and not x.requires_grad:
            return ["tensor", *self.array(x.detach().cpu().numpy())]
        if isinstance(x, np.dtype):
            return ["dtype", x.str, self.array(np.zeros(0, x))]  # refused where it has fields
        if kind in (bytes, bytearray):
            return [kind.__name__, self.blob(bytes(x))]
        if kind is complex:
            return ["complex", x.real, x.imag]
        if kind in (slice, range):
            return [kind.__name__, [self.value(part) for part in (x.start, x.stop, x.step)]]
        if isinstance(x, BASES):
            return self._container(x, kind)
        return self._random(x) or self._object(x, kind)

    def _container(self, x: Any, kind: Any) -> list[Any]:
        base = _base(kind)
        more: dict[str, Any] = {}
        if kind is not base:
            if not _is_of_python(kind) or _slots(kind):
                raise NotPlainError(f"a {_path(kind)} keeps more than its items")
            if kind.__dictoffset__:
                more["attributes"] = {name: self.value(value) for name, value in attributes_of(x).items()}
        if issubclass(base, dict):
            items: list[Any] = [[self._key(key), self.value(value)] for key, value in base.items(x)]
        else:
            keep = self._key if issubclass(base, set | frozenset) else self.value
            items = [keep(item) for item in base.__iter__(x)]
        if base is collections.deque:
            more["maxlen"] = x.maxlen
        if base is collections.defaultdict:
            more["factory"] = self.value(x.default_factory)
        return ["container", _path(kind), items, more]

    def _key(self, x: Any) -> Any:
        _require_key(x)
        return self.value(x)

    def _random(self, x: Any) -> list[Any] | None:
        """Random streams, whose state is their own affair to tell."""
        if type(x) is np.random.Generator:
            return ["generator", self.value(x.bit_generator)]
        if type(x).__name__ in BIT_GENERATORS and isinstance(x, np.random.BitGenerator):
            return ["bit generator", type(x).__name__, self.value(x.state), self.value(x.seed_seq)]
        if type(x) is np.random.SeedSequence:
            told = (x.entropy, x.spawn_key, x.pool_size, x.n_children_spawned)
            return ["seed sequence", [self.value(part) for part in told]]
        if type(x) is np.random.RandomState:
            return ["random state", self.value(x.get_state(legacy=False))]
        if type(x) is random.Random:
            return ["random", self.value(x.getstate())]
        if type(x) is torch.Generator:
            return ["torch generator", self.array(x.get_state().numpy())]
        return None

    def _object(self, x: Any, kind: Any) -> list[Any]:
        if isinstance(x, CODE):
            if getattr(x, "__closure__", None):
                raise NotPlainError(f"the function {_path(x)} holds variables of its own")
            return ["code", _path(x)]
        if isinstance(x, logging.Logger):
            return ["code", _path(kind)]
        if isinstance(x, MethodType):
            return ["method", self.value(x.__self__), _path(x.__func__)]
        return ["object", _path(kind), {name: self.value(value) for name, value in attributes_of(x).items()}]


def dump(x: Any) -> bytes:
    """Everything that is found in nested containers and objects, as plain data.

    Raises:
        NotPlainError: something in it cannot be told so.
        RecursionError: it is nested too deeply.
    """
    writer = _Writer()
    root = writer.value(x)
    table = json.dumps({"root": root, "nodes": writer.nodes}).encode()
    return b"".join([len(table).to_bytes(HEAD, "little"), table, *writer.blobs])


# Reading -------------------------------------------------------------------------------------------------------------


def _known(root: Any) -> tuple[dict[str, type], dict[str, Any]]:
    """Classes by their paths, of an object, of all that is found in it and of their modules; and other code in it."""
    kinds: dict[str, type] = {_path(kind): kind for kind in (*BASES, collections.Counter)}
    code: dict[str, Any] = {}
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        x = waiting.pop()
        if id(x) in seen or x is None or isinstance(x, str | bytes | int | float):
            continue
        seen[id(x)] = x
        if isinstance(x, CODE):
            code[_path(x)] = x
            continue
        kinds[_path(type(x))] = type(x)
        waiting += _inside(x)
    for name in {kind.__module__ for kind in kinds.values() if kind.__module__.partition(".")[0] not in NO_SOURCES}:
        for own in list(vars(sys.modules.get(name, object)).values()):
            if isinstance(own, type) and getattr(own, "__module__", "") == name:
                kinds.setdefault(_path(own), own)
    return kinds, code


def _inside(x: Any) -> Iterator[Any]:
    if isinstance(x, dict):
        yield from [*dict.keys(x), *dict.values(x), getattr(x, "default_factory", None)]
    elif isinstance(x, BASES):
        yield from _base(type(x)).__iter__(x)
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
            if isinstance(found, CODE) and _path(found) == path:
                return found
        if isinstance(live, logging.Logger) and _path(type(live)) == path:
            return live
        raise NotPlainError(f"{path} is no code of these environments")

    def _method(self, owner: Any, path: str, live: Any) -> Any:
        function = live.__func__ if isinstance(live, MethodType) else self.code.get(path)
        if not isinstance(function, FunctionType) or _path(function) != path:
            raise NotPlainError(f"{path} is no method of these environments")
        return MethodType(function, self.value(owner, getattr(live, "__self__", MISSING)))

    def _objects(self, shape: list[int], items: list[Any]) -> np.ndarray:
        array = np.empty(len(items), object)
        for place, item in enumerate(items):
            array[place] = self.value(item)
        return array.reshape(shape)

    def _container(self, index: int, live: Any, path: str, items: list[Any], more: dict[str, Any]) -> Any:
        kind = self.kind(path)
        base = _base(kind)
        if base is None:
            raise NotPlainError(f"{path} is no container")
        olds = list(base.__iter__(live)) if type(live) is kind and issubclass(base, list | tuple) else []
        if issubclass(base, tuple | frozenset):  # whose items must be there first
            news = [self._beside(item, olds, k) for k, item in enumerate(items)]
            if base is frozenset:
                _require_key(tuple(news))
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
                _require_key(key)
                base.__setitem__(made, key, self.value(value, dict.get(before, key, MISSING)))
        elif base is set:
            news = [self.value(item) for item in items]
            _require_key(tuple(news))
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
            if not _is_of_python(kind) or _base(kind) is not None or hasattr(kind, "__del__"):
                raise NotPlainError(f"a {path} cannot be made from its attributes")
            made = object.__new__(kind)
        self.claimed.add(id(made))
        self.made[index] = made
        for name in attributes:
            self._require_attribute(kind, name, made is live and name in attributes_of(made))
        olds, slots = attributes_of(made) if made is live else {}, _slots(kind)
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
            raise NotPlainError(f"{_path(kind)}.{name} is no value of its own")

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
