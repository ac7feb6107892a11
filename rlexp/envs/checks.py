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
EXPECTED = "(observation, reward, terminated, truncated, info)"


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


def packages_of(env: Any) -> set[str]:
    """Packages that define the layers of an environment."""
    return {package_of(kind.__module__) for layer in layers(env) for kind in type(layer).__mro__}


def fault_of(error: BaseException, env: Any, method: str = "step") -> str:
    """One line with an environment's error and its location in the user's code."""
    location = where_raised(error, packages_of(env))
    return f"{f'{location}: ' if location else _location(env, method)}{describe_error(error)}"


def raise_fault(error: BaseException, envs: Any, name: str, method: str = "step") -> NoReturn:
    """Raise the error of an environment call as a one-line EnvironmentFault, with the error as its cause.

    Raises:
        EnvironmentFault: with the id, and the file and line in the user's code.
        BaseException: the error itself, where it is not the environment's fault.
    """
    if isinstance(error, EnvironmentFault) and not str(error).startswith("env."):
        raise EnvironmentFault(f"env.id={name}: {error}") from error
    if isinstance(error, PASSED_ON) or not isinstance(error, Exception | SystemExit):
        raise error
    raise EnvironmentFault(f"env.id={name}: {fault_of(error, envs, method)}") from error


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
    shape = getattr(x, "shape", ())
    if isinstance(x, np.ndarray) and shape:
        return f"has shape {shape}, expected one number" + (": float(reward[0])" if x.size == 1 else "")
    return f"is {_describe(x)}, expected one number" + (": reward.item()" if hasattr(x, "requires_grad") else "")


def _flag_flaw(x: Any) -> str | None:
    if isinstance(x, np.ndarray | np.generic) and x.shape == ():
        x = x.item()
    if isinstance(x, numbers.Real) and x in (0, 1):
        return None
    shape = getattr(x, "shape", ())
    found = f"has shape {tuple(shape)}" if shape else f"is {_describe(x)}"
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
    """Validates the return values of `reset` and `step`.

    Raises:
        EnvironmentFault: from `reset` and `step`; names the class, file and line.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.declared = env.observation_space  # some create it on every access

    def reset(self, **kwargs: Any) -> Any:
        """Start an episode."""
        result = self._call("reset", self.env.reset, **kwargs)
        if not (isinstance(result, tuple) and len(result) == 2):
            self._fail("reset", f"returns {_describe_result(result)}, expected 2: (observation, info)")
        self._require("reset", observation=result[0], info=result[1])
        return result

    def step(self, action: Any) -> Any:
        """Make a step."""
        result = self._call("step", self.env.step, action)
        if not (isinstance(result, tuple | list) and len(result) == 5):
            old = isinstance(result, tuple | list) and len(result) == 4
            hint = ", as in the old gym API: done is terminated or truncated" if old else ""
            self._fail("step", f"returns {_describe_result(result)}, expected 5: {EXPECTED}{hint}")
        self._require("step", **dict(zip(("observation", "reward", "terminated", "truncated", "info"), result)))  # noqa: B905
        return result

    def _call(self, method: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except PASSED_ON:
            raise
        except (Exception, SystemExit) as error:  # user code may raise anything
            raise EnvironmentFault(fault_of(error, self.env, method)) from error

    def _require(self, method: str, *, observation: Any, info: Any, **numbers: Any) -> None:
        flaws = {"observation": _observation_flaw(self.declared, observation)}
        flaws |= {name: (_number_flaw if name == "reward" else _flag_flaw)(x) for name, x in numbers.items()}
        flaws["info"] = None if isinstance(info, dict) else f"is {_describe(info)}, expected a dictionary"
        for name, flaw in flaws.items():
            if flaw is not None:
                self._fail(method, f"{NAMES.get(name, name)} {flaw}")

    def _fail(self, method: str, what: str) -> None:
        raise EnvironmentFault(_location(self.env, method) + what)


def _describe_result(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple | list) else _describe(result)


def _require_vector(envs: VectorEnv, obs: Any, reward: Any, *flags: Any) -> None:
    """Check shapes and dtypes of a vector environment's step."""
    expected = (envs.num_envs, *(envs.single_observation_space.shape or ()))
    returned = {"observations": (obs, expected), "rewards": (reward, expected[:1])}
    returned |= {name: (x, expected[:1]) for name, x in zip(("terminated", "truncated"), flags, strict=True)}
    for name, (x, shape) in returned.items():
        seen = np.asarray(x)
        if seen.shape != shape or seen.dtype.kind not in "biuf":
            raise EnvironmentFault(
                f"{_location(envs, 'step')}{name} have shape {seen.shape} and dtype {seen.dtype}; expected numbers of "
                f"shape {shape}"
            )


# Dry run --------------------------------------------------------------------------------------------------------------


def play(envs: VectorEnv, first: Any, watch: Watch, name: str) -> list[np.ndarray]:
    """Make and check a few steps. Returns observations and rewards, for comparison.

    Args:
        envs: freshly reset environments.
        first: their first observations.
        watch: watches their calls.
        name: their id.

    Raises:
        EnvironmentFault: they raised an error, or returned something invalid.
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
    for obs in played:
        if obs.shape[1:] != space.shape:  # rewards
            continue
        outside = (obs < space.low) | (obs > space.high)
        if outside.any():
            where = np.argwhere(outside)[0]
            at = tuple(where[1:].tolist())
            bounds = f"{space.low[at]:g} to {space.high[at]:g}"
            log.warning(
                "env.id=%s: an observation contains %g, outside its space's bounds %s; it is used unchanged",
                name,
                obs[tuple(where)],
                bounds,
            )
            return


def warn_of_randomness(name: str, one: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Warn once of an environment that is not determined by its seed and actions."""
    for a, b in zip(one, other, strict=False):  # the dry run of a slow one may have been shorter
        if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            log.warning(
                "env.id=%s: differs for the same seed and actions, so results cannot be reproduced; draw from "
                "self.np_random, which reset(seed=...) seeds",
                name,
            )
            return
