"""Which source files can change a run's result: rlexp's training side, and the modules of what its config names."""

import contextlib
import functools
import hashlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlexp.provenance.modules import LIBRARIES, closure, find, home, is_installed, label, read

TRAINING = ("rlexp.training.trainer", "rlexp.build", "rlexp.networks")  # whatever these import can change a result
SHOWN = ("rlexp",)  # what its __init__ shows is used after training


@functools.cache
def training() -> dict[str, Path]:
    """The modules of rlexp that train, whatever a config names."""
    return closure(TRAINING, only="rlexp", without=SHOWN)


@functools.cache
def training_digest() -> str:
    """Eight hex digits that name the source of rlexp that trains, committed or not."""
    hashed = hashlib.sha256()
    for name, file in sorted(training().items()):
        hashed.update(f"{name} {read(name, file).digest}\n".encode())
    return hashed.hexdigest()[:8]


# What a config names -------------------------------------------------------------------------------------------------


class Named(NamedTuple):
    """What a config names, as words."""

    targets: frozenset[str]
    others: frozenset[str]  # dotted words among the settings of targets
    env_id: str


def _named(config: Mapping[str, Any]) -> Named:
    targets: set[str] = set()
    others: set[str] = set()
    for target, key, word in _words(config, ""):
        # what Hydra's own helpers fetch is named by their settings
        if key == "_target_" or target.startswith("hydra."):
            targets.add(word)
        elif target and re.fullmatch(r"[^\W\d]\w*([.:][^\W\d]\w*)+", word):
            others.add(word)
    env = config.get("env")
    name = env.get("id") if isinstance(env, Mapping) else None
    return Named(frozenset(targets), frozenset(others), name if isinstance(name, str) else "")


def _words(node: Any, target: str, key: str = "") -> Iterator[tuple[str, str, str]]:
    """The `_target_` that each text of a config belongs to, its key, the text."""
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
    """Modules of a class and of its bases, or of a function; the module that it is taken from."""
    named = {home(target) or ""}
    try:
        found = pkgutil.resolve_name(target)
    except Exception:  # told where it is made
        return named, set()
    if inspect.isclass(found):
        return _modules_of_class(found), named
    # an object of another kind, as a partial, says of which class it is and not who made it
    own = {str(getattr(found, "__module__", None) or "")}
    return (own, named) if inspect.isroutine(found) else (own | named, set())


def _modules_of_class(kind: type) -> set[str]:
    return {own.__module__ for own in kind.__mro__}


def _modules_of_environment(name: str, made_by: str = "") -> set[str]:
    """The module that registers an id, those of the classes registered and of the wrappers around them.

    Args:
        name: the id.
        made_by: the module whose code makes it, which may be what registers it.
    """
    import gymnasium

    module, _, own = name.rpartition(":")
    if module or (made_by and own not in gymnasium.registry):
        with contextlib.suppress(Exception):  # told where the environment is made
            importlib.import_module(module or made_by)
    spec = gymnasium.registry.get(own)
    entries = [getattr(spec, "entry_point", None), getattr(spec, "vector_entry_point", None)]
    entries += [wrapper.entry_point for wrapper in getattr(spec, "additional_wrappers", ())]
    found = {module}
    for entry in entries:
        if isinstance(entry, str):  # found by its name: nothing may have imported it yet
            found.add(entry.partition(":")[0])
        elif entry is not None:
            found |= _modules_of_class(entry) if inspect.isclass(entry) else {str(getattr(entry, "__module__", ""))}
    return found


def sources(config: Mapping[str, Any]) -> dict[str, Path]:
    """Modules whose code a config names, their bases', and what they import, installed packages aside: name -> file.

    Of what rlexp has itself only objectives' modules and whatever else its training side does not import anyhow.

    Args:
        config: plain data.
    """
    return _sources(_named(config))


@functools.cache  # for all jobs of a sweep
def _sources(named: Named) -> dict[str, Path]:
    asked: set[str] = set()
    run: set[str] = set()
    for target in sorted(named.targets):  # first, as their modules may register environments
        own, taken_from = _modules_of(target)
        asked |= own
        run |= taken_from
    asked |= _modules_of_environment(named.env_id)
    for word in named.others:
        module = None if word.partition(".")[0] in LIBRARIES else home(word)
        file = find(module) if module else None
        if module and file and not is_installed(file):
            asked.add(module)
    made: dict[str, str] = {}  # ids of environments that code makes -> one of the modules that do
    while True:  # as what makes one may be made itself
        found = closure(sorted(asked - {""}), sorted(run - {""}), without={*training(), *SHOWN})
        new = {own: name for name, file in found.items() for own in read(name, file).made if own not in made}
        inner = {module for own, name in new.items() for module in _modules_of_environment(own, made_by=name)}
        if inner <= asked:
            return found
        made |= new
        asked |= inner


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Eight hex digits that name what the code of each of `sources` says: file -> digits."""
    return dict(_digests(_named(config)))


@functools.cache
def _digests(named: Named) -> dict[str, str]:
    return {label(name, file): read(name, file).digest for name, file in _sources(named).items()}
