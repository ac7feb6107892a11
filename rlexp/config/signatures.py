"""Settings held against the signatures of what they are handed to: unknown names, values of another type, numbers."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import logging
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

from rlexp.algos.schedules import Scheduled
from rlexp.config.imports import why_not
from rlexp.errors import ConfigError


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """A hint for a name that is not known: the nearest one that is, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.55)
    return f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def nearest_choice(value: str, choices: Sequence[str]) -> str:
    """The same for a value among few, at the end of a sentence; nothing where none is near."""
    close = difflib.get_close_matches(value, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether plain data fits an annotation; annotations beyond plain data accept anything."""
    if hint in (Any, inspect.Parameter.empty) or hint == Scheduled:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    plain = origin or hint
    if plain is type(None):
        return value is None
    if plain is bool:
        return isinstance(value, bool)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if plain is str:
        return isinstance(value, str)
    if plain in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(_fits(v, a) for v in value for a in args[:1])
    if plain in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _wanted(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(arg) for arg in args)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, "a list" if origin in (list, tuple, Sequence) else str(getattr(hint, "__name__", hint)))


@functools.cache
def _takes(target: str) -> tuple[Mapping[str, inspect.Parameter] | None, dict[str, Any]]:
    """Parameters of what a `_target_` names, None where they cannot be known, and their annotations.

    Raises:
        Exception: whatever importing it raises; TypeError: it cannot be called.
    """
    hydras_log = logging.getLogger("hydra.utils")
    hydras_log.disabled = True  # it would print what is told by whoever asks
    try:
        found: Callable[..., Any] = get_object(target)
    finally:
        hydras_log.disabled = False
    if not callable(found):
        raise TypeError(target)
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # some built-ins have none
        return None, {}
    annotated = found.__init__ if inspect.isclass(found) and not dataclasses.is_dataclass(found) else found
    return parameters, get_type_hints(annotated, include_extras=True)


def parameters_of(target: str) -> Mapping[str, inspect.Parameter]:
    """What a `_target_` names takes; nothing if that cannot be known."""
    try:
        return _takes(target)[0] or {}
    except Exception:  # told by whoever makes it
        return {}


def settings_of(target: str) -> list[str]:
    """Names of the settings that what a `_target_` names takes, "**" among them where it takes any; none if unknown."""
    return [
        "**" if p.kind is p.VAR_KEYWORD else name
        for name, p in parameters_of(target).items()
        if p.kind is not p.VAR_POSITIONAL
    ]


def as_type(value: Any, hint: Any) -> Any:
    """Plain data whose numbers have the type that an annotation asks for, where it asks for one."""
    if hint == Scheduled:
        hint = float | Sequence[float]
    origin, args = get_origin(hint), get_args(hint)
    kinds = args if origin in (Union, types.UnionType) else (hint,)
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    for kind in kinds:
        origin, args = get_origin(kind), get_args(kind)
        if isinstance(value, list | tuple) and origin in (list, tuple, Sequence):
            return [as_type(item, args[0]) for item in value]
        if isinstance(value, Mapping) and origin in (dict, Mapping) and "_target_" not in value:
            return {key: as_type(item, args[1]) for key, item in value.items()}
    return typed(value) if isinstance(value, Mapping) else value


def typed(node: Any) -> Any:
    """A `_target_` node, and those below it, with numbers of the types that it will be called with."""
    if not isinstance(node, Mapping):
        return node
    hints: dict[str, Any] = {}
    if "_target_" in node:
        with contextlib.suppress(Exception):  # `check_call` tells what is wrong with it
            hints = _takes(node["_target_"])[1]
    return {key: as_type(value, hints.get(key, Any)) for key, value in node.items()}


def _lacks_decorator(target: str, key: str) -> bool:
    """Whether a class declares a field that nothing takes, as it derives from a dataclass and is none of its own."""
    found: Any = get_object(target)
    return inspect.isclass(found) and any(
        key in vars(kind).get("__annotations__", {}) and "__dataclass_fields__" not in vars(kind)
        for kind in found.__mro__
        if dataclasses.is_dataclass(kind)
    )


def check_call(path: str, node: Mapping[str, Any]) -> None:
    """Check a `_target_` node against the signature it will be called with, and the nodes below it.

    Raises:
        ConfigError: the target cannot be imported, a key is unknown to it, or a value does not fit its annotation.
    """
    for key, value in node.items():
        if isinstance(value, Mapping):
            check_call(f"{path}.{key}", value)
    if "_target_" not in node:
        return
    try:
        parameters, hints = _takes(node["_target_"])
    except Exception:
        raise ConfigError(f"{path}._target_={node['_target_']}: {why_not(node['_target_'])}") from None
    if parameters is None:
        return
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in node.items():
        if key.startswith("_") and key.endswith("_"):
            continue
        if key not in parameters and not open_ended:
            known = list(parameters)[1 if node.get("_partial_") else 0 :]  # less what code hands over, as `params`
            hint = nearest(key, known, f"{path}.")
            if _lacks_decorator(node["_target_"], key):
                hint = "its class declares it, but is no dataclass: write @dataclass(kw_only=True) above it"
            raise ConfigError(f"{path}.{key}={value}: {node['_target_']} has no such setting; {hint}")
        wanted = hints.get(key, Any)
        listed_rate = path == "optimizer" and key == "lr"  # a schedule; the optimizer itself gets its current value
        if not listed_rate and not isinstance(value, Mapping) and not _fits(value, wanted):
            hint = nearest_choice(str(value), get_args(wanted) if get_origin(wanted) is Literal else ())
            raise ConfigError(f"{path}.{key}={value}: must be {_wanted(wanted)}{hint}")
