"""Checks of user environments: a dry run of a few steps before training, with one-line errors."""

import logging
import numbers
import time
from bdb import BdbQuit
from collections.abc import Iterator
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv

from rlexp.envs.agents import AgentVectorEnv
from rlexp.errors import EnvironmentFault, UserError
from rlexp.signals import Interrupted, Paused
from rlexp.user_code import describe_error, package_of, where_defined, where_raised
from rlexp.watch import Watch

log = logging.getLogger(__name__)

STEPS = 8  # of the dry run
SECONDS = 1.0  # after which the dry run of a slow environment ends
# raised while an environment runs, but not its fault
PASSED_ON = (UserError, Interrupted, Paused, BdbQuit, torch.OutOfMemoryError)
NAMES = {"observation": "the observation", "reward": "the reward", "info": "its info"}
STEP = ("observation", "reward", "terminated", "truncated", "info")


def layers(envs: Any) -> Iterator[Any]:
    """One environment and all its visible wrappers, outermost first."""
    leaf = envs.parts[0] if isinstance(envs, AgentVectorEnv) else envs
    layer = leaf.envs[0] if isinstance(leaf, SyncVectorEnv) else leaf
    while layer is not None:
        if not isinstance(layer, Checked):
            yield layer
        layer = layer.env if isinstance(layer, gym.Wrapper | gym.vector.VectorWrapper) else None


def _location(env: Any, method: str) -> str:
    """File and line of the method in the outermost user layer, as a prefix of error messages."""
    vectors = env.parts if isinstance(env, AgentVectorEnv) else [env]  # a user's vector class comes first
    for layer in (*vectors, *layers(env)):
        location = where_defined(type(layer), method)
        if location:
            return f"{location}: "
    return f"its {method}: "


def fault_of(error: BaseException, env: Any, method: str = "step") -> str:
    """One line with an environment's error and its location in the user's code."""
    packages = {package_of(kind.__module__) for layer in layers(env) for kind in type(layer).__mro__}
    location = where_raised(error, packages)
    return f"{f'{location}: ' if location else _location(env, method)}{describe_error(error)}"


def raise_fault(error: BaseException, envs: Any, name: str, method: str = "step") -> NoReturn:
    """Raise the error of an environment call as a one-line EnvironmentFault, with the error as its cause.

    It names the id, and file and line in the user's code. Errors that are not the environment's fault stay as they are.
    """
    if isinstance(error, EnvironmentFault) and not str(error).startswith("env."):
        raise EnvironmentFault(f"env.id={name}: {error}") from error
    if isinstance(error, PASSED_ON) or not isinstance(error, Exception | SystemExit):
        raise error
    raise EnvironmentFault(f"env.id={name}: {fault_of(error, envs, method)}") from error


def close(envs: Any, name: str) -> None:
    """Close environments; an error is logged, so that it neither hides another one nor ends a run. name: their id."""
    try:
        envs.close()
    except (Exception, SystemExit) as error:  # user code may raise anything
        log.warning("closing %s failed: %s", name, describe_error(error))


# Return values --------------------------------------------------------------------------------------------------------


def _describe(x: Any) -> str:
    """A value in an error message: its text if short, else its type and shape."""
    if x is None or isinstance(x, str | bool | numbers.Number):
        return repr(x)[:40]
    shape = getattr(x, "shape", None)
    return f"a {type(x).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")


def _number_flaw(x: Any) -> str | None:
    if isinstance(x, np.ndarray | np.generic) and x.shape == ():
        x = x.item()
    if isinstance(x, numbers.Real):
        with np.errstate(over="ignore"):
            return None if np.isfinite(np.float32(x)) else f"is {x}, expected a finite float32"
    if isinstance(x, np.ndarray):
        return f"has shape {x.shape}, expected one number" + (": float(reward[0])" if x.size == 1 else "")
    return f"is {_describe(x)}, expected one number" + (": reward.item()" if hasattr(x, "requires_grad") else "")


def _flag_flaw(x: Any) -> str | None:
    if isinstance(x, np.ndarray | np.generic) and x.shape == ():
        x = x.item()
    if isinstance(x, numbers.Real) and x in (0, 1):
        return None
    found = f"has shape {tuple(x.shape)}" if getattr(x, "shape", ()) else f"is {_describe(x)}"
    return f"{found}, expected True or False"


def _observation_flaw(space: spaces.Space, x: Any) -> str | None:
    try:
        seen = np.asarray(x)
    except Exception:  # a ragged list, a tensor with a gradient
        return f"is {_describe(x)}, which cannot be converted to an array; its space is {space}"
    if isinstance(space, spaces.Tuple | spaces.Dict) or space.shape is None:
        return None  # such spaces are rejected elsewhere
    if seen.dtype.kind not in "biuf":
        return f"is {_describe(x)}; its space is {space}"
    if seen.shape != space.shape:
        return f"has shape {seen.shape}; its space has {space.shape}"
    if space.dtype is not None and not np.can_cast(seen.dtype, space.dtype, "same_kind"):
        return f"has dtype {seen.dtype}; its space has {space.dtype}"
    return None


class Checked(gym.Wrapper):
    """Raises EnvironmentFault, naming class, file and line, if `reset` or `step` return something invalid, or raise."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.declared = env.observation_space  # some create it on every access

    def reset(self, **kwargs: Any) -> Any:
        """Start an episode."""
        return self._call("reset", tuple, ("observation", "info"), **kwargs)

    def step(self, action: Any) -> Any:
        """Make a step."""
        return self._call("step", (tuple, list), STEP, action)

    def _call(self, method: str, kinds: Any, names: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
        try:
            result = getattr(self.env, method)(*args, **kwargs)
        except PASSED_ON:
            raise
        except (Exception, SystemExit) as error:  # user code may raise anything
            raise EnvironmentFault(fault_of(error, self.env, method)) from error
        if isinstance(result, kinds) and len(result) == len(names):
            flaws = [(name, self._flaw(name, x)) for name, x in zip(names, result, strict=True)]
            what = next((f"{NAMES.get(name, name)} {flaw}" for name, flaw in flaws if flaw is not None), None)
        else:
            found = f"{len(result)} values" if isinstance(result, tuple | list) else _describe(result)
            old = (method, found) == ("step", "4 values")
            hint = ", as in the old gym API: done is terminated or truncated" if old else ""
            what = f"returns {found}, expected {len(names)}: ({', '.join(names)}){hint}"
        if what is not None:
            raise EnvironmentFault(_location(self.env, method) + what)
        return result

    def _flaw(self, name: str, x: Any) -> str | None:
        if name == "observation":
            return _observation_flaw(self.declared, x)
        if name == "info":
            return None if isinstance(x, dict) else f"is {_describe(x)}, expected a dictionary"
        return (_number_flaw if name == "reward" else _flag_flaw)(x)


def _require_vector(envs: VectorEnv, *returned: Any) -> None:
    """Check shapes and dtypes of a vector environment's step."""
    for name, x in zip(("observations", "rewards", *STEP[2:4]), returned, strict=True):
        seen = np.asarray(x)
        shape = (envs.num_envs, *((envs.single_observation_space.shape or ()) if name == "observations" else ()))
        if seen.shape != shape or seen.dtype.kind not in "biuf":
            what = f"{name} have shape {seen.shape} and dtype {seen.dtype}; expected numbers of shape {shape}"
            raise EnvironmentFault(_location(envs, "step") + what)


# Dry run --------------------------------------------------------------------------------------------------------------


def play(envs: VectorEnv, first: Any, watch: Watch, name: str) -> list[np.ndarray]:
    """Make and check a few steps of environments whose first observations are `first`; name: their id.

    Returns observations and rewards, for comparison. Raises EnvironmentFault for errors and invalid results.
    """
    envs.action_space.seed(0)
    seen = [np.array(first)]
    began = time.monotonic()
    for step in range(STEPS):
        if step > 1 and time.monotonic() - began > SECONDS:
            break
        try:
            result = watch.call(envs.step, envs.action_space.sample())
            _require_vector(envs, *result[:4])
        except (Exception, SystemExit) as error:
            raise_fault(error, envs, name)
        seen += [np.array(result[0]), np.array(result[1], float)]
    return seen


def warn_of_bounds(name: str, space: spaces.Space, played: list[np.ndarray]) -> None:
    """Warn once of observations outside the bounds of their Box; common, and harmless to a network."""
    if not isinstance(space, spaces.Box):
        return
    for obs in (x for x in played if x.shape[1:] == space.shape):  # not rewards
        outside = np.argwhere((obs < space.low) | (obs > space.high))
        if len(outside):
            at = tuple(outside[0])
            bounds = f"{space.low[at[1:]]:g} to {space.high[at[1:]]:g}"
            what = f"an observation contains {obs[at]:g}, outside its space's bounds {bounds}; it is used unchanged"
            log.warning("env.id=%s: %s", name, what)
            return


def warn_of_randomness(name: str, one: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Warn once of an environment that is not determined by its seed and actions."""
    both = zip(one, other, strict=False)  # the dry run of a slow one may have been shorter
    if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in both):
        what = "differs for the same seed and actions, so results cannot be reproduced; draw from self.np_random"
        log.warning("env.id=%s: %s, which reset(seed=...) seeds", name, what)
