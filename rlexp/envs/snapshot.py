"""Copying the state of running environments, for exact resume, wherever a copy can be trusted.

A snapshot is plain data, kept as bytes inside the checkpoint: reading one runs no code; see `plain/`.
"""

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
    """What changes as a vector is stepped: all of it but what made its environments."""
    kept = ("env_fns",) if isinstance(leaf, SyncVectorEnv) else ()
    return {name: value for name, value in vars(leaf).items() if name not in kept}


def snapshot(envs: VectorEnv, agents: slice = slice(None)) -> bytes:
    """Everything that decides what the environments of some agents, by default all, do next.

    Raises:
        NotPlainError: they keep something that cannot be told as plain data.
    """
    if isinstance(envs, TorchVectorEnv):
        return dump([envs.snapshot(agents)])
    return dump([_state(leaf) for leaf in _leaves(envs)[agents]])


def restore(envs: VectorEnv, data: bytes, agents: slice = slice(None)) -> None:
    """Put freshly made environments of these agents where `snapshot` found others of the same make.

    Raises:
        NotPlainError: the data does not fit them.
        Exception: whatever comes of reading bytes that are no snapshot.
    """
    if isinstance(envs, TorchVectorEnv):
        envs.restore(load(data, [envs.snapshot(agents)])[0], agents)
        return
    leaves = _leaves(envs)[agents]
    states = load(data, [_state(leaf) for leaf in leaves])
    for leaf, state in zip(leaves, states, strict=True):
        if state.keys() != _state(leaf).keys():
            raise NotPlainError("they keep other things than these do")
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
