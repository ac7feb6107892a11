"""Ids of environments: what registers them, and one-line errors for those that are unknown or cannot be made."""

import functools
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from rlexp.config.imports import import_error, missing_module
from rlexp.envs.classic_control import WORLDS
from rlexp.errors import ConfigError, EnvironmentFault, UserError
from rlexp.extras import not_installed, pip_install
from rlexp.text import closest, nearest, one_line
from rlexp.user_code import describe_error, package_of, where_raised

# id prefix -> the module that registers it, and the pip extra that installs it
HOMES = {"ALE/": ("ale_py", "atari"), "MiniGrid-": ("minigrid", "minigrid"), "BabyAI-": ("minigrid", "minigrid")}
MODULES = {
    "mujoco": "mujoco",
    "box2d": "Box2D",
    "atari": "ale_py",
    "minigrid": "minigrid",
    "envpool": "envpool",
}  # pip extra -> module that it installs
NOT_SETTINGS = {"self", "args", "kwargs", "num_envs", "render_mode"}  # parameters of environments


def is_missing(extra: str | None) -> bool:
    """Whether a known pip extra is not installed."""
    return extra in MODULES and importlib.util.find_spec(MODULES[extra]) is None


def require_installed(id: str, extra: str | None, install: str | None) -> None:
    """ConfigError if what an id needs is not installed: a known pip extra, or a module that comes by `install`."""
    if extra and is_missing(extra):
        raise ConfigError(f"env.id={id}: {not_installed(MODULES[extra], extra)}")
    module = id.rpartition(":")[0]
    if module and install:
        _import(id, module, install)


def require_known(id: str, backend: str, extra: str | None, install: str | None = None) -> None:
    """Import the module before the colon of an id; ConfigError if it, the id or a pip extra is missing."""
    module, _, name = id.rpartition(":")
    if backend != "envpool":
        require_installed(id, extra, install)
    if backend == "envpool":
        known = _import(id, "envpool", pip_install("envpool")).list_all_envs()
    elif backend == "torch":
        known = [] if module else list(WORLDS)  # torch implements Gymnasium's environments, not a module's
    else:
        if module:
            gym.register_envs(_import(id, module, install or (extra and pip_install(extra))))
        known = list(gym.registry)
    if name not in known:
        raise ConfigError(f"env.id={id}: {_unknown(id, backend, known)}")


def _import(id: str, module: str, install: str | None) -> Any:
    """A module; where it, or one that it needs, is missing, ConfigError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        name = getattr(error, "name", None) or module
        if not isinstance(error, ModuleNotFoundError):
            why = f"cannot be imported: {import_error(error, module)}"
        elif "." in name:  # of an installed package
            why = missing_module(name)
        else:
            why = f"needs {name}, which is not installed: {install or f'install {name}'}"
        raise ConfigError(f"env.id={id}: {why}") from None


def _unknown(id: str, backend: str, known: list[str]) -> str:
    module, extra = next((home for start, home in HOMES.items() if id.startswith(start)), ("", ""))
    if module and backend in ("auto", "gymnasium"):
        if importlib.util.find_spec(module) is None:
            return f"{not_installed(module, extra)}; then env.id={module}:{id}"
        return f"is registered by {module}; use env.id={module}:{id}"
    near = closest(id.rpartition(":")[2], known, cutoff=0.4)
    hint = f"did you mean {near}?" if near else "prefix your own with its module, e.g. my_package:MyEnv-v0"
    who = {"envpool": "envpool has", "torch": "env.backend=torch knows"}.get(backend, "Gymnasium knows")
    return f"{who} no such environment; {hint}"


def cannot_be_made(
    error: BaseException, id: str, extra: str | None, kwargs: dict[str, Any], maker: Callable[[], Any]
) -> UserError:
    """What to raise: an error in user code, an unknown key of `env.kwargs`, or something that is not installed."""
    prefix, (module, _, name) = f"env.id={id}: cannot be made: ", id.rpartition(":")
    entry = getattr(gym.registry.get(name), "entry_point", None)
    home = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", None)
    location = where_raised(error, {package_of(module), package_of(home or "")} - {""})
    if location and not isinstance(error, gym.error.Error | ImportError):
        return EnvironmentFault(f"{prefix}{location}: {describe_error(error)}")
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[1] in kwargs:
        key, kind = unknown[1], maker()
        known = sorted({*parameter_names(kind), "max_episode_steps"} - NOT_SETTINGS)
        what = f"{getattr(kind, '__name__', name)} takes no {key}; {nearest(key, known)}"
        return ConfigError(f"env.kwargs.{key}={kwargs[key]}: {what}")
    line = one_line(str(error)) or type(error).__name__
    if isinstance(error, gym.error.DependencyNotInstalled | ImportError) and extra:
        line = f"{line.partition(', run')[0]}; {pip_install(extra)}"  # one remedy, not two
    return ConfigError(f"{prefix}{line}")


@functools.cache
def _dies(code: str) -> bool:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0


def require_drawable(id: str, name: str, kwargs: dict[str, Any]) -> None:
    """Refuse (ConfigError) an environment of envpool that cannot be rendered here: it would end the process."""
    make = f"make_gymnasium({name!r}, num_envs=1, render_mode='rgb_array', **{kwargs!r})"
    if _dies(f"import envpool; pool = envpool.{make}; pool.reset(); pool.render()"):
        raise ConfigError(f"env.id={id}: envpool cannot render it on this machine; its physics may need OpenGL")


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
