"""What a network must keep to, whoever wrote it: tried on a few rows before the first step."""

import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from rlexp.digest import digest
from rlexp.errors import ConfigError, ObjectiveError
from rlexp.networks.tensors import attributes
from rlexp.spaces import storage_dtype

log = logging.getLogger(__name__)

ROWS = 3
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


def sample_rows(space: spaces.Space) -> Tensor:
    """A few observations of a space, as the collector stores them (ROWS, ...)."""
    space.seed(0)
    return torch.stack([torch.as_tensor(space.sample()).to(storage_dtype(space)) for _ in range(ROWS)])


def _one(outputs: tuple[Tensor, Tensor]) -> Tensor:
    """Parameters and values side by side (ROWS, P + 1)."""
    params, values = outputs
    return torch.cat([params, values[:, None]], -1)


def _kept_aside(network: nn.Module) -> dict[str, str]:
    """What modules keep besides parameters, buffers and modules, by name, as text."""
    return {
        f"{name}.{key}".lstrip("."): digest(value)
        for name, module in network.named_modules()
        for key, value in attributes(module).items()
    }


def _warn_of_untrained(network: nn.Module) -> None:
    """Tell of parts that no gradient reaches, as under no_grad, detach or numpy; those frozen apart."""
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for part in sorted({name.partition(".")[0] for name in trained}):
        own = [p for name, p in trained.items() if name.partition(".")[0] == part]
        if not any(p.grad is not None and p.grad.any() for p in own):
            log.warning("network: no gradient reaches %s, which stays as it is made; look for no_grad or detach", part)
            trained = {name: p for name, p in trained.items() if name.partition(".")[0] != part}
    left = [name for name, p in trained.items() if p.grad is None]
    if left:
        log.warning("network: no gradient reaches its %s, which stay as they are made", ", ".join(sorted(left)))


@torch.no_grad()
def check_network(network: nn.Module, space: spaces.Space, num_params: int, sizes: Sequence[int] = ()) -> None:
    """Refuse a network that is no function of its parameters and of one row at a time.

    network: `policy.ActorCritic` or what has its place; space: raw observations; num_params: P of the distribution;
    sizes: of batches that it will read.

    Raises:
        ConfigError: outputs of other shapes, or rows that depend on their neighbours, as under BatchNorm.
        ObjectiveError: random numbers.
    """
    obs = sample_rows(space)
    before = {name: x.clone() for name, x in network.named_buffers()}
    kept = _kept_aside(network)
    with no_global_randomness(NETWORK):
        params, values = network(obs)
        read_again = network(obs)
        alone = [_one(network(row.expand(obs.shape)))[:1] for row in obs.split(1)]
        modes = {module: module.training for module in network.modules()}
        frozen = _one(network.eval()(obs))
        for module, mode in modes.items():
            module.training = mode
    if params.shape != (ROWS, num_params) or values.shape != (ROWS,):
        shapes = f"{tuple(params.shape)} and {tuple(values.shape)}"
        raise ConfigError(
            f"network: {ROWS} observations give parameters and values of shapes {shapes}; wanted {(ROWS, num_params)} "
            f"and {(ROWS,)}: a torso keeps the leading dimensions of its input"
        )
    whole = _one((params, values))
    aside = [name for name, now in _kept_aside(network).items() if now != kept.get(name)]
    if aside:
        raise ConfigError(f"network: reading an observation changes its {aside[0]}, which no agent has of its own")
    if not torch.allclose(_one(read_again), whole, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise ConfigError(
            "network: makes something else of the same rows when it reads them again: it reads what it, or something "
            "else, writes, as a global number"
        )
    if not torch.allclose(torch.cat(alone), whole, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ConfigError(
            "network: what it makes of a row depends on the rows beside it, as BatchNorm does; use LayerNorm"
        )
    if not torch.allclose(frozen, whole, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ConfigError("network: is another one in eval() than in train(); here it acts and learns as the same")
    single = network(obs[:1])
    if single[0].shape != (1, num_params) or single[1].shape != (1,):
        shapes = f"{tuple(single[0].shape)} and {tuple(single[1].shape)}"
        raise ConfigError(
            f"network: one observation gives parameters and values of shapes {shapes}; wanted {(1, num_params)} and "
            "(1,): squeeze() takes away the axis of the rows, squeeze(-1) does not"
        )
    for rows in (1, *sizes):
        most = min(rows, ROWS)
        read = _one(network(obs[torch.arange(rows) % ROWS]))[:most]
        if not torch.allclose(read, whole[:most], rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ConfigError(f"network: what it makes of a row is another thing among {rows} rows than among {ROWS}")
    with (
        torch.enable_grad(),
        no_global_randomness(NETWORK),
    ):  # whether it can be learnt, too, as where it changes its input in place
        out, value = network(obs)
        weights = torch.linspace(1.0, 2.0, out.numel()).view_as(out)  # so that nothing cancels, as in a softmax
        ((out * weights).sum() + (value * weights[:, 0]).sum()).backward()
    _warn_of_untrained(network)
    network.zero_grad(set_to_none=True)
    changed = [name for name, x in network.named_buffers() if not torch.equal(x, before[name])]
    if changed:
        raise ConfigError(f"network: reading an observation changes its buffer {changed[0]}; only training may do that")


@torch.no_grad()
def check_stacked(
    networks: Sequence[nn.Module], tensors: dict[str, Tensor], space: spaces.Space, device: torch.device
) -> None:
    """Refuse networks that compute otherwise once their parameters and buffers (A, ...) are stacked in the first one.

    Raises:
        ConfigError: an agent's differs, as where a network keeps a tensor that is neither; or it cannot be stacked.
    """
    obs = sample_rows(space).to(device)

    def of_one(own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return functional_call(networks[0], own, (obs,))

    alone = [network(obs) for network in networks]
    try:
        params, values = vmap(of_one)(tensors)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:160]
        raise ConfigError(f"network: cannot be stacked ({line}); use batching=loop") from error
    for agent, (own, value) in enumerate(alone):
        found = _one((params[agent], values[agent]))
        if not torch.allclose(_one((own, value)), found, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ConfigError(
                "network: agents differ in something that is neither parameter nor buffer, and would share it; "
                "use register_buffer, or batching=loop"
            )
