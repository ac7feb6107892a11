"""The environment factory: any registered id, on one of three backends, seeded per agent."""

import contextlib
import importlib
import importlib.util
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlexp.config.imports import import_error, missing_module
from rlexp.envs import checks
from rlexp.envs.agents import AgentVectorEnv
from rlexp.envs.classic_control import WORLDS, World
from rlexp.envs.processes import ProcessVectorEnv
from rlexp.envs.torch_vector import TorchVectorEnv
from rlexp.errors import ConfigError, EnvironmentFault
from rlexp.spaces import require_readable
from rlexp.text import closest, nearest, one_line
from rlexp.user_code import describe_error, package_of, where_raised
from rlexp.watch import Watch

CLIPPING = ("reward_clipping", "reward_clip")  # its names in ALE's and envpool's vector classes


# id prefix -> the module that registers it, and the pip extra that installs it
HOMES = {"ALE/": ("ale_py", "atari"), "MiniGrid-": ("minigrid", ""), "BabyAI-": ("minigrid", "")}
MODULES = {"mujoco": "mujoco", "box2d": "Box2D", "atari": "ale_py"}  # pip extra -> module that it installs


def is_missing(extra: str | None) -> bool:
    """Whether a known pip extra is not installed."""
    return extra in MODULES and importlib.util.find_spec(MODULES[extra]) is None


@dataclass(kw_only=True)
class Environment:
    """Makes environments, and holds the settings of their observations and rewards.

    Fields are explained in conf/env/cartpole.yaml.

    Raises:
        ConfigError: an unknown id, a missing extra, or a setting out of range.
    """

    id: str
    backend: Literal["auto", "gymnasium", "envpool", "torch"] = "auto"
    num_envs: int = 8
    vectorization: Literal["auto", "vector", "sync", "async"] = "auto"
    kwargs: dict[str, Any] = field(default_factory=dict)
    normalize_obs: bool = False
    clip_obs: float = 10.0
    normalize_reward: bool = False
    clip_reward: float = 10.0
    sign_reward: bool = False
    timeout: float | None = None
    extra: str | None = None
    threshold: float | None = None
    bounds: list[float] | None = None

    def __post_init__(self) -> None:
        """Check the id and ranges; no environment is made."""
        if self.num_envs < 1:
            raise ConfigError(f"env.num_envs={self.num_envs}: must be at least 1")
        for name in ("clip_obs", "clip_reward"):
            if not getattr(self, name) > 0:  # not a number is not positive either
                raise ConfigError(f"env.{name}={getattr(self, name)}: must be positive")
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"env.timeout={self.timeout}: must be positive, in seconds, or null")
        if self.sign_reward and self.normalize_reward:
            raise ConfigError(
                "env.sign_reward=true: cannot be combined with env.normalize_reward=true; set one to false"
            )
        self._check_backend()
        if self.backend != "envpool" and is_missing(self.extra):
            raise ConfigError(
                f"env.id={self.id}: needs the extra {self.extra}, which is not installed: "
                f"pip install 'rlexp[{self.extra}]'"
            )
        if self.bounds is not None and not (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise ConfigError(f"env.bounds={self.bounds}: must be [low, high] with low < high, or null")
        known = self._known_ids()
        if self.name not in known:
            raise ConfigError(f"env.id={self.id}: {self._unknown(known)}")

    def _unknown(self, known: list[str]) -> str:
        """Error message for an unknown id."""
        who = {"envpool": "envpool has", "torch": "env.backend=torch knows"}.get(self.backend, "Gymnasium knows")
        module, extra = next((home for start, home in HOMES.items() if self.id.startswith(start)), ("", ""))
        if module and self.backend in ("auto", "gymnasium"):
            if importlib.util.find_spec(module) is None:
                package = f"'rlexp[{extra}]'" if extra else module
                return f"needs {module}, which is not installed: pip install {package}; then env.id={module}:{self.id}"
            return f"is registered by {module}; use env.id={module}:{self.id}"
        near = closest(self.name, known, cutoff=0.4)
        hint = f"did you mean {near}?" if near else "prefix your own with its module, e.g. my_package:MyEnv-v0"
        return f"{who} no such environment; {hint}"

    def _check_backend(self) -> None:
        """Reject settings that the backend would ignore, and clipping that would affect recorded returns."""
        for name, clipped in self.kwargs.items():
            if name in CLIPPING and clipped:
                raise ConfigError(
                    f"env.kwargs.{name}={clipped}: would clip recorded returns; env.sign_reward=true clips for the "
                    "learner only"
                )
        if self.backend in ("torch", "envpool") and self.vectorization != "auto":
            raise ConfigError(
                f"env.vectorization={self.vectorization}: has no effect with env.backend={self.backend}; use auto, or "
                "env.backend=gymnasium"
            )
        if self.backend == "torch" and self.id in WORLDS and not is_gymnasiums(self.id):
            raise ConfigError(
                f"env.id={self.id}: another environment than Gymnasium's is registered under this id, and "
                f"env.backend=torch implements Gymnasium's; use env.backend=gymnasium"
            )
        if self.backend == "torch" and self.kwargs:
            raise ConfigError(f"env.kwargs={self.kwargs}: env.backend=torch takes none; use env.backend=gymnasium")

    @property
    def name(self) -> str:
        """The id without the module that registers it."""
        return self.id.rpartition(":")[2]

    def _import(self, module: str) -> Any:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            name = error.name or module
            if not isinstance(error, ModuleNotFoundError):
                raise ConfigError(f"env.id={self.id}: cannot be imported: {import_error(error, module)}") from None
            if "." in name:  # of an installed package
                raise ConfigError(f"env.id={self.id}: {missing_module(name)}") from None
            extra = self.extra if module != "envpool" else "envpool"
            remedy = f"pip install 'rlexp[{extra}]'" if extra else f"install {name}"
            raise ConfigError(f"env.id={self.id}: needs {name}, which is not installed: {remedy}") from None

    def _known_ids(self) -> list[str]:
        if self.backend == "envpool":
            return list(self._import("envpool").list_all_envs())
        module = self.id.rpartition(":")[0]
        if self.backend == "torch":
            return [] if module else list(WORLDS)  # torch implements Gymnasium's environments, not a module's
        if module:
            gym.register_envs(self._import(module))
        return list(gym.registry)

    @property
    def world(self) -> World | None:
        """Torch dynamics, where the backend has them: steps compile together with the policy."""
        plain = not self.kwargs and self.vectorization == "auto"  # a world supports neither
        known = self.id in WORLDS and is_gymnasiums(self.id)
        use_torch = self.backend == "torch" or (self.backend == "auto" and known and plain)
        return WORLDS[self.name]() if use_torch else None

    def probe(self, watch: Watch | None = None) -> tuple[spaces.Space, spaces.Space]:
        """Observation and action space, read from temporary environments.

        Args:
            watch: watches their calls.

        Raises:
            ConfigError: training and evaluation environments would differ.
            EnvironmentFault: their first reset returns something invalid.
        """
        watch = watch or Watch()
        found = []
        for independent in (False, True):
            envs, _ = watch.call(self.start, [[0]], independent=independent, checked=True)
            names = [f"{type(x).__module__}.{type(x).__qualname__}" for x in checks.layers(envs)]
            found.append((envs.single_observation_space, envs.single_action_space, names))
            envs.close()
        training, evaluation = found
        if training[:2] != evaluation[:2] or (training[2] != evaluation[2] and self.world is None):
            raise ConfigError(
                f"env.id={self.id}: training and evaluation environments differ: {_describe(*training)} in training, "
                f"{_describe(*evaluation)} in evaluation; env.vectorization=sync uses the same for both"
            )
        return training[:2]

    def try_steps(self, watch: Watch | None = None) -> None:
        """Dry run of a few steps in temporary environments, made as for training and as for evaluation.

        Args:
            watch: watches their calls.

        Raises:
            EnvironmentFault: they raise an error, or return something invalid.
        """
        if self.world is not None:  # trusted code
            return
        watch = watch or Watch()
        seen = []
        for independent in (False, True):
            envs, first = watch.call(self.start, [[0]], independent=independent, checked=True)
            try:
                space = envs.single_observation_space
                seen.append(checks.play(envs, first, watch, self.id))
            finally:
                with contextlib.suppress(Exception):
                    envs.close()
        checks.warn_of_bounds(self.id, space, seen[0])
        checks.warn_of_randomness(self.id, *seen)

    @property
    def evaluation_envs(self) -> int | None:
        """Episodes that each agent plays at a time in evaluation; None: all at once.

        As many as in training where each costs a process or thread.
        """
        return self.num_envs if self.vectorization == "async" or self._mode() == "vector" else None

    def start(
        self,
        seeds: list[list[int]],
        *,
        independent: bool = False,
        device: torch.device | None = None,
        checked: bool = False,
    ) -> tuple[VectorEnv, np.ndarray]:
        """A × E environments, reset, and their first observations (A·E, ...).

        Args:
            seeds: one list per agent, one seed per environment.
            independent: for evaluation: every environment depends on its seed alone, even if the id has a vector
                class with a single random stream; Gymnasium's environments replace torch worlds.
            device: of torch worlds; default: the host.
            checked: validate what every reset and step returns, which costs time.

        Raises:
            ConfigError: the environment cannot be made, or its autoreset mode is not NEXT_STEP.
            EnvironmentFault: it raises an error while being made or in its first reset.
        """
        try:
            envs, first = self._make(seeds, independent, device or torch.device("cpu"), checked)
        except checks.PASSED_ON:
            raise
        except (Exception, SystemExit) as error:
            location = where_raised(error, self._packages())
            needs_more = isinstance(error, gym.error.Error | ImportError)
            if location and not needs_more:  # in user code
                raise EnvironmentFault(
                    f"env.id={self.id}: cannot be made: {location}: {describe_error(error)}"
                ) from error
            self._require_taken(error)
            line = one_line(str(error)) or type(error).__name__
            if isinstance(error, gym.error.DependencyNotInstalled | ImportError) and self.extra:
                line = f"{line.partition(', run')[0]}; pip install 'rlexp[{self.extra}]'"  # one remedy, not two
            raise ConfigError(f"env.id={self.id}: cannot be made: {line}") from error
        mode = envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
            envs.close()
            raise ConfigError(f"env.id={self.id}: its autoreset mode is {mode}; only NEXT_STEP is supported")
        try:
            require_readable(envs.single_observation_space)
            obs = envs.reset(seed=first)[0]
            self._check_first(envs, obs)
            return envs, obs
        except BaseException as error:
            with contextlib.suppress(Exception):
                envs.close()
            checks.raise_fault(error, envs, self.id, "reset")

    def _require_taken(self, error: BaseException) -> None:
        """Raise a ConfigError if an error is about an unknown key of `env.kwargs`.

        Raises:
            ConfigError: the environment takes no such argument.
        """
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        spec = gym.registry.get(self.name)
        if unknown is None or unknown[1] not in self.kwargs or spec is None or self.backend == "envpool":
            return
        entry = spec.vector_entry_point if self._mode() == "vector" else spec.entry_point
        kind = load_env_creator(entry) if isinstance(entry, str) else entry
        known = {*_parameters(kind), "max_episode_steps"} - {"self", "args", "kwargs", "num_envs", "render_mode"}
        name = getattr(kind, "__name__", self.name)
        raise ConfigError(
            f"env.kwargs.{unknown[1]}={self.kwargs[unknown[1]]}: {name} takes no {unknown[1]}; "
            f"{nearest(unknown[1], sorted(known))}"
        ) from error

    def _packages(self) -> set[str]:
        """Packages that may contain the environment's code."""
        entry = getattr(gym.registry.get(self.name), "entry_point", None)
        module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
        return {package_of(self.id.rpartition(":")[0]), package_of(module or "")} - {""}

    def _check_first(self, envs: VectorEnv, obs: Any) -> None:
        """Check the first observations.

        Raises:
            EnvironmentFault: their shape does not match the space, or they are not finite.
        """
        expected = (envs.num_envs, *(envs.single_observation_space.shape or ()))
        if np.shape(obs) != expected:
            raise EnvironmentFault(
                f"env.id={self.id}: its first observations have shape {np.shape(obs)}; its space requires {expected}"
            )
        if np.asarray(obs).dtype.kind == "f" and not np.isfinite(obs).all():
            raise EnvironmentFault(f"env.id={self.id}: its first observations are not finite; fix its reset")

    def _make(
        self, seeds: list[list[int]], independent: bool, device: torch.device, checked: bool
    ) -> tuple[VectorEnv, Any]:
        """Environments, and the `seed` argument of their first reset."""
        flat = [seed for agent in seeds for seed in agent]
        if self.backend == "envpool":
            envpool = self._import("envpool")
            with warnings.catch_warnings():  # "precision lowered", for every Box of every pool
                warnings.filterwarnings("ignore", message=".*precision lowered by casting")
                pool = envpool.make_gymnasium(self.name, num_envs=len(flat), env_seed=flat, **self.kwargs)
                return AgentVectorEnv([pool]), None
        if self.world is not None and not independent:  # evaluation uses Gymnasium's
            worlds = TorchVectorEnv(self.world, gym.spec(self.name), (len(seeds), len(seeds[0])), device)
            return worlds, [agent[0] for agent in seeds]
        if self._mode() == "vector":
            groups = [[seed] for seed in flat] if independent else seeds
            parts = [self._vector(len(group)) for group in groups]
            firsts = [group[0] for group in groups]
            return (parts[0], firsts[0]) if len(parts) == 1 else (AgentVectorEnv(parts), firsts)
        make: Callable[[], Any] = partial(gym.make, self.name, disable_env_checker=True, **self.kwargs)
        if self.vectorization == "async":  # by the full id, as a subprocess may not have imported its module
            make = partial(gym.make, self.id, disable_env_checker=True, **self.kwargs)
            return ProcessVectorEnv([make] * len(flat)), list(flat)
        if checked:
            make = partial(_checked, make)
        # One per agent, so that agents' states are separate. copy=False: the collector copies what it keeps before the
        # next step.
        shares = [flat] if independent else seeds
        copies: list[VectorEnv] = [
            SyncVectorEnv([make] * len(share), copy=False, autoreset_mode=AutoresetMode.NEXT_STEP) for share in shares
        ]
        return (copies[0], shares[0]) if len(copies) == 1 else (AgentVectorEnv(copies), shares)

    def _mode(self) -> str:
        """Which kind of vector is made, for both training and evaluation."""
        if self.vectorization != "auto" or self.backend == "envpool":
            return self.vectorization
        spec = gym.spec(self.name)  # additional wrappers work on single environments only
        has_vector = self.world is None and spec.vector_entry_point is not None and not spec.additional_wrappers
        return "vector" if has_vector else "sync"

    def _vector(self, num_envs: int) -> VectorEnv:
        """The id's vector class, with reward clipping off: its rewards are recorded."""
        entry = gym.spec(self.name).vector_entry_point
        kind = load_env_creator(entry) if isinstance(entry, str) else entry
        takes = _parameters(kind)
        kwargs: dict[str, Any] = {name: False for name in CLIPPING if name in takes} | self.kwargs
        return gym.make_vec(self.name, num_envs, "vector_entry_point", **kwargs)


def is_gymnasiums(name: str) -> bool:
    """Whether a registered id is Gymnasium's environment, with its original time limit."""
    spec = gym.registry.get(name)
    entry = getattr(spec, "entry_point", None)
    limit = WORLDS[name].max_steps if name in WORLDS else None
    return (
        isinstance(entry, str)
        and entry.startswith("gymnasium.envs.")
        and spec is not None
        and (limit is None or spec.max_episode_steps == limit)
    )


def _parameters(kind: Any) -> set[str]:
    """Parameter names of a class or function; if a class forwards **kwargs, those of its bases, too."""
    if not callable(kind):
        return set()
    makers = (
        [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
        if inspect.isclass(kind)
        else [kind]
    )
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


def _checked(make: Callable[[], Any]) -> checks.Checked:
    return checks.Checked(make())


def _describe(observations: spaces.Space, actions: spaces.Space, layers: list[str]) -> str:
    names = " of ".join(name.rpartition(".")[2] for name in layers)
    return f"{names} with observations {observations.shape} {observations.dtype} and actions {actions}"
