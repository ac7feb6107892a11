"""Serialises the state of Python objects as plain data; `load.py` restores it into objects of the same classes.

A pickle names code to call when it is loaded. This format contains values only: loading it calls nothing, and creates
only objects of classes that are already used by the target objects, or defined in the modules of those classes. State
that cannot be stored this way (files, sockets, the state of C libraries) is an error when dumping.

The format: a table of nodes as JSON, then the bytes of all arrays. A value is null, a boolean, a number, a string, or
`[n]`, node n of the table; an object referenced twice is one node.
"""

import collections
import enum
import json
import logging
import random
from types import MethodType
from typing import Any

import numpy as np
import torch

from rlexp.plain.attributes import (
    BASES,
    BIT_GENERATORS,
    CODE,
    HEAD,
    NotPlainError,
    attributes_of,
    base_of,
    is_pure_python,
    path_of,
    require_key,
    slots_of,
)


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.indices: dict[int, int] = {}  # id -> node
        self.held: list[Any] = []  # keeps objects alive, and so their ids unique
        self.blobs: list[bytes] = []
        self.size = 0

    def value(self, x: Any) -> Any:
        if x is None or type(x) in (bool, int, float, str):
            return x
        if id(x) not in self.indices:
            self.indices[id(x)] = len(self.nodes)
            self.held.append(x)
            self.nodes.append(None)
            self.nodes[self.indices[id(x)]] = self._node(x)
        return [self.indices[id(x)]]

    def blob(self, data: bytes) -> list[int]:
        span = [self.size, len(data)]
        self.blobs.append(data)
        self.size += len(data)
        return span

    def array(self, x: np.ndarray) -> list[Any]:
        if x.dtype.kind not in "biufcSUMm":
            raise NotPlainError(f"an array of dtype {x.dtype}")
        return [x.dtype.str, list(x.shape), self.blob(x.tobytes())]

    def _node(self, x: Any) -> list[Any]:
        kind = type(x)
        if isinstance(x, enum.Enum):
            if x.name not in kind.__members__:
                raise NotPlainError(f"{x!r}, a combination of flags")
            return ["enum", path_of(kind), x.name]
        if kind is np.ndarray:
            if x.dtype == object:
                return ["objects", list(x.shape), [self.value(item) for item in x.reshape(-1)]]
            return ["array", *self.array(x)]
        if isinstance(x, np.generic):
            return ["scalar", *self.array(np.asarray(x))]
        if kind is torch.Tensor and not x.requires_grad:
            return ["tensor", *self.array(x.detach().cpu().numpy())]
        if isinstance(x, np.dtype):
            return ["dtype", x.str, self.array(np.zeros(0, x))]  # an error if it has fields
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
        base = base_of(kind)
        more: dict[str, Any] = {}
        if kind is not base:
            if not is_pure_python(kind) or slots_of(kind):
                raise NotPlainError(f"a {path_of(kind)} has state besides its items")
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
        return ["container", path_of(kind), items, more]

    def _key(self, x: Any) -> Any:
        require_key(x)
        return self.value(x)

    def _random(self, x: Any) -> list[Any] | None:
        """Random generators, by their state."""
        if type(x) is np.random.Generator:
            return ["generator", self.value(x.bit_generator)]
        if type(x).__name__ in BIT_GENERATORS and isinstance(x, np.random.BitGenerator):
            return ["bit generator", type(x).__name__, self.value(x.state), self.value(x.seed_seq)]
        if type(x) is np.random.SeedSequence:
            parts = (x.entropy, x.spawn_key, x.pool_size, x.n_children_spawned)
            return ["seed sequence", [self.value(part) for part in parts]]
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
                raise NotPlainError(f"the function {path_of(x)} is a closure")
            return ["code", path_of(x)]
        if isinstance(x, logging.Logger):
            return ["code", path_of(kind)]
        if isinstance(x, MethodType):
            return ["method", self.value(x.__self__), path_of(x.__func__)]
        return ["object", path_of(kind), {name: self.value(value) for name, value in attributes_of(x).items()}]


def dump(x: Any) -> bytes:
    """Nested containers and objects as plain data; NotPlainError for what cannot be, RecursionError if too deep."""
    writer = _Writer()
    root = writer.value(x)
    table = json.dumps({"root": root, "nodes": writer.nodes}).encode()
    return b"".join([len(table).to_bytes(HEAD, "little"), table, *writer.blobs])
