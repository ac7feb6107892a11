"""Contract of a network, checked on a few rows before the first step."""

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

from rlexp.checks.network_tensors import attributes_inside, check_tensors
from rlexp.errors import ConfigError, UserError
from rlexp.plain.digest import digest
from rlexp.seeding import NETWORK, no_global_randomness
from rlexp.spaces import storage_dtype
from rlexp.text import one_line
from rlexp.user_code import describe_error, is_user_code, location, package_of, where_defined, where_raised

log = logging.getLogger(__name__)

ROWS = 3  # in a check
MAX_ROWS = 256  # per batch


def sample_rows(space: spaces.Space) -> Tensor:
    """Sample observations of a space, as the collector stores them (ROWS, ...)."""
    space.seed(0)
    return torch.stack([torch.as_tensor(space.sample()).to(storage_dtype(space)) for _ in range(ROWS)])


def _joined(outputs: Iterable[Tensor]) -> Tensor:
    """Concatenate distribution parameters and values (ROWS, P + 1)."""
    params, values = outputs
    return torch.cat([params, values[:, None]], -1)


def _extra_state(network: nn.Module) -> dict[str, str]:
    """Digests of module attributes other than parameters, buffers and submodules, by name."""
    return {name: digest(value) for name, value in attributes_inside(network)}


def _warn_of_untrained(network: nn.Module) -> None:
    """Warn about trainable parts that no gradient reaches, as under no_grad, detach or numpy."""
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for part in sorted({name.partition(".")[0] for name in trained}):
        params = [p for name, p in trained.items() if name.partition(".")[0] == part]
        if not any(p.grad is not None and p.grad.any() for p in params):
            log.warning("network: no gradient reaches %s, so no loss trains it; look for no_grad or detach", part)
            trained = {name: p for name, p in trained.items() if name.partition(".")[0] != part}
    left = [name for name, p in trained.items() if p.grad is None]
    if left:
        log.warning("network: no gradient reaches its %s, so no loss trains them", ", ".join(sorted(left)))


def _same(x: Tensor, y: Tensor, rtol: float = 1e-3, atol: float = 1e-5) -> bool:
    return torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True)


def _require_shapes(outputs: tuple[Tensor, Tensor], rows: int, num_params: int, who: str, hint: str) -> None:
    found, wanted = tuple(tuple(x.shape) for x in outputs), ((rows, num_params), (rows,))
    if found != wanted:
        shapes = f"{found[0]} and {found[1]}; wants {wanted[0]} and {wanted[1]}"
        raise ConfigError(f"network: {who} parameters and values of shapes {shapes}: {hint}")


@torch.no_grad()
def check_network(network: nn.Module, space: spaces.Space, num_params: int, sizes: Sequence[int] = ()) -> None:
    """Refuse a network that is not a row-wise function of its parameters and observations.

    network: `ActorCritic` or a replacement; space: of raw observations; num_params: P of the distribution; sizes: of
    batches that it will read.

    Raises:
        ConfigError: outputs of wrong shapes, or rows that depend on each other, as with BatchNorm.
        ObjectiveError: it draws random numbers.
    """
    obs = sample_rows(space)
    before = {name: x.clone() for name, x in network.named_buffers()}
    kept = _extra_state(network)
    with no_global_randomness(NETWORK):
        outputs = network(obs)
        again = network(obs)
        alone = [_joined(network(row.expand(obs.shape)))[:1] for row in obs.split(1)]
        modes = {module: module.training for module in network.modules()}
        frozen = _joined(network.eval()(obs))
        for module, mode in modes.items():
            module.training = mode
    hint = "a torso keeps the leading dimensions of its input"
    _require_shapes(outputs, ROWS, num_params, f"{ROWS} observations give", hint)
    whole = _joined(outputs)
    changed_state = [name for name, now in _extra_state(network).items() if now != kept.get(name)]
    if changed_state:
        raise ConfigError(f"network: a forward pass changes its {changed_state[0]}, which is not per-agent state")
    if not _same(_joined(again), whole, rtol=1e-4, atol=1e-6):
        raise ConfigError(
            "network: gives other outputs for the same rows in a second forward pass: it depends on state outside its "
            "parameters and buffers, such as a global variable"
        )
    if not _same(torch.cat(alone), whole):
        raise ConfigError(
            "network: the outputs of a row depend on the other rows of its batch, as with BatchNorm; use LayerNorm"
        )
    if not _same(frozen, whole):
        raise ConfigError("network: differs between eval() and train(); rlexp acts and learns in the same mode")
    hint = "squeeze() removes the row axis, squeeze(-1) does not"
    _require_shapes(network(obs[:1]), 1, num_params, "one observation gives", hint)
    for rows in (1, *sizes):
        most = min(rows, ROWS)
        if not _same(_joined(network(obs[torch.arange(rows) % ROWS]))[:most], whole[:most]):
            raise ConfigError(f"network: the outputs of a row differ between a batch of {rows} rows and one of {ROWS}")
    with torch.enable_grad(), no_global_randomness(NETWORK):
        out, value = network(obs)
        # unequal weights, so that gradients do not cancel, as in a softmax
        weights = torch.linspace(1.0, 2.0, out.numel()).view_as(out)
        ((out * weights).sum() + (value * weights[:, 0]).sum()).backward()  # fails where the input is changed in place
    _warn_of_untrained(network)
    network.zero_grad(set_to_none=True)
    changed = [name for name, x in network.named_buffers() if not torch.equal(x, before[name])]
    if changed:
        raise ConfigError(f"network: a forward pass changes its buffer {changed[0]}; only training may do that")


@torch.no_grad()
def check_stacked(
    networks: Sequence[nn.Module], tensors: dict[str, Tensor], space: spaces.Space, device: torch.device
) -> None:
    """Refuse (ConfigError) networks whose outputs change when their parameters and buffers (A, ...) are stacked."""
    obs = sample_rows(space).to(device)
    alone = [network(obs) for network in networks]
    try:
        params, values = vmap(lambda tensors: functional_call(networks[0], tensors, (obs,)))(tensors)
    except RuntimeError as error:
        raise ConfigError(f"network: cannot be stacked ({one_line(str(error), 160)}); use batching=loop") from error
    for outputs, *stacked in zip(alone, params, values, strict=True):
        if not _same(_joined(outputs), _joined(stacked)):
            raise ConfigError(
                "network: agents differ in a value that is neither parameter nor buffer and would be shared; "
                "use register_buffer, or batching=loop"
            )


def _where_defined(modules: Iterable[nn.Module]) -> str:
    """Location of the first user-defined module; '' if there is none."""
    return next((where for module in modules if (where := where_defined(type(module), "forward"))), "")


def where_network_raised(error: BaseException, network: nn.Module) -> str:
    """Location of an error in a user's network, 'the network (their_pkg/nets.py:9)'; '' if it is elsewhere."""
    kinds = {kind for module in network.modules() for kind in type(module).__mro__ if is_user_code(kind)}
    methods = {(inspect.getsourcefile(kind), kind.__qualname__) for kind in kinds}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame.f_code
        if (code.co_filename, code.co_qualname.rpartition(".")[0]) in methods:
            return f"the network ({location(code.co_filename, line)})"
    return ""


def checked_network(
    build: Callable[[], Any], space: spaces.Space, sizes: Iterable[int] = (), packages: Iterable[str] = ()
) -> Any:
    """Build a network and check its contract; UserError names a violation and its location.

    space: of raw observations; sizes: of batches that it will read; packages: that may define its classes.
    """
    network: Any = nn.Module()  # has no modules of user code
    try:
        network = build()
        check_tensors(network)
        _require_features(network, space)
        check_network(network, space, network.distribution.num_params, sorted({min(size, MAX_ROWS) for size in sizes}))
    except BdbQuit:
        raise
    except UserError as error:
        where = _where_defined(network.modules())
        if not where:
            raise
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:  # anything that user code raises
        known = {package_of(type(module).__module__) for module in network.modules()}
        where = where_raised(error, known | set(packages)) or _where_defined(network.modules())
        what = describe_error(error) if where else f"cannot be built for these spaces: {one_line(str(error))}"
        raise ConfigError(f"{where or 'network'}: {what}") from error
    return network


@torch.no_grad()
def _require_features(network: nn.Module, space: spaces.Space) -> None:
    """Refuse torsos that do not return `out_features` features per row."""
    encoder = getattr(network, "encoder", None)
    for name in ("actor_torso", "critic_torso"):
        torso = getattr(network, name, None)
        if encoder is None or torso is None:
            continue
        width = operator.index(torso.out_features)
        with torch.random.fork_rng(devices=[]):  # random draws are refused elsewhere
            features = torso(encoder(sample_rows(space)))
        if not isinstance(features, Tensor):
            raise ConfigError(f"network: {name} returns a {type(features).__name__}, wants a tensor ({ROWS}, {width})")
        if features.shape != (ROWS, width):
            raise ConfigError(
                f"network: {name} returns shape {tuple(features.shape)} for {ROWS} observations; its "
                f"out_features={width} promises {(ROWS, width)}"
            )
        if features.dtype != torch.float32:
            raise ConfigError(f"network: {name} returns {features.dtype}; the heads read torch.float32")
