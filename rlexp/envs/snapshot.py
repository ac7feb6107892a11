"""Snapshots of running environments, for exact resume, where a copy is verified to behave the same.

A snapshot is plain data, stored as bytes in the checkpoint: reading one runs no code; see `plain/`.
"""

import contextlib
import logging
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from rlexp.envs.agents import AgentVectorEnv
from rlexp.envs.environment import Environment
from rlexp.envs.torch_vector import TorchVectorEnv
from rlexp.plain.attributes import NotPlainError
from rlexp.plain.dump import dump
from rlexp.plain.load import load

log = logging.getLogger(__name__)


def _leaves(envs: VectorEnv) -> list[VectorEnv]:
    return envs.parts if isinstance(envs, AgentVectorEnv) else [envs]


def _state(leaf: VectorEnv) -> dict[str, Any]:
    """Attributes of a vector, except the functions that made its environments."""
    made = isinstance(leaf, SyncVectorEnv)
    return {name: value for name, value in vars(leaf).items() if not (made and name == "env_fns")}


def snapshot(envs: VectorEnv, agents: slice = slice(None)) -> bytes:
    """The full state of the environments of some agents, by default all; NotPlainError if it is not plain data."""
    if isinstance(envs, TorchVectorEnv):
        return dump([envs.snapshot(agents)])
    return dump([_state(leaf) for leaf in _leaves(envs)[agents]])


def restore(envs: VectorEnv, data: bytes, agents: slice = slice(None)) -> None:
    """Restore a snapshot into freshly made environments of these agents.

    Raises NotPlainError if the data does not fit them, and anything if the bytes are not a snapshot.
    """
    if isinstance(envs, TorchVectorEnv):
        envs.restore(load(data, [envs.snapshot(agents)])[0], agents)
        return
    leaves = _leaves(envs)[agents]
    states = load(data, [_state(leaf) for leaf in leaves])
    for leaf, state in zip(leaves, states, strict=True):
        if state.keys() != _state(leaf).keys():
            raise NotPlainError("they have other attributes than these environments")
        vars(leaf).update(state)


def move(source: VectorEnv, target: VectorEnv, places: list[tuple[int, int]], agents: slice) -> bool:
    """Move single environments of some agents' vectors; False for vectors that are no list of environments.

    places: of each environment, its numbers in the source, whose agents are these alone, and in the target.
    """
    if isinstance(source, TorchVectorEnv) and isinstance(target, TorchVectorEnv):
        there, here = (list(numbers) for numbers in zip(*places, strict=True))
        for name in ("state", "elapsed", "done"):
            getattr(target, name)[agents][:, here] = getattr(source, name)[:, there]
        for ours, theirs in zip(target.streams[agents], source.streams, strict=True):
            ours.set_state(theirs.get_state())
        return True
    pairs = list(zip(_leaves(source), _leaves(target)[agents], strict=True))
    if not all(isinstance(leaf, SyncVectorEnv) for pair in pairs for leaf in pair):
        return False
    for given, taking in pairs:
        for name, held in _state(taking).items():
            if isinstance(held, list | np.ndarray) and len(held) == taking.num_envs:  # one item an environment
                found = vars(given)[name]
                for one, other in places:
                    if isinstance(held, list):  # swapped, so that each is closed with the vector that has it
                        held[other], found[one] = found[one], held[other]
                    else:
                        held[other] = found[one]
    return True


def copyable(environment: Environment, steps: int = 64) -> bool:
    """Whether a snapshot restored into fresh environments continues exactly like the original, tested by doing so."""
    if environment.backend == "envpool" or environment.vectorization == "async":
        return False
    made: list[VectorEnv] = []
    try:
        made += (environment.start([seeds])[0] for seeds in ([1, 2], [3, 4]))
        first, second = made
        first.action_space.seed(0)
        for _ in range(3):
            first.step(first.action_space.sample())
        restore(second, snapshot(first))
        for _ in range(steps):
            actions = first.action_space.sample()
            for ours, theirs in zip(first.step(actions)[:4], second.step(actions)[:4], strict=True):
                if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
                    return False
    except Exception as error:  # third-party environments may raise anything
        log.debug("state of %s cannot be copied: %r", environment.id, error)
        return False
    finally:
        for envs in made:
            with contextlib.suppress(Exception):
                envs.close()
    return True
