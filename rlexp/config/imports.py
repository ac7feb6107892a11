"""Messages for a `_target_` that cannot be imported: which part is missing, and the nearest name."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from rlexp.files import PACKAGE
from rlexp.text import did_you_mean
from rlexp.user_code import describe_error, location, package_of, user_frames

# Classes that have moved: old name in configs of earlier runs -> current name. Hashes use the old names.
MOVED = {
    "rlexp.policy.ActorCritic": "rlexp.networks.actor_critic.ActorCritic",
    "rlexp.advantages.GAE": "rlexp.algos.advantages.GAE",
}


def _submodules(module: ModuleType | None) -> list[str]:
    path = None if module is None else getattr(module, "__path__", [])
    return [found.name for found in pkgutil.iter_modules(path)]


def missing_module(name: str) -> str:
    """Message for a missing module: "their_pkg has no module mazes"."""
    above, _, last = name.rpartition(".")
    if not above:
        hint = did_you_mean(name, _submodules(None))
        return f"there is no module {name}, installed or in the working directory{hint}"
    hint = _elsewhere(name) or did_you_mean(last, _submodules(importlib.import_module(above)))
    return f"{above} has no module {last}{hint}"


def _elsewhere(name: str) -> str:
    """A hint at the current location of a module of rlexp that has moved."""
    top, _, rest = name.partition(".")
    found = sorted(PACKAGE.rglob(f"{rest.rpartition('.')[2]}.py")) if top == "rlexp" and rest else []
    if not found:
        return ""
    return f"; did you mean {'.'.join(['rlexp', *found[0].relative_to(PACKAGE).with_suffix('').parts])}?"


def import_error(error: BaseException, module: str) -> str:
    """File, line and message of an error that a module raised while it was imported."""
    frames = user_frames(error, {package_of(module)})
    hint = _elsewhere(str(error.name)) if isinstance(error, ModuleNotFoundError) else ""
    told = describe_error(error).removesuffix(" during the run")
    return "".join(f"{location(at.file, at.line)}: " for at in frames[-1:]) + told + hint


def import_problem(target: str) -> str:
    """Why a dotted name does not name a callable."""
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
            return f"{above} has no {part}{did_you_mean(part, dir(found))}"
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                return f"cannot be imported: {import_error(error, path)}"
            if not number or number < len(parts) - 1:
                return missing_module(path)
            return f"{above} has no {part}{did_you_mean(part, [*dir(found), *_submodules(found)])}"
        except (Exception, SystemExit) as error:  # anything that user code raises
            return f"cannot be imported: {import_error(error, path)}"
    if isinstance(found, ModuleType):
        return f"is a module{_within(found, target, last)}"
    return f"is {found!r:.60}, which is not a class or function"


def _within(module: ModuleType, target: str, last: str) -> str:
    """A hint at the class when its module was named: torch.optim.SGD for torch.optim.sgd."""
    members = inspect.getmembers(module, inspect.isclass)
    classes = {name: kind for name, kind in members if kind.__module__ == module.__name__}
    meant = next((name for name in classes if name.lower() == last.lower()), next(iter(classes), None))
    if meant is None:
        return ""
    above = target.rpartition(".")[0]
    exported = getattr(importlib.import_module(above), meant, None) is classes[meant] if above else False
    return f"; did you mean {above if exported else target}.{meant}?"
