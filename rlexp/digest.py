"""Values as text that is the same only where they hold the same."""

import hashlib
from collections import deque
from collections.abc import Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor


def digest(value: Any) -> str:
    """Text that is the same for two values only if they hold the same, however deep; readable where they are plain."""
    if value is None or isinstance(value, bool | int | float | str | Enum):
        return repr(value)
    text = _whole(value, {})
    return text if len(text) <= 80 else f"{type(value).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _whole(value: Any, seen: dict[int, int]) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum):
        return repr(value)
    if id(value) in seen:
        return f"<{seen[id(value)]}>"
    seen[id(value)] = len(seen)
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        held = (
            hashlib.sha256(array.tobytes()).hexdigest() if array.size > 8 and array.dtype != object else array.tolist()
        )
        return f"{array.dtype}{array.shape}{held}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_whole(k, seen)}: {_whole(v, seen)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | deque):
        return f"{type(value).__name__}({', '.join(_whole(item, seen) for item in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_whole(item, seen) for item in value))}}}"
    if isinstance(value, FunctionType | BuiltinFunctionType | type | ModuleType):
        closed = [_whole(cell.cell_contents, seen) for cell in getattr(value, "__closure__", None) or ()]
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}{closed or ''}"
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    if not hasattr(value, "__dict__") and not slots:
        return f"{type(value).__qualname__} at {id(value)}"  # nobody knows what it holds
    own = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    return f"{type(value).__module__}.{type(value).__qualname__}{_whole(own, seen)}"
