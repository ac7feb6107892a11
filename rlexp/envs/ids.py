"""Ids of environments: what registers them, and one-line errors for those that are unknown or not installed."""

import importlib.util
import inspect
from typing import Any

import gymnasium as gym

from rlexp.config.imports import import_error, missing_module
from rlexp.envs.classic_control import WORLDS
from rlexp.errors import ConfigError
from rlexp.text import closest

# id prefix -> the module that registers it, and the pip extra that installs it
HOMES = {"ALE/": ("ale_py", "atari"), "MiniGrid-": ("minigrid", ""), "BabyAI-": ("minigrid", "")}
MODULES = {"mujoco": "mujoco", "box2d": "Box2D", "atari": "ale_py"}  # pip extra -> module that it installs


def is_missing(extra: str | None) -> bool:
    """Whether a known pip extra is not installed."""
    return extra in MODULES and importlib.util.find_spec(MODULES[extra]) is None


def require_known(id: str, backend: str, extra: str | None) -> None:
    """Import the module before the colon of an id; ConfigError if it, the id or a pip extra is missing."""
    module, _, name = id.rpartition(":")
    if backend == "envpool":
        known = _import(id, "envpool", "envpool").list_all_envs()
    elif is_missing(extra):
        what = f"needs the extra {extra}, which is not installed: pip install 'rlexp[{extra}]'"
        raise ConfigError(f"env.id={id}: {what}")
    elif backend == "torch":
        known = [] if module else list(WORLDS)  # torch implements Gymnasium's environments, not a module's
    else:
        if module:
            gym.register_envs(_import(id, module, extra))
        known = list(gym.registry)
    if name not in known:
        raise ConfigError(f"env.id={id}: {_unknown(id, backend, known)}")


def _import(id: str, module: str, extra: str | None) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = error.name or module
        if not isinstance(error, ModuleNotFoundError):
            why = f"cannot be imported: {import_error(error, module)}"
        elif "." in name:  # of an installed package
            why = missing_module(name)
        else:
            remedy = f"pip install 'rlexp[{extra}]'" if extra else f"install {name}"
            why = f"needs {name}, which is not installed: {remedy}"
        raise ConfigError(f"env.id={id}: {why}") from None


def _unknown(id: str, backend: str, known: list[str]) -> str:
    module, extra = next((home for start, home in HOMES.items() if id.startswith(start)), ("", ""))
    if module and backend in ("auto", "gymnasium"):
        if importlib.util.find_spec(module) is None:
            package = f"'rlexp[{extra}]'" if extra else module
            return f"needs {module}, which is not installed: pip install {package}; then env.id={module}:{id}"
        return f"is registered by {module}; use env.id={module}:{id}"
    near = closest(id.rpartition(":")[2], known, cutoff=0.4)
    hint = f"did you mean {near}?" if near else "prefix your own with its module, e.g. my_package:MyEnv-v0"
    who = {"envpool": "envpool has", "torch": "env.backend=torch knows"}.get(backend, "Gymnasium knows")
    return f"{who} no such environment; {hint}"


def has_world(id: str) -> bool:
    """Whether a torch world implements what is registered under an id: Gymnasium's environment, its time limit."""
    spec = gym.registry.get(id)
    if id not in WORLDS or spec is None:
        return False
    return str(spec.entry_point).startswith("gymnasium.envs.") and spec.max_episode_steps == WORLDS[id].max_steps


def parameter_names(kind: Any) -> set[str]:
    """Parameters of a class or function; if a class forwards **kwargs, those of its bases, too."""
    makers = [kind] if callable(kind) else []
    if inspect.isclass(kind):
        makers = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    found: set[str] = set()
    for make in makers:
        try:
            parameters = inspect.signature(make).parameters
        except ValueError:  # written in C
            break
        found |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return found
