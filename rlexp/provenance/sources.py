"""Source files that can change a run's result: rlexp's training code, and modules that its config names."""

import contextlib
import functools
import hashlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlexp.provenance.modules import LIBRARIES, closure, find, home, is_installed, label, read

TRAINING = ("rlexp.training.trainer", "rlexp.build", "rlexp.networks")  # their imports can change a result
EXPORTS = ("rlexp",)  # exports of its __init__ are used after training only


@functools.cache
def training() -> dict[str, Path]:
    """Modules of rlexp's training code, independent of the config."""
    return closure(TRAINING, only="rlexp", without=EXPORTS)


@functools.cache
def training_digest() -> str:
    """Eight hex digits that identify rlexp's training code, committed or not."""
    hashed = hashlib.sha256()
    for name, file in sorted(training().items()):
        hashed.update(f"{name} {read(name, file).digest}\n".encode())
    return hashed.hexdigest()[:8]


def _named(config: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str], str]:
    """Targets in a config, dotted names among their settings, and the environment's id."""
    targets: set[str] = set()
    others: set[str] = set()
    for target, key, word in _words(config, ""):
        # Hydra's helpers name what they return in their settings
        if key == "_target_" or target.startswith("hydra."):
            targets.add(word)
        elif target and re.fullmatch(r"[^\W\d]\w*([.:][^\W\d]\w*)+", word):
            others.add(word)
    env = config.get("env")
    name = env.get("id") if isinstance(env, Mapping) else None
    return frozenset(targets), frozenset(others), name if isinstance(name, str) else ""


def _words(node: Any, target: str, key: str = "") -> Iterator[tuple[str, str, str]]:
    """(`_target_`, key, text) of each string in a config."""
    if isinstance(node, str):
        yield target, key, node
    elif isinstance(node, Mapping):
        target = str(node.get("_target_") or target)
        for name, value in node.items():
            yield from _words(value, target, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _words(value, target)


def _modules_of(target: str) -> tuple[set[str], set[str]]:
    """Modules of a class and its bases, or of a function; then the module that the target is imported from."""
    named = {home(target) or ""}
    try:
        found = pkgutil.resolve_name(target)
    except (Exception, SystemExit):  # reported when it is instantiated
        return named, set()
    if inspect.isclass(found):
        return _modules_of_class(found), named
    # __module__ of another object, as a partial, is that of its class
    module = {str(getattr(found, "__module__", None) or "")}
    return (module, named) if inspect.isroutine(found) else (module | named, set())


def _modules_of_class(kind: type) -> set[str]:
    return {base.__module__ for base in kind.__mro__}


def _modules_of_environment(name: str, made_by: str = "") -> set[str]:
    """Modules that register an environment id and define its classes and wrappers. made_by: whose code makes it."""
    import gymnasium

    module, _, env_id = name.rpartition(":")
    if module or (made_by and env_id not in gymnasium.registry):
        with contextlib.suppress(Exception, SystemExit):  # reported when the environment is built
            importlib.import_module(module or made_by)
    spec = gymnasium.registry.get(env_id)
    entries = [getattr(spec, "entry_point", None), getattr(spec, "vector_entry_point", None)]
    entries += [wrapper.entry_point for wrapper in getattr(spec, "additional_wrappers", ())]
    found = {module}
    for entry in entries:
        if isinstance(entry, str):  # by name, as it may not be imported yet
            found.add(entry.partition(":")[0])
        elif entry is not None:
            found |= _modules_of_class(entry) if inspect.isclass(entry) else {str(getattr(entry, "__module__", ""))}
    return found


def sources(config: Mapping[str, Any]) -> dict[str, Path]:
    """Modules that a config names, those of base classes, and their imports, without installed packages: name -> file.

    Modules of rlexp count only if its training code does not import them anyway, such as objectives.
    """
    return _sources(*_named(config))


@functools.cache  # for all jobs of a sweep
def _sources(targets: frozenset[str], others: frozenset[str], env_id: str) -> dict[str, Path]:
    asked: set[str] = set()
    run: set[str] = set()
    for target in sorted(targets):  # first, as their modules may register environments
        defined_in, imported_from = _modules_of(target)
        asked |= defined_in
        run |= imported_from
    asked |= _modules_of_environment(env_id)
    for word in others:
        module = None if word.partition(".")[0] in LIBRARIES else home(word)
        file = find(module) if module else None
        if module and file and not is_installed(file):
            asked.add(module)
    made: dict[str, str] = {}  # environment id -> a module whose code makes it
    while True:  # environments may make further environments
        found = closure(sorted(asked - {""}), sorted(run - {""}), without={*training(), *EXPORTS})
        new = {each: name for name, file in found.items() for each in read(name, file).made if each not in made}
        inner = {module for made_id, name in new.items() for module in _modules_of_environment(made_id, made_by=name)}
        if inner <= asked:
            return found
        made |= new
        asked |= inner


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of `sources`: file -> eight hex digits."""
    return dict(_digests(*_named(config)))


@functools.cache
def _digests(*named: Any) -> dict[str, str]:
    return {label(name, file): read(name, file).digest for name, file in _sources(*named).items()}
