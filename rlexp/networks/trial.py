"""A network of somebody's, tried before the first step, and what is wrong with it in a line that names their file."""

import inspect
import operator
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlexp.errors import ConfigError, UserError
from rlexp.networks.checks import ROWS, check_network, sample_rows
from rlexp.networks.tensors import check_tensors
from rlexp.whose import is_theirs, package_of, raised, told, where_defined, where_raised

MOST = 256  # rows read at once


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
