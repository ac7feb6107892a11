"""The environment factory: any registered id, on one of three backends, seeded per agent."""

import contextlib
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlexp.envs import checks
from rlexp.envs.agents import AgentVectorEnv
from rlexp.envs.classic_control import WORLDS, World
from rlexp.envs.ids import cannot_be_made, has_world, parameter_names, require_drawable
from rlexp.envs.processes import ProcessVectorEnv
from rlexp.envs.settings import CLIPPING, TIME_LIMIT, EnvironmentSettings
from rlexp.envs.torch_vector import TorchVectorEnv
from rlexp.errors import ConfigError, EnvironmentFault
from rlexp.spaces import require_readable
from rlexp.watch import Watch


@dataclass(kw_only=True)
class Environment(EnvironmentSettings):
    """Makes environments of its settings."""

    @property
    def world(self) -> World | None:
        """Torch dynamics, where the backend has them: steps compile together with the policy."""
        # a world supports nothing else
        plain = not set(self.kwargs) - {TIME_LIMIT} and self.vectorization == "auto" and not self.wrappers
        if not (self.backend == "torch" or (self.backend == "auto" and plain and has_world(self.id))):
            return None
        world = WORLDS[self.name]()
        world.max_steps = self.kwargs.get(TIME_LIMIT, world.max_steps)
        return world

    @contextlib.contextmanager
    def _trial(self, independent: bool, watch: Watch) -> Iterator[tuple[VectorEnv, np.ndarray]]:
        """Temporary environments, made as for evaluation if `independent`, else as for training."""
        envs, first = watch.call(self.start, [[0]], independent=independent, checked=True)
        try:
            yield envs, first
        finally:
            with contextlib.suppress(Exception):
                envs.close()

    def probe(self, watch: Watch | None = None) -> tuple[spaces.Space, spaces.Space]:
        """Observation and action space, read from temporary environments; watch: of their calls.

        Raises:
            ConfigError: training and evaluation environments would differ.
            EnvironmentFault: their first reset returns something invalid.
        """
        found = []
        for independent in (False, True):
            with self._trial(independent, watch or Watch()) as (envs, _):
                names = [f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in checks.layers(envs)]
                found.append((envs.single_observation_space, envs.single_action_space, names))
        training, evaluation = found
        if training[:2] != evaluation[:2] or (training[2] != evaluation[2] and self.world is None):
            told = []
            for where, (obs, actions, names) in zip(("training", "evaluation"), found, strict=True):
                layers = " of ".join(name.rpartition(".")[2] for name in names)
                told.append(f"{layers} with observations {obs.shape} {obs.dtype} and actions {actions} in {where}")
            what = f"{', '.join(told)}; env.vectorization=sync uses the same for both"
            raise ConfigError(f"env.id={self.id}: training and evaluation environments differ: {what}")
        return training[:2]

    def try_steps(self, watch: Watch | None = None) -> None:
        """Dry run of a few steps in temporary environments, made as for training and as for evaluation.

        Raises EnvironmentFault if they raise an error, or return something invalid.
        """
        if self.world is not None:  # trusted code
            return
        watch = watch or Watch()
        seen = []
        for independent in (False, True):
            with self._trial(independent, watch) as (envs, first):
                seen.append(checks.play(envs, first, watch, self.id))
        checks.warn_of_bounds(self.id, envs.single_observation_space, seen[0])
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
        rendered: bool = False,
        share: slice = slice(None),
    ) -> tuple[VectorEnv, np.ndarray]:
        """A × E environments, reset, and their first observations (A·E, ...).

        Args:
            seeds: one list per agent, one seed per environment.
            independent: for evaluation: every environment depends on its seed alone, even if the id has a vector
                class with a single random stream; Gymnasium's environments replace torch worlds.
            device: of torch worlds; default: the host.
            checked: validate what every reset and step returns, which costs time.
            rendered: for evaluation, one environment per agent, whose `render` returns pictures.
            share: of each agent's environments, those that are made; seeds are of all.

        Raises:
            ConfigError: the environment cannot be made, or rendered, or its autoreset mode is not NEXT_STEP.
            EnvironmentFault: it raises an error while being made or in its first reset.
        """
        return self._start(seeds, independent, device or torch.device("cpu"), checked, rendered, share)[:2]

    def start_again(
        self, seeds: list[list[int]]
    ) -> tuple[VectorEnv, np.ndarray, Callable[[list[list[int]]], np.ndarray] | None]:
        """As `start`, and a function that resets them to other seeds; None if that takes new environments."""
        envs, obs, first = self._start(seeds, False, torch.device("cpu"), False)
        return envs, obs, None if self.backend == "envpool" else lambda seeds: self._reset(envs, first(seeds))

    def _start(
        self,
        seeds: list[list[int]],
        independent: bool,
        device: torch.device,
        checked: bool,
        rendered: bool = False,
        share: slice = slice(None),
    ) -> tuple[VectorEnv, np.ndarray, Callable[[list[list[int]]], Any]]:
        try:
            envs, first = self._pictured(seeds) if rendered else self._make(seeds, independent, device, checked, share)
        except checks.PASSED_ON:
            raise
        except (Exception, SystemExit) as error:
            kwargs = {} if self.backend == "envpool" else self.kwargs
            raise cannot_be_made(error, self.id, self.extra, kwargs, self._maker) from error
        mode = envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
            checks.close(envs, self.id)
            raise ConfigError(f"env.id={self.id}: its autoreset mode is {mode}; only NEXT_STEP is supported")
        try:
            require_readable(envs.single_observation_space)
            return envs, self._reset(envs, first(seeds)), first
        except BaseException:
            with contextlib.suppress(Exception):
                envs.close()
            raise

    def _reset(self, envs: VectorEnv, first: Any) -> np.ndarray:
        try:
            obs = envs.reset(seed=first)[0]
            shape, wanted = np.shape(obs), (envs.num_envs, *(envs.single_observation_space.shape or ()))
            if shape != wanted:
                what = f"its first observations have shape {shape}; its space requires {wanted}"
                raise EnvironmentFault(f"env.id={self.id}: {what}")
            if np.asarray(obs).dtype.kind == "f" and not np.isfinite(obs).all():
                raise EnvironmentFault(f"env.id={self.id}: its first observations are not finite; fix its reset")
            return obs
        except BaseException as error:
            checks.raise_fault(error, envs, self.id, "reset")

    def _make(
        self, seeds: list[list[int]], independent: bool, device: torch.device, checked: bool, share: slice
    ) -> tuple[VectorEnv, Callable[[list[list[int]]], Any]]:
        """Environments, and the `seed` argument of their first reset as a function of `seeds`."""

        def flatten(seeds: list[list[int]]) -> list[int]:
            return [seed for agent in seeds for seed in agent[share]]

        def shares(seeds: list[list[int]]) -> list[list[int]]:  # one per part
            if not independent:
                return [agent[share] for agent in seeds]
            return [[seed] for seed in flatten(seeds)] if self._mode() == "vector" else [flatten(seeds)]

        flat = flatten(seeds)
        if self.backend == "envpool":
            with warnings.catch_warnings():  # "precision lowered", for every Box of every pool
                warnings.filterwarnings("ignore", message=".*precision lowered by casting")
                return AgentVectorEnv([self._pool(flat)]), lambda _: None
        world = None if independent else self.world  # evaluation uses Gymnasium's
        if world is not None:
            worlds = TorchVectorEnv(world, gym.spec(self.name), (len(seeds), len(seeds[0])), device, share)
            return worlds, lambda seeds: [agent[0] for agent in seeds]
        if self.vectorization == "async":  # by the full id, as a subprocess may not have imported its module
            make: Callable[[], Any] = partial(_single, self.id, self.kwargs, self.wrappers)
            return ProcessVectorEnv([make] * len(flat)), flatten
        parts: list[VectorEnv]
        if self._mode() == "vector":
            parts = [self._vector(len(part), independent) for part in shares(seeds)]
        else:
            plain = partial(_single, self.name, self.kwargs, self.wrappers)
            make = (lambda: checks.Checked(plain())) if checked else plain
            # One per agent, so that agents' states are separate. copy=False: the collector copies what it keeps before
            # the next step.
            options: Any = {"copy": False, "autoreset_mode": AutoresetMode.NEXT_STEP}
            parts = [SyncVectorEnv([make] * len(part), **options) for part in shares(seeds)]

        def firsts(seeds: list[list[int]]) -> Any:
            if self._mode() == "vector" and not independent:  # which seed environment k with the number + k
                each: list[Any] = [agent[0] + (share.start or 0) for agent in seeds]
            else:
                each = [part[0] if self._mode() == "vector" else part for part in shares(seeds)]
            return each[0] if len(each) == 1 else each

        return parts[0] if len(parts) == 1 else AgentVectorEnv(parts), firsts

    def _pictured(self, seeds: list[list[int]]) -> tuple[VectorEnv, Callable[[list[list[int]]], Any]]:
        """Environments for evaluation that can be rendered, one for each agent; see `_make`."""
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):  # draw without a screen
            os.environ.setdefault("MUJOCO_GL", "egl")
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if self.backend == "envpool":
            require_drawable(self.id, self.name, self.kwargs)
            pools = [self._pool(agent, render_mode="rgb_array") for agent in seeds]
            return AgentVectorEnv(pools), lambda _: None
        make = partial(_single, self.id, self.kwargs | {"render_mode": "rgb_array"}, self.wrappers)
        envs = SyncVectorEnv([make] * len(seeds), copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        return envs, lambda seeds: [seed for agent in seeds for seed in agent]

    def _pool(self, seeds: list[int], **more: Any) -> VectorEnv:
        """Environments of envpool, one per seed; more: of its settings."""
        envpool = importlib.import_module("envpool")
        return envpool.make_gymnasium(self.name, num_envs=len(seeds), env_seed=seeds, **self.kwargs | more)

    def _vector(self, num_envs: int, independent: bool, **more: Any) -> VectorEnv:
        """Environments of the id's vector class, for evaluation if `independent`; more: of its settings."""
        unclipped = dict.fromkeys(set(CLIPPING) & parameter_names(self._maker()), False)  # rewards are recorded
        return gym.make_vec(self.name, num_envs, "vector_entry_point", **unclipped | self.kwargs | more)

    def _mode(self) -> str:
        """Which kind of vector is made, for both training and evaluation."""
        if self.vectorization != "auto" or self.backend == "envpool":
            return self.vectorization
        spec = gym.spec(self.name)  # additional wrappers work on single environments only
        has_vector = self.world is None and spec.vector_entry_point is not None
        return "vector" if has_vector and not (spec.additional_wrappers or self.wrappers) else "sync"

    def _maker(self) -> Any:
        """The class or function that the id names, for the kind of vector that is made."""
        spec = gym.spec(self.name)
        entry = spec.vector_entry_point if self._mode() == "vector" else spec.entry_point
        return load_env_creator(entry) if isinstance(entry, str) else entry


def _single(id: str, kwargs: dict[str, Any], wrappers: list[Callable[[gym.Env[Any, Any]], Any]]) -> gym.Env[Any, Any]:
    """One environment, wrapped from the inside out."""
    env = gym.make(id, disable_env_checker=True, **kwargs)
    for index, wrap in enumerate(wrappers):
        try:
            env = wrap(env)
        except TypeError as error:  # most often an argument that it lacks, or does not take
            raise TypeError(f"env.wrappers[{index}]: {error}") from error
        if not isinstance(env, gym.Env):
            name = getattr(wrap, "func", wrap)
            name = getattr(name, "__name__", name)
            raise ConfigError(f"env.wrappers: {name} makes no gymnasium.Env; derive it from gymnasium.Wrapper")
    return env
