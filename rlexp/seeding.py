"""Random streams: each agent has its own, one for each purpose, so that nothing it does depends on its neighbours."""

from dataclasses import dataclass

import numpy as np
import torch

# Position of each stream among the children of SeedSequence(seed); append only, or every seed's results change.
_INIT, _NOISE, _ORDER, _MEMORY, _ENVS, _LOSS = range(6)
# Evaluation draws from a root of its own, the same for every agent: no training seed reaches it.
_EVALUATION_ROOT = 0x5EED_E7A1


def _torch_seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


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

    @classmethod
    def make(cls, seed: int, device: torch.device) -> "AgentStreams":
        """All streams of one seed, at their beginning."""
        children = np.random.SeedSequence(seed).spawn(6)
        return cls(
            seed=seed,
            init=_torch_seed(children[_INIT]),
            noise=_generator(children[_NOISE], device),
            order=_generator(children[_ORDER], device),
            memory=_generator(children[_MEMORY], device),
            loss=_generator(children[_LOSS], device),
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
