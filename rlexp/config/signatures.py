"""Checks settings against the signature of their `_target_`: unknown names, wrong types; casts numbers."""

import contextlib
import dataclasses
import functools
import inspect
import logging
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

from rlexp.algos.schedules import Scheduled
from rlexp.config.imports import import_problem
from rlexp.errors import ConfigError
from rlexp.text import did_you_mean, nearest


def _fits(value: Any, hint: Any) -> bool:
    """Whether plain data matches an annotation; other annotations accept anything."""
    if hint in (Any, inspect.Parameter.empty) or hint == Scheduled:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    plain = origin or hint
    if plain in (type(None), bool, str):
        return isinstance(value, plain)
    if plain in (int, float):
        return isinstance(value, int | plain) and not isinstance(value, bool)
    if plain in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(map(_fits, value, _of_items(args, len(value))))
    if plain in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _of_items(args: Sequence[Any], count: int) -> Sequence[Any]:
    """Annotations of so many items: one for all, or as in tuple[str, float] one each."""
    one_each = len(args) > 1 and ... not in args
    return [*args, *[Any] * count][:count] if one_each else [args[0] if args else Any] * count


def _describe_type(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(_describe_type(arg) for arg in args)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, "a list" if origin in (list, tuple, Sequence) else str(getattr(hint, "__name__", hint)))


@functools.cache
def _signature(target: str) -> tuple[Mapping[str, inspect.Parameter] | None, dict[str, Any]]:
    """Parameters of a `_target_`, None if unknown, and their annotations; raises whatever importing it raises."""
    hydra_log = logging.getLogger("hydra.utils")
    hydra_log.disabled = True  # the caller reports the error
    try:
        found: Callable[..., Any] = get_object(target)
    finally:
        hydra_log.disabled = False
    if not callable(found):
        raise TypeError(target)
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # some built-ins have none
        return None, {}
    annotated = found.__init__ if inspect.isclass(found) and not dataclasses.is_dataclass(found) else found
    return parameters, get_type_hints(annotated, include_extras=True)


def parameters_of(target: str) -> Mapping[str, inspect.Parameter]:
    """Parameters of a `_target_`; empty if unknown."""
    try:
        found = dict(_signature(target)[0] or {})
        kind: Any = get_object(target)
        for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            if field.name in found and field.default_factory is not dataclasses.MISSING:
                found[field.name] = found[field.name].replace(default=field.default_factory())
        return found
    except (Exception, SystemExit):  # reported when it is instantiated
        return {}


def setting_names(target: str) -> list[str]:
    """Names of the settings that a `_target_` accepts, with "**" if it accepts any; empty if unknown."""
    found = {name: p for name, p in parameters_of(target).items() if p.kind is not p.VAR_POSITIONAL}
    return ["**" if p.kind is p.VAR_KEYWORD else name for name, p in found.items()]


def added_fields(target: str) -> dict[str, Any]:
    """Fields of a dataclass that are `rlexp.algos.base.added`, with their defaults; empty if unknown."""
    with contextlib.suppress(Exception, SystemExit):  # reported when it is instantiated
        _signature(target)
        return {
            field.name: field.default for field in dataclasses.fields(get_object(target)) if "added" in field.metadata
        }
    return {}


def as_type(value: Any, hint: Any) -> Any:
    """Cast the numbers in plain data to the types of an annotation."""
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
            return list(map(as_type, value, _of_items(args, len(value))))
        if isinstance(value, Mapping) and origin in (dict, Mapping) and "_target_" not in value:
            return {key: as_type(item, args[1]) for key, item in value.items()}
    return typed(value) if isinstance(value, Mapping) else value


def typed(node: Any) -> Any:
    """Cast the numbers of a `_target_` node, and of those below it, to the types in its signature."""
    if not isinstance(node, Mapping):
        return node
    hints: dict[str, Any] = {}
    if "_target_" in node:
        with contextlib.suppress(Exception, SystemExit):  # `check_call` reports it
            hints = _signature(node["_target_"])[1]
    return {key: as_type(value, hints.get(key, Any)) for key, value in node.items()}


def _lacks_decorator(target: str, key: str) -> bool:
    """Whether a subclass of a dataclass declares a field but lacks @dataclass, so that __init__ does not accept it."""
    found: Any = get_object(target)
    return inspect.isclass(found) and any(
        key in vars(kind).get("__annotations__", {}) and "__dataclass_fields__" not in vars(kind)
        for kind in found.__mro__
        if dataclasses.is_dataclass(kind)
    )


def check_call(path: str, node: Mapping[str, Any]) -> None:
    """Refuse (ConfigError) a target that cannot be imported, an unknown key, a value unlike its annotation."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            check_call(f"{path}.{key}", value)
        for index, item in enumerate(value if isinstance(value, list | tuple) else ()):
            if isinstance(item, Mapping):
                check_call(f"{path}.{key}[{index}]", item)
    if "_target_" not in node:
        return
    try:
        parameters, hints = _signature(node["_target_"])
    except (Exception, SystemExit):
        raise ConfigError(f"{path}._target_={node['_target_']}: {import_problem(node['_target_'])}") from None
    if parameters is None:
        return
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in node.items():
        if key.startswith("_") and key.endswith("_"):
            continue
        if key not in parameters and not open_ended:
            known = list(parameters)[1 if node.get("_partial_") else 0 :]  # without what code passes, as `params`
            hint = nearest(key, known, f"{path}.")
            if _lacks_decorator(node["_target_"], key):
                hint = "its class declares it but is not a dataclass: write @dataclass(kw_only=True) above it"
            raise ConfigError(f"{path}.{key}={value}: {node['_target_']} has no such setting; {hint}")
        wanted = hints.get(key, Any)
        listed_rate = path == "optimizer" and key == "lr"  # a schedule; the optimizer is passed its current value
        if not listed_rate and not isinstance(value, Mapping) and not _fits(value, wanted):
            hint = did_you_mean(str(value), get_args(wanted) if get_origin(wanted) is Literal else ())
            raise ConfigError(f"{path}.{key}={value}: must be {_describe_type(wanted)}{hint}")
