"""What a network must keep to, whoever wrote it: tried on a few rows before the first step."""

import inspect
import logging
import operator
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import functional_call, vmap

from rlexp.checks.network_tensors import attributes, check_tensors
from rlexp.errors import ConfigError, UserError
from rlexp.plain.digest import digest
from rlexp.seeding import NETWORK, no_global_randomness
from rlexp.spaces import storage_dtype
from rlexp.user_code import is_theirs, package_of, raised, told, where_defined, where_raised

log = logging.getLogger(__name__)

ROWS = 3  # that a network is tried on
MOST = 256  # rows read at once


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


def place_of(network: nn.Module | None) -> str:
    """Where somebody wrote the first module of a network that is neither torch's nor rlexp's, to begin a line with."""
    for module in () if network is None else network.modules():
        place = where_defined(type(module), "forward")
        if place:
            return f"{place}: "
    return ""


def where_network_raised(error: BaseException, network: nn.Module) -> str:
    """'the network (their_pkg/nets.py:9)', the place in somebody's network that an error came from; '' if elsewhere."""
    kinds = {kind for module in network.modules() for kind in type(module).__mro__ if is_theirs(kind)}
    theirs = {(inspect.getsourcefile(kind), kind.__qualname__) for kind in kinds}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame.f_code
        if (code.co_filename, code.co_qualname.rpartition(".")[0]) in theirs:
            return f"the network ({told(code.co_filename, line)})"
    return ""


def try_network(
    build: Callable[[], Any], space: spaces.Space, sizes: Iterable[int] = (), packages: Iterable[str] = ()
) -> Any:
    """A network that has been seen to do what a network must.

    Args:
        build: makes one.
        space: of raw observations.
        sizes: of batches that it will read.
        packages: where its classes may be written.

    Raises:
        UserError: what is wrong, where.
    """
    trial = None
    try:
        trial = build()
        check_tensors(trial)
        _require_features(trial, space)
        check_network(trial, space, trial.distribution.num_params, sorted({min(size, MOST) for size in sizes}))
    except BdbQuit:
        raise
    except UserError as error:
        place = place_of(trial)
        if not place:
            raise
        raise type(error)(f"{place}{error}") from error
    except Exception as error:  # whatever somebody else's code raises
        known = {package_of(type(module).__module__) for module in (() if trial is None else trial.modules())}
        place = where_raised(error, known | set(packages)) or place_of(trial).removesuffix(": ")
        if place:
            raise ConfigError(f"{place}: {raised(error)}") from error
        line = " ".join(str(error).split())
        raise ConfigError(f"network: cannot be built for these spaces: {line}") from error
    return trial


@torch.no_grad()
def _require_features(network: nn.Module, space: spaces.Space) -> None:
    """Refuse torsos that give something else than `out_features` numbers a row."""
    encoder = getattr(network, "encoder", None)
    for name in ("actor_torso", "critic_torso"):
        torso = getattr(network, name, None)
        if encoder is None or torso is None:
            continue
        width = operator.index(torso.out_features)
        with torch.random.fork_rng(devices=[]):  # whoever draws is refused for that
            given = torso(encoder(sample_rows(space)))
        if not isinstance(given, Tensor):
            raise ConfigError(f"network: {name} gives a {type(given).__name__}, wants a tensor ({ROWS}, {width})")
        if given.shape != (ROWS, width):
            raise ConfigError(
                f"network: {name} makes {tuple(given.shape)} of {ROWS} observations; its out_features={width} promises "
                f"{(ROWS, width)}"
            )
        if given.dtype != torch.float32:
            raise ConfigError(f"network: {name} gives {given.dtype}; the heads read torch.float32")
