"""The environment factory: any registered id, on one of three backends, seeded agent by agent."""

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
from rlexp.config.signatures import nearest
from rlexp.envs import checks
from rlexp.envs.agents import AgentVectorEnv
from rlexp.envs.classic_control import WORLDS, World
from rlexp.envs.processes import ProcessVectorEnv
from rlexp.envs.torch_vector import TorchVectorEnv
from rlexp.errors import ConfigError, EnvironmentFault
from rlexp.spaces import require_readable
from rlexp.text import closest, one_line
from rlexp.user_code import describe_error, package_of, where_raised
from rlexp.watch import Watch

CLIPPING = ("reward_clipping", "reward_clip")  # what ALE's and envpool's vectors call it


# What registers ids that begin so, and the pip extra that brings it
HOMES = {"ALE/": ("ale_py", "atari"), "MiniGrid-": ("minigrid", ""), "BabyAI-": ("minigrid", "")}
MODULES = {"mujoco": "mujoco", "box2d": "Box2D", "atari": "ale_py"}  # that pip extras bring


def is_missing(extra: str | None) -> bool:
    """Whether what a pip extra brings is not there, as far as it is known."""
    return extra in MODULES and importlib.util.find_spec(MODULES[extra]) is None


@dataclass(kw_only=True)
class Environment:
    """How to make environments, and what is done to their observations and rewards.

    Each field is explained in conf/env/cartpole.yaml.

    Raises:
        ConfigError: an unknown id, a missing extra, or a setting out of range, named.
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
        """Check the id and the ranges; no environment is made."""
        if self.num_envs < 1:
            raise ConfigError(f"env.num_envs={self.num_envs}: must be at least 1")
        for name in ("clip_obs", "clip_reward"):
            if not getattr(self, name) > 0:  # not a number is not positive either
                raise ConfigError(f"env.{name}={getattr(self, name)}: must be positive")
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"env.timeout={self.timeout}: must be positive, in seconds, or null")
        if self.sign_reward and self.normalize_reward:
            raise ConfigError("env.sign_reward=true: learns from signs, which env.normalize_reward=true would rescale")
        self._check_backend()
        if self.backend != "envpool" and is_missing(self.extra):
            raise ConfigError(
                f"env.id={self.id}: needs the extra {self.extra}, which is not installed: "
                f"pip install 'rlexp[{self.extra}]'"
            )
        if self.bounds is not None and not (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise ConfigError(f"env.bounds={self.bounds}: must be two numbers, the lower first, or null")
        known = self._known_ids()
        if self.name not in known:
            raise ConfigError(f"env.id={self.id}: {self._unknown(known)}")

    def _unknown(self, known: list[str]) -> str:
        """What is told of an id that is not among the known ones."""
        who = {"envpool": "envpool has", "torch": "env.backend=torch knows"}.get(self.backend, "Gymnasium knows")
        module, extra = next((home for start, home in HOMES.items() if self.id.startswith(start)), ("", ""))
        if module and self.backend in ("auto", "gymnasium"):
            if importlib.util.find_spec(module) is None:
                package = f"'rlexp[{extra}]'" if extra else module
                return f"needs {module}, which is not installed: pip install {package}; then env.id={module}:{self.id}"
            return f"is registered by {module}, which must be said: env.id={module}:{self.id}"
        near = closest(self.name, known, cutoff=0.4)
        hint = f"did you mean {near}?" if near else "one of your own is named with its module, their_pkg:Theirs-v0"
        return f"{who} no such environment; {hint}"

    def _check_backend(self) -> None:
        """Refuse what the backend would not heed, and clipping that would reach recorded returns."""
        for name, clipped in self.kwargs.items():
            if name in CLIPPING and clipped:
                raise ConfigError(
                    f"env.kwargs.{name}={clipped}: recorded returns are the game's own; env.sign_reward=true clips for "
                    "the learner alone"
                )
        if self.backend in ("torch", "envpool") and self.vectorization != "auto":
            raise ConfigError(
                f"env.vectorization={self.vectorization}: env.backend={self.backend} has one way of its own; use auto, "
                "or env.backend=gymnasium"
            )
        if self.backend == "torch" and self.id in WORLDS and not is_gymnasiums(self.id):
            raise ConfigError(
                f"env.id={self.id}: somebody registered another environment under it than the one that is written in "
                f"torch; use env.backend=gymnasium"
            )
        if self.backend == "torch" and self.kwargs:
            raise ConfigError(
                f"env.kwargs={self.kwargs}: environments written in torch take none; use env.backend=gymnasium"
            )

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
            if "." in name:  # a package that is there
                raise ConfigError(f"env.id={self.id}: {missing_module(name)}") from None
            extra = self.extra if module != "envpool" else "envpool"
            way = f"pip install 'rlexp[{extra}]'" if extra else f"install {name}"
            raise ConfigError(f"env.id={self.id}: needs {name}, which is not installed: {way}") from None

    def _known_ids(self) -> list[str]:
        if self.backend == "envpool":
            return list(self._import("envpool").list_all_envs())
        module = self.id.rpartition(":")[0]
        if self.backend == "torch":
            return [] if module else list(WORLDS)  # a module's own environment is not the one that is written in torch
        if module:
            gym.register_envs(self._import(module))
        return list(gym.registry)

    @property
    def world(self) -> World | None:
        """Dynamics in torch, where the backend has them: steps compile together with the policy."""
        plain = not self.kwargs and self.vectorization == "auto"  # a world knows nothing of either
        own = self.id in WORLDS and is_gymnasiums(self.id)
        wanted = self.backend == "torch" or (self.backend == "auto" and own and plain)
        return WORLDS[self.name]() if wanted else None

    def probe(self, watch: Watch | None = None) -> tuple[spaces.Space, spaces.Space]:
        """Observation and action space, read from environments that are closed again.

        Args:
            watch: of their calls.

        Raises:
            ConfigError: evaluation would play other environments than training.
            EnvironmentFault: what their first reset gives cannot be used.
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
                f"env.id={self.id}: evaluation would not play what training does: {_told(*training)} in training, "
                f"{_told(*evaluation)} in evaluation; env.vectorization=sync takes the same for both"
            )
        return training[:2]

    def try_steps(self, watch: Watch | None = None) -> None:
        """Make a few steps of environments like those of training, and of evaluation, which are closed again.

        Args:
            watch: of their calls.

        Raises:
            EnvironmentFault: what they give cannot be used, or they raise.
        """
        if self.world is not None:  # whose environments are Gymnasium's own
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
        checks.warn_of_chance(self.id, *seen)

    @property
    def evaluated_together(self) -> int | None:
        """Episodes that each agent plays at a time in evaluation; None: all at once.

        Environments in processes, and pools of threads, are as many as in training.
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
        """A × E environments, reset; and their first observations (A·E, ...).

        Args:
            seeds: one list an agent, one seed an environment.
            independent: for evaluation: every environment draws from its own seed alone, also where the id has a
                vector class with one random stream for the whole vector; and worlds in torch give way to the
                environments that they were written after.
            device: where worlds in torch live; the host unless told otherwise.
            checked: each environment refuses what its resets and steps may not give, which takes a moment.

        Raises:
            ConfigError: the environment cannot be made, or does not reset at the next step.
            EnvironmentFault: it raises as it is made or in its first reset.
        """
        try:
            envs, first = self._make(seeds, independent, device or torch.device("cpu"), checked)
        except checks.NOT_THEIRS:
            raise
        except (Exception, SystemExit) as error:
            place = where_raised(error, self._packages())
            needs_more = isinstance(error, gym.error.Error | ImportError)
            if place and not needs_more:  # in its own code
                raise EnvironmentFault(f"env.id={self.id}: cannot be made: {place}: {describe_error(error)}") from error
            self._require_taken(error)
            line = one_line(str(error)) or type(error).__name__
            if isinstance(error, gym.error.DependencyNotInstalled | ImportError) and self.extra:
                line = f"{line.partition(', run')[0]}; pip install 'rlexp[{self.extra}]'"  # one way out, not two
            raise ConfigError(f"env.id={self.id}: cannot be made: {line}") from error
        mode = envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
            envs.close()
            raise ConfigError(f"env.id={self.id}: its autoreset mode is {mode}; only NEXT_STEP is understood")
        try:
            require_readable(envs.single_observation_space)
            obs = envs.reset(seed=first)[0]
            self._check_first(envs, obs)
            return envs, obs
        except BaseException as error:
            with contextlib.suppress(Exception):
                envs.close()
            checks.tell(error, envs, self.id, "reset")

    def _require_taken(self, error: BaseException) -> None:
        """Name the key of `env.kwargs` that an error is about, if it is about one.

        Raises:
            ConfigError: the environment takes no such thing.
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
        """The packages in which the environment may be written."""
        entry = getattr(gym.registry.get(self.name), "entry_point", None)
        module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
        return {package_of(self.id.rpartition(":")[0]), package_of(module or "")} - {""}

    def _check_first(self, envs: VectorEnv, obs: Any) -> None:
        """Refuse first observations that are not what the space says.

        Raises:
            EnvironmentFault: naming their shape, or that they are not finite.
        """
        wanted = (envs.num_envs, *(envs.single_observation_space.shape or ()))
        if np.shape(obs) != wanted:
            raise EnvironmentFault(
                f"env.id={self.id}: its first observations have shape {np.shape(obs)}; its spaces promise {wanted}"
            )
        if np.asarray(obs).dtype.kind == "f" and not np.isfinite(obs).all():
            raise EnvironmentFault(f"env.id={self.id}: its first observations are not finite; mend its reset")

    def _make(
        self, seeds: list[list[int]], independent: bool, device: torch.device, checked: bool
    ) -> tuple[VectorEnv, Any]:
        """Environments, and what their first reset is given as seed."""
        flat = [seed for agent in seeds for seed in agent]
        if self.backend == "envpool":
            envpool = self._import("envpool")
            with warnings.catch_warnings():  # that bounds lose precision, for every Box of every pool
                warnings.filterwarnings("ignore", message=".*precision lowered by casting")
                pool = envpool.make_gymnasium(self.name, num_envs=len(flat), env_seed=flat, **self.kwargs)
                return AgentVectorEnv([pool]), None
        if self.world is not None and not independent:  # evaluation plays Gymnasium's own
            worlds = TorchVectorEnv(self.world, gym.spec(self.name), (len(seeds), len(seeds[0])), device)
            return worlds, [agent[0] for agent in seeds]
        if self._mode() == "vector":
            groups = [[seed] for seed in flat] if independent else seeds
            parts = [self._vector(len(group)) for group in groups]
            firsts = [group[0] for group in groups]
            return (parts[0], firsts[0]) if len(parts) == 1 else (AgentVectorEnv(parts), firsts)
        make: Callable[[], Any] = partial(gym.make, self.name, disable_env_checker=True, **self.kwargs)
        if self.vectorization == "async":  # by the whole id, as a process may not have imported its module
            elsewhere = partial(gym.make, self.id, disable_env_checker=True, **self.kwargs)
            return ProcessVectorEnv([elsewhere] * len(flat)), list(flat)
        if checked:
            make = partial(_checked, make)
        # One an agent, whose state is then a thing of its own. copy=False: the collector copies what it keeps before it
        # steps again.
        shares = [flat] if independent else seeds
        copies: list[VectorEnv] = [
            SyncVectorEnv([make] * len(share), copy=False, autoreset_mode=AutoresetMode.NEXT_STEP) for share in shares
        ]
        return (copies[0], shares[0]) if len(copies) == 1 else (AgentVectorEnv(copies), shares)

    def _mode(self) -> str:
        """Which kind of vector is made, for training and evaluation alike."""
        if self.vectorization != "auto" or self.backend == "envpool":
            return self.vectorization
        spec = gym.spec(self.name)  # whose additional wrappers are for single environments
        has_vector = self.world is None and spec.vector_entry_point is not None and not spec.additional_wrappers
        return "vector" if has_vector else "sync"

    def _vector(self, num_envs: int) -> VectorEnv:
        """The id's own vector class, told not to clip rewards where it can: what it gives is what is recorded."""
        entry = gym.spec(self.name).vector_entry_point
        kind = load_env_creator(entry) if isinstance(entry, str) else entry
        takes = _parameters(kind)
        kwargs: dict[str, Any] = {name: False for name in CLIPPING if name in takes} | self.kwargs
        return gym.make_vec(self.name, num_envs, "vector_entry_point", **kwargs)


def is_gymnasiums(name: str) -> bool:
    """Whether a registered id stands for Gymnasium's own environment, with its own time limit."""
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
    """Names of what a class or function takes; of a class that hands on what it does not know, those of its bases."""
    if not callable(kind):
        return set()
    makers = (
        [vars(own)["__init__"] for own in kind.__mro__ if "__init__" in vars(own)] if inspect.isclass(kind) else [kind]
    )
    found: set[str] = set()
    for make in makers:
        try:
            parameters = inspect.signature(make).parameters
        except ValueError:  # C's
            break
        found |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return found


def _checked(make: Callable[[], Any]) -> checks.Checked:
    return checks.Checked(make())


def _told(observations: spaces.Space, actions: spaces.Space, layers: list[str]) -> str:
    names = " of ".join(name.rpartition(".")[2] for name in layers)
    return f"{names} with observations {observations.shape} {observations.dtype} and actions {actions}"
