"""Copying the state of running environments, for exact resume, wherever a copy can be trusted.

A snapshot is a pickle, kept as bytes inside the checkpoint. It is read by an unpickler that makes nothing but classes
of NumPy, Gymnasium, the standard containers and the environment's own package, and only when a run is resumed.
"""

import importlib
import io
import logging
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from rlexp.envs.agents import AgentVectorEnv
from rlexp.envs.environment import Environment
from rlexp.envs.torch_vector import TorchVectorEnv

log = logging.getLogger(__name__)

_MODULES = {"gymnasium", "numpy", "collections", "enum", "random", "datetime", "fractions", "decimal"}
_FUNCTIONS = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
}
_BUILTINS = {"object", "set", "frozenset", "slice", "range", "complex", "bytearray", "bool", "int", "float", "str"}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, modules: set[str]) -> None:
        super().__init__(io.BytesIO(data))
        self.modules = modules

    def find_class(self, module: str, name: str) -> Any:
        root = module.partition(".")[0]
        if (module, name) in _FUNCTIONS or (module == "builtins" and name in _BUILTINS):
            return super().find_class(module, name)
        if root in self.modules:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an environment's state")


def _leaves(envs: VectorEnv) -> list[VectorEnv]:
    return envs.parts if isinstance(envs, AgentVectorEnv) else [envs]


def _own_modules(envs: VectorEnv) -> set[str]:
    """Top-level packages of the environment and all its wrappers."""
    roots = set()
    for leaf in _leaves(envs):
        layers: list[Any] = [leaf, *getattr(leaf, "envs", ())]
        for layer in layers:
            while layer is not None:
                roots.add(type(layer).__module__.partition(".")[0])
                layer = layer.env if isinstance(layer, gym.Wrapper) else None
    return roots - {"builtins", "functools", "os", "sys", "subprocess"}


def snapshot(envs: VectorEnv, agents: slice = slice(None)) -> bytes:
    """Everything that decides what the environments of some agents, by default all, do next.

    Raises:
        Exception: whatever the environment raises that cannot be pickled.
    """
    if isinstance(envs, TorchVectorEnv):
        return pickle.dumps([envs.snapshot(agents)], protocol=4)
    states = []
    for leaf in _leaves(envs)[agents]:
        state = dict(vars(leaf))
        if isinstance(leaf, SyncVectorEnv):
            del state["env_fns"]
        states.append(state)
    return pickle.dumps(states, protocol=4)


def restore(envs: VectorEnv, data: bytes, agents: slice = slice(None)) -> None:
    """Put freshly made environments of these agents where `snapshot` found others of the same make."""
    states = _Unpickler(data, _MODULES | _own_modules(envs)).load()
    if isinstance(envs, TorchVectorEnv):
        envs.restore(states[0], agents)
        return
    for leaf, state in zip(_leaves(envs)[agents], states, strict=True):
        vars(leaf).update(state)


def copyable(environment: Environment, steps: int = 64) -> bool:
    """Whether a snapshot put into fresh environments goes on exactly like the original: tried, not assumed."""
    if environment.backend == "envpool" or environment.vectorization == "async":
        return False
    first, _ = environment.start([[1, 2]])
    second, _ = environment.start([[3, 4]])
    try:
        first.action_space.seed(0)
        for _ in range(3):
            first.step(first.action_space.sample())
        restore(second, snapshot(first))
        for _ in range(steps):
            actions = first.action_space.sample()
            for ours, theirs in zip(first.step(actions)[:4], second.step(actions)[:4], strict=True):
                if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
                    return False
    except Exception as error:  # whatever a third party's environment raises, the answer is no
        log.debug("state of %s cannot be copied: %r", environment.id, error)
        return False
    finally:
        first.close()
        second.close()
    return True
