"""Random streams, one per agent and purpose, so that an agent's results never depend on its neighbours."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlexp.errors import ObjectiveError

# Index of each stream among the children of SeedSequence(seed); append only, or every seed's results change.
_INIT, _NOISE, _ORDER, _MEMORY, _ENVS, _LOSS, _MADE = range(7)
# Evaluation has a separate root, shared by all agents: no training seed reaches it.
_EVALUATION_ROOT = 0x5EED_E7A1
_CURVE_ROOT = 0x5EED_C04E  # of evaluation during training


def _torch_seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global streams of torch, NumPy and Python while entered; restore them on exit."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (user code may draw from it)
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
    """Random streams of the agent with this seed."""

    seed: int
    init: int  # seed of the global streams while the agent's network is built
    noise: torch.Generator  # of actions
    order: torch.Generator  # of minibatches
    memory: torch.Generator  # of episode memories
    loss: torch.Generator  # of the keys of random numbers in a loss; see `networks/noise.py`
    made: torch.Generator  # of `RunSpec.per_agent`, which a resumed run repeats; on the CPU

    @classmethod
    def make(cls, seed: int, device: torch.device) -> "AgentStreams":
        """All streams of one seed, in their initial state."""
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
        """State of each generator."""
        return {name: getattr(self, name).get_state() for name in ("noise", "order", "memory", "loss")}

    def load_state_dict(self, state: dict[str, torch.Tensor], restart: int = 0) -> bool:
        """Restore each generator; returns whether all could be.

        Those of another kind of device cannot, and start anew, seeded with the update `restart` at which that is.
        """
        exact = True
        for key, (name, value) in zip((_NOISE, _ORDER, _MEMORY, _LOSS), state.items(), strict=True):
            generator: torch.Generator = getattr(self, name)
            if value.shape == generator.get_state().shape:
                generator.set_state(value.cpu())
            else:
                generator.manual_seed(_torch_seed(np.random.SeedSequence(self.seed, spawn_key=(key, restart))))
                exact = False
        return exact


def env_seeds(seed: int, num_envs: int, restart: int = 0) -> list[int]:
    """Seeds of one agent's environments (E). restart: the update at which a resumed run started fresh ones, else 0."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_ENVS, restart))
    return [int(s) for s in sequence.generate_state(num_envs) >> 1]  # 31 bits: envpool takes signed ints


def evaluation_seeds(episodes: int) -> list[int]:
    """Seeds of the evaluation episodes: a fixed list, disjoint from training seeds."""
    return _seeds_of(_EVALUATION_ROOT, episodes)


def curve_seeds(episodes: int) -> list[int]:
    """Seeds of the episodes of evaluation during training: a fixed list, disjoint from the other two."""
    return _seeds_of(_CURVE_ROOT, episodes)


def _seeds_of(root: int, count: int) -> list[int]:
    return [int(s) for s in np.random.SeedSequence(root).generate_state(count) >> 1]


NETWORK, LOSS = "the network", "the loss"  # how error messages call them


def _never_drops(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation with dropout, such as attention, is called with dropout 0."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "dropout", "p"):
            rate = args[number] if number < len(args) else (kwargs or {}).get(argument.name, argument.default_value)
            return not rate
    return False


class NoRandomness(TorchDispatchMode):
    """Raises ObjectiveError if an operation draws from torch's global stream, which no agent's seed controls.

    who: subject of the error message.
    """

    def __init__(self, who: str) -> None:
        super().__init__()
        self.who = who

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        has_generator = (kwargs or {}).get("generator") is not None
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        if is_random and not has_generator and not _never_drops(func, args, kwargs):
            raise self._error(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Replace vmap's error about randomness with this one."""
        super().__exit__(kind, error, trace)
        if isinstance(error, RuntimeError) and "called random operation" in str(error):
            raise self._error("under vmap") from error

    def _error(self, what: str) -> ObjectiveError:
        return _randomness_error(self.who, f"({what}){', as Dropout does' if self.who == NETWORK else ''}", "")


def _randomness_error(who: str, what: str, alternative: str) -> ObjectiveError:
    """The error about random numbers from a global stream."""
    remedy = "use policy.rand_like(x) or randn_like(x)" if who == LOSS else f"remove the randomness{alternative}"
    return ObjectiveError(
        f"{who} draws random numbers {what}, from a global stream that no agent's seed controls; {remedy}"
    )


@contextlib.contextmanager
def no_global_randomness(who: str) -> Iterator[None]:
    """While entered, whatever draws from a global stream of torch, NumPy or Python is refused (ObjectiveError)."""

    def streams() -> list[Any]:
        numpys: Any = np.random.get_state()  # noqa: NPY002  (to detect code that draws from it)
        return [random.getstate(), numpys[1].tolist(), numpys[2:]]  # with the normal number that is held back

    before = streams()
    with NoRandomness(who):
        yield
    if streams() != before:
        raise _randomness_error(who, "(of NumPy or Python)", ", or draw from the agents' streams")
