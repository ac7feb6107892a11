"""Random streams: each agent has its own, one for each purpose, so that nothing it does depends on its neighbours."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

# Position of each stream among the children of SeedSequence(seed); append only, or every seed's results change.
_INIT, _NOISE, _ORDER, _MEMORY, _ENVS, _LOSS, _MADE = range(7)
# Evaluation draws from a root of its own, the same for every agent: no training seed reaches it.
_EVALUATION_ROOT = 0x5EED_E7A1


def _torch_seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While entered, the global streams of torch, NumPy and Python begin at a seed; then they are as they were."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (that code of others may draw from)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(_torch_seed(sequence))


@dataclass
class AgentStreams:
    """The random streams of the agent that owns `seed`."""

    seed: int
    init: int  # seed of the global generator while the agent's network is built
    noise: torch.Generator  # of actions
    order: torch.Generator  # of minibatches
    memory: torch.Generator  # of episode memories
    loss: torch.Generator  # of keys, by which a loss draws; see `noise.py`
    made: torch.Generator  # of what an algorithm makes at its start, as a resumed run does again; on the CPU

    @classmethod
    def make(cls, seed: int, device: torch.device) -> "AgentStreams":
        """All streams of one seed, at their beginning."""
        children = np.random.SeedSequence(seed).spawn(7)
        return cls(
            seed=seed,
            init=_torch_seed(children[_INIT]),
            noise=_generator(children[_NOISE], device),
            order=_generator(children[_ORDER], device),
            memory=_generator(children[_MEMORY], device),
            loss=_generator(children[_LOSS], device),
            made=_generator(children[_MADE], torch.device("cpu")),
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Where each generator stands."""
        return {name: getattr(self, name).get_state() for name in ("noise", "order", "memory", "loss")}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put each generator where it stood."""
        for name, value in state.items():
            getattr(self, name).set_state(value.cpu())


def env_seeds(seed: int, num_envs: int, restart: int = 0) -> list[int]:
    """Seeds of one agent's environments (E). `restart` numbers the update at which a run took them up afresh."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_ENVS, restart))
    return [int(s) for s in sequence.generate_state(num_envs) >> 1]  # 31 bits: envpool takes signed ints


def evaluation_seeds(episodes: int) -> list[int]:
    """Seeds of the evaluation episodes: a fixed list, apart from every training seed's."""
    return [int(s) for s in np.random.SeedSequence(_EVALUATION_ROOT).generate_state(episodes) >> 1]
