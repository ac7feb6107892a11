"""What is told of a dotted name that cannot be imported: which part of it is not there, and the nearest that is."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from rlexp.files import PACKAGE
from rlexp.user_code import package_of, raised, through, told

# Classes that have moved, by the names that configs of earlier runs give them: hashes keep those.
MOVED = {
    "rlexp.policy.ActorCritic": "rlexp.networks.actor_critic.ActorCritic",
    "rlexp.advantages.GAE": "rlexp.algos.advantages.GAE",
}


def near(name: str, known: Iterable[str]) -> str:
    """The nearest of some names, whatever their case, at the end of a sentence; nothing where none is near."""
    by_lower = {
        each.lower(): each for each in sorted(known, reverse=True) if not each.startswith("_")
    }  # Adam, not adam
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def _submodules(module: ModuleType | None) -> list[str]:
    places = None if module is None else getattr(module, "__path__", [])
    return [found.name for found in pkgutil.iter_modules(places)]


def no_module(name: str) -> str:
    """Of a module that is not there though what it would be part of may be: "their_pkg has no module mazes"."""
    above, _, own = name.rpartition(".")
    if not above:
        return f"there is no module {name}, installed or where you stand{near(name, _submodules(None))}"
    return f"{above} has no module {own}{_elsewhere(name) or near(own, _submodules(importlib.import_module(above)))}"


def _elsewhere(name: str) -> str:
    """Where a module of rlexp is that was looked for elsewhere in it."""
    top, _, own = name.partition(".")
    found = sorted(PACKAGE.rglob(f"{own.rpartition('.')[2]}.py")) if top == "rlexp" and own else []
    if not found:
        return ""
    return f"; did you mean {'.'.join(['rlexp', *found[0].relative_to(PACKAGE).with_suffix('').parts])}?"


def fault(error: BaseException, module: str) -> str:
    """What a module's own code raised as it was imported, with the line of it."""
    places = through(error, {package_of(module)})
    hint = _elsewhere(str(error.name)) if isinstance(error, ModuleNotFoundError) else ""
    return "".join(f"{told(at.file, at.line)}: " for at in places[-1:]) + raised(error) + hint


def why_not(target: str) -> str:
    """Of a dotted name that leads to nothing that can be called, why."""
    if target in MOVED:
        return f"has moved; it is {MOVED[target]}"
    found: Any = None
    *_, last = parts = target.split(".")
    for number, part in enumerate(parts):
        above, path = ".".join(parts[:number]), ".".join(parts[: number + 1])
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        if number and not isinstance(found, ModuleType):
            return f"{above} has no {part}{near(part, dir(found))}"
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                return f"cannot be imported: {fault(error, path)}"
            if not number or number < len(parts) - 1:
                return no_module(path)
            return f"{above} has no {part}{near(part, [*dir(found), *_submodules(found)])}"
        except Exception as error:  # whatever somebody else's module raises
            return f"cannot be imported: {fault(error, path)}"
    if isinstance(found, ModuleType):
        return f"is a module{_within(found, target, last)}"
    return f"is {found!r:.60}, which is no class or function"


def _within(module: ModuleType, target: str, last: str) -> str:
    """The class that is meant by its module: torch.optim.SGD by torch.optim.sgd."""
    own = {
        name: kind for name, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__
    }
    meant = next((name for name in own if name.lower() == last.lower()), next(iter(own), None))
    if meant is None:
        return ""
    above = target.rpartition(".")[0]
    exported = getattr(importlib.import_module(above), meant, None) is own[meant] if above else False
    return f"; did you mean {above if exported else target}.{meant}?"
