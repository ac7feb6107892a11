"""Values as text that is the same only where they hold the same."""

import functools
import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from rlexp.envs.plain import NotPlainError, attributes_of


def digest(value: Any) -> str:
    """Text that is the same for two values only if they hold the same, however deep; readable where they are plain."""
    if value is None or isinstance(value, bool | int | float | str | Enum):
        return repr(value)
    text = _Digest().of(value)
    return text if len(text) <= 80 else f"{type(value).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


class _Digest:
    def __init__(self) -> None:
        self.seen: dict[int, int] = {}  # identity -> number
        self.held: list[Any] = []  # an identity lasts as long as its owner

    def of(self, value: Any) -> str:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum):
            return repr(value)
        if id(value) in self.seen:
            return f"<{self.seen[id(value)]}>"
        self.seen[id(value)] = len(self.seen)
        self.held.append(value)
        if isinstance(value, np.dtype | range | slice):
            return repr(value)
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
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
        try:
            return kind + self._pairs(attributes_of(value).items())
        except NotPlainError:
            return f"{kind} at {id(value)}"  # nobody knows what it holds: it is like no other that is there

    def _array(self, x: np.ndarray) -> str:
        if x.dtype == object or x.size <= 8:
            return f"{x.dtype}{x.shape}{self.of(x.tolist())}"
        return f"{x.dtype}{x.shape}{hashlib.sha256(x.tobytes()).hexdigest()}"

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> str:
        return "{" + ", ".join(f"{self.of(key)}: {self.of(value)}" for key, value in pairs) + "}"
