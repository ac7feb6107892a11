"""What an environment must keep to, whoever wrote it: tried in a few steps before the first one that counts."""

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

STEPS = 8  # tried beforehand
SECONDS = 1.0  # after which a slow one has been tried enough
# raised while an environment runs, and no fault of it
NOT_THEIRS = (UserError, Interrupted, Paused, BdbQuit, torch.OutOfMemoryError)
NAMES = {"observation": "the observation", "reward": "the reward", "info": "its info"}
WANTED = "(observation, reward, terminated, truncated, info)"


def layers(envs: Any) -> Iterator[Any]:
    """One environment and all its wrappers, as far as they can be seen, outermost first."""
    leaf = envs.parts[0] if isinstance(envs, AgentVectorEnv) else envs
    layer = leaf.envs[0] if isinstance(leaf, SyncVectorEnv) else leaf
    while layer is not None:
        if not isinstance(layer, Checked):
            yield layer
        layer = layer.env if isinstance(layer, gym.Wrapper | gym.vector.VectorWrapper) else None


def _place(env: Any, method: str) -> str:
    """Where somebody wrote what is given, in the outermost layer that is not Gymnasium's, to begin a line with."""
    vectors = env.parts if isinstance(env, AgentVectorEnv) else [env]  # a vector class of their own comes first
    for layer in (*vectors, *layers(env)):
        place = where_defined(type(layer), method)
        if place:
            return f"{place}: "
    return f"its {method}: "


def packages_of(env: Any) -> set[str]:
    """The packages that the layers of an environment are part of."""
    return {package_of(kind.__module__) for layer in layers(env) for kind in type(layer).__mro__}


def fault_of(error: BaseException, env: Any, method: str = "step") -> str:
    """What an environment raised, and where in its code, in one line."""
    place = where_raised(error, packages_of(env))
    return f"{f'{place}: ' if place else _place(env, method)}{describe_error(error)}"


def tell(error: BaseException, envs: Any, name: str, method: str = "step") -> NoReturn:
    """Raise what came of a call of environments: of theirs as one line, with the error as its cause.

    Raises:
        EnvironmentFault: naming the id, the file and the line of whoever wrote them.
        BaseException: the error itself, where it is none of theirs.
    """
    if isinstance(error, EnvironmentFault) and not str(error).startswith("env."):
        raise EnvironmentFault(f"env.id={name}: {error}") from error
    if isinstance(error, NOT_THEIRS) or not isinstance(error, Exception | SystemExit):
        raise error
    raise EnvironmentFault(f"env.id={name}: {fault_of(error, envs, method)}") from error


# What it gives -------------------------------------------------------------------------------------------------------


def _named(x: Any) -> str:
    """A value as a line tells it: what it is, where its text would say too little or too much."""
    if x is None or isinstance(x, str | bool | numbers.Number):
        return repr(x)[:40]
    shape = getattr(x, "shape", None)
    return f"a {type(x).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")


def _flawed_number(x: Any) -> str | None:
    if isinstance(x, np.ndarray | np.generic) and x.shape == ():
        x = x.item()
    if isinstance(x, numbers.Real):
        with np.errstate(over="ignore"):
            return None if np.isfinite(np.float32(x)) else f"is {x}, wants one finite number of float32"
    shape = getattr(x, "shape", ())
    if isinstance(x, np.ndarray) and shape:
        return f"has shape {shape}, wants one number" + (": float(reward[0])" if x.size == 1 else "")
    return f"is {_named(x)}, wants one number" + (": reward.item()" if hasattr(x, "requires_grad") else "")


def _flawed_flag(x: Any) -> str | None:
    if isinstance(x, np.ndarray | np.generic) and x.shape == ():
        x = x.item()
    if isinstance(x, numbers.Real) and x in (0, 1):
        return None
    shape = getattr(x, "shape", ())
    return f"has shape {tuple(shape)}, wants True or False" if shape else f"is {_named(x)}, wants True or False"


def _flawed_observation(space: spaces.Space, x: Any) -> str | None:
    try:
        seen = np.asarray(x)
    except Exception:  # a ragged list, a tensor with a gradient
        return f"is {_named(x)}, which makes no array; {space} is promised"
    if isinstance(space, spaces.Tuple | spaces.Dict) or space.shape is None:
        return None  # which are refused as a space
    if seen.dtype.kind not in "biuf":
        return f"is {_named(x)}; {space} is promised"
    if seen.shape != space.shape:
        return f"has shape {seen.shape}; its space promises {space.shape}"
    if space.dtype is not None and not np.can_cast(seen.dtype, space.dtype, "same_kind"):
        return f"is of {seen.dtype}; its space promises {space.dtype}"
    return None


class Checked(gym.Wrapper):
    """Refuses what a reset or a step may not give, in a line that names the class that gave it.

    Raises:
        EnvironmentFault: from `reset` and `step`.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.promised = env.observation_space  # which some make anew each time

    def reset(self, **kwargs: Any) -> Any:
        """Begin an episode."""
        given = self._call("reset", self.env.reset, **kwargs)
        if not (isinstance(given, tuple) and len(given) == 2):
            self._refuse("reset", f"gives {_told_things(given)}, wants 2: (observation, info)")
        self._require("reset", observation=given[0], info=given[1])
        return given

    def step(self, action: Any) -> Any:
        """Make a step."""
        given = self._call("step", self.env.step, action)
        if not (isinstance(given, tuple | list) and len(given) == 5):
            old = isinstance(given, tuple | list) and len(given) == 4
            more = ", as the old gym API does: done is terminated or truncated" if old else ""
            self._refuse("step", f"gives {_told_things(given)}, wants 5: {WANTED}{more}")
        self._require("step", **dict(zip(("observation", "reward", "terminated", "truncated", "info"), given)))  # noqa: B905
        return given

    def _call(self, method: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except NOT_THEIRS:
            raise
        except (Exception, SystemExit) as error:  # whatever somebody else's code raises
            raise EnvironmentFault(fault_of(error, self.env, method)) from error

    def _require(self, method: str, *, observation: Any, info: Any, **numbers: Any) -> None:
        flaws = {"observation": _flawed_observation(self.promised, observation)}
        flaws |= {name: (_flawed_number if name == "reward" else _flawed_flag)(x) for name, x in numbers.items()}
        flaws["info"] = None if isinstance(info, dict) else f"is {_named(info)}, wants a dictionary"
        for name, flaw in flaws.items():
            if flaw is not None:
                self._refuse(method, f"{NAMES.get(name, name)} {flaw}")

    def _refuse(self, method: str, what: str) -> None:
        raise EnvironmentFault(_place(self.env, method) + what)


def _told_things(given: Any) -> str:
    return f"{len(given)} things" if isinstance(given, tuple | list) else _named(given)


def _require_vector(envs: VectorEnv, obs: Any, reward: Any, *flags: Any) -> None:
    """Refuse what a step of a vector class may not give: arrays of other shapes, or of what are no numbers."""
    wanted = (envs.num_envs, *(envs.single_observation_space.shape or ()))
    given = {"observations": (obs, wanted), "rewards": (reward, wanted[:1])}
    given |= {name: (x, wanted[:1]) for name, x in zip(("terminated", "truncated"), flags, strict=True)}
    for name, (x, shape) in given.items():
        seen = np.asarray(x)
        if seen.shape != shape or seen.dtype.kind not in "biuf":
            raise EnvironmentFault(
                f"{_place(envs, 'step')}{name} have shape {seen.shape} and are of {seen.dtype}; {shape} is wanted, of "
                f"numbers"
            )


# Trying it -----------------------------------------------------------------------------------------------------------


def play(envs: VectorEnv, first: Any, watch: Watch, name: str) -> list[np.ndarray]:
    """Make a few steps, each of which is checked. Returns what was seen and given, for comparison.

    Args:
        envs: freshly reset ones.
        first: their first observations.
        watch: of their calls.
        name: their id.

    Raises:
        EnvironmentFault: what they gave cannot be used; or what they raised.
    """
    envs.action_space.seed(0)
    seen = [np.array(first)]
    began = time.monotonic()
    for step in range(STEPS):
        if step > 1 and time.monotonic() - began > SECONDS:
            break
        try:
            given = watch.call(envs.step, envs.action_space.sample())
            _require_vector(envs, *given[:4])
        except (Exception, SystemExit) as error:
            tell(error, envs, name)
        seen += [np.array(given[0]), np.array(given[1], float)]
    return seen


def warn_of_bounds(name: str, space: spaces.Space, played: list[np.ndarray]) -> None:
    """Tell once of observations outside of the bounds that a Box promises: many give them, and a network reads them."""
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
                "env.id=%s: an observation has %g where its space promises %s; it is read as it is",
                name,
                obs[tuple(where)],
                bounds,
            )
            return


def warn_of_chance(name: str, one: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Tell once of an environment that is another one for the same seed and the same actions."""
    for a, b in zip(one, other, strict=False):  # a slow one may have been stopped before
        if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            log.warning(
                "env.id=%s: is another one with the same seed and the same actions, so that no result can be made "
                "again; draw from self.np_random, which reset(seed=...) seeds",
                name,
            )
            return
