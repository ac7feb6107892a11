"""Random streams: each agent has its own, one for each purpose, so that nothing it does depends on its neighbours."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlexp.errors import ObjectiveError

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


NETWORK, LOSS = "the network", "the loss"  # who may draw, in words


def _never_drops(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation that may drop something, as attention does, is told to drop nothing."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "dropout", "p"):
            given = args[number] if number < len(args) else (kwargs or {}).get(argument.name, argument.default_value)
            return not given
    return False


class NoRandomness(TorchDispatchMode):
    """While entered, an operation that draws from the global stream is refused: no seed of an agent reaches it.

    Args:
        who: draws, in words.
    """

    def __init__(self, who: str) -> None:
        super().__init__()
        self.who = who

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        own_stream = (kwargs or {}).get("generator") is not None
        if torch.Tag.nondeterministic_seeded in func.tags and not own_stream and not _never_drops(func, args, kwargs):
            raise self._refusal(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Tell vmap's own refusal in the same words."""
        super().__exit__(kind, error, trace)
        if isinstance(error, RuntimeError) and "called random operation" in str(error):
            raise self._refusal("under vmap") from error

    def _refusal(self, what: str) -> ObjectiveError:
        return _draws(self.who, f"({what}){', as Dropout does' if self.who == NETWORK else ''}", "")


def _draws(who: str, what: str, otherwise: str) -> ObjectiveError:
    """What is told of random numbers from a global stream."""
    way_out = "policy.rand_like(x) and randn_like(x) draw" if who == LOSS else f"take the randomness out{otherwise}"
    return ObjectiveError(
        f"{who} draws random numbers {what}: no agent would repeat what it did, alone or beside others; {way_out}"
    )


@contextlib.contextmanager
def no_global_randomness(who: str) -> Iterator[None]:
    """While entered, nothing is drawn from any global stream: torch's, NumPy's or Python's; see `NoRandomness`.

    Raises:
        ObjectiveError: something was.
    """

    def streams() -> list[Any]:
        numpys: Any = np.random.get_state()  # noqa: NPY002  (whoever draws from it is who is looked for)
        return [random.getstate(), numpys[1].tolist(), numpys[2]]

    before = streams()
    with NoRandomness(who):
        yield
    if streams() != before:
        raise _draws(who, "(of NumPy or Python)", ", or draw from streams of the agents' own")
