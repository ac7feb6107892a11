"""Digests: text that is equal for two values only if their contents are."""

import functools
import hashlib
import itertools
import random
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlexp.plain.attributes import NotPlainError, attributes_of


def digest(value: Any, *, opaque: bool = True) -> str:
    """Text that is equal for two values only if their contents are, at any depth; readable for plain values.

    opaque: an object whose state is not in its attributes equals no other; else random generators are compared by
    state, and other unreadable objects by class.
    """
    text = _Digest(opaque).of(value)
    if isinstance(value, int | float | str | Enum):
        return text
    return text if len(text) <= 80 else f"{type(value).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


class _Digest:
    def __init__(self, opaque: bool) -> None:
        self.opaque = opaque
        self.seen: dict[int, int] = {}  # identity -> number
        self.held: list[Any] = []  # keeps objects alive, and so their ids unique

    def of(self, value: Any) -> str:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum):
            return repr(value)
        if id(value) in self.seen:
            return f"<{self.seen[id(value)]}>"
        self.seen[id(value)] = len(self.seen)
        self.held.append(value)
        if isinstance(value, np.dtype | range | slice | itertools.count):
            return repr(value)
        if isinstance(value, Tensor):
            return self._tensor(value.detach())
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value))
        if isinstance(value, Mapping):
            return type(value).__name__ + self._pairs(value.items())
        if isinstance(value, list | tuple | deque):
            return f"{type(value).__name__}({', '.join(map(self.of, value))})"
        if isinstance(value, set | frozenset):
            return f"{{{', '.join(sorted(map(self.of, value)))}}}"
        if isinstance(value, FunctionType | BuiltinFunctionType | type | ModuleType):
            closed = [self.of(cell.cell_contents) for cell in getattr(value, "__closure__", None) or ()]
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}{closed or ''}"
        if isinstance(value, MethodType):
            return f"{self.of(value.__self__)}.{value.__name__}"
        if isinstance(value, functools.partial):
            return f"partial({self.of(value.func)}, {self.of(value.args)}, {self.of(value.keywords)})"
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if not self.opaque and isinstance(value, np.random.Generator):
            return kind + self.of(value.bit_generator.state)
        if not self.opaque and isinstance(value, torch.Generator | random.Random):
            return kind + self.of(value.get_state() if isinstance(value, torch.Generator) else value.getstate())
        try:
            return kind + self._pairs(attributes_of(value).items())
        except NotPlainError:
            return f"{kind} at {id(value)}" if self.opaque else kind  # its contents are unknown

    def _tensor(self, x: Tensor) -> str:
        if x.is_meta:
            return f"{x.dtype}{tuple(x.shape)} on meta"
        if x.is_quantized or x.layout != torch.strided:
            return f"{x.layout} {self._tensor(x.dequantize() if x.is_quantized else x.to_dense())}"
        x = x.cpu().resolve_conj().resolve_neg()
        try:
            return self._array(x.numpy())
        except TypeError:  # a dtype that NumPy lacks, such as bfloat16
            return f"{x.dtype}{tuple(x.shape)}{self._array(x.reshape(-1).view(torch.uint8).numpy())}"

    def _array(self, x: np.ndarray) -> str:
        if x.dtype == object or x.size <= 8:
            return f"{x.dtype}{x.shape}{self.of(x.tolist())}"
        return f"{x.dtype}{x.shape}{hashlib.sha256(x.tobytes()).hexdigest()}"

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> str:
        return "{" + ", ".join(f"{self.of(key)}: {self.of(value)}" for key, value in pairs) + "}"
