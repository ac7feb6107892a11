"""What tensors a network keeps, and where: those that nobody would train, and those that share memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rlexp.errors import ConfigError

OF_TORCH = set(vars(nn.Module()))  # what every module keeps for itself


def attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps besides parameters, buffers, modules and what torch keeps in it."""
    private = type(module).__module__.partition(".")[0] == "torch"  # whose affair it is
    return {
        key: value
        for key, value in vars(module).items()
        if key not in OF_TORCH and not isinstance(value, nn.Module) and not (private and key.startswith("_"))
    }


def _inside(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value, and what is in it if it is a container, by the name that one would write."""
    yield name, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _inside(f"{name}[{key!r}]", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _inside(f"{name}[{index}]", item)


def kept_loose(network: nn.Module) -> dict[str, Any]:
    """Tensors and modules that are attributes, or items of one, and that the network does not know as its own."""
    own = {id(x) for x in (*network.parameters(), *network.buffers(), *network.modules())}
    return {
        name: value
        for place, module in network.named_modules()
        for key, attribute in attributes(module).items()
        for name, value in _inside(f"{place}.{key}".lstrip("."), attribute)
        if isinstance(value, Tensor | nn.Module) and id(value) not in own
    }


def check_tensors(network: nn.Module) -> None:
    """Refuse a network with parameters that nobody would train, or that would come apart once agents are stacked.

    Raises:
        ConfigError: naming them, and how else it can be had.
    """
    for name, param in network.named_parameters():
        if is_lazy(param):
            raise ConfigError(
                f"network: its parameter {name} has no shape yet; modules that find out what they read, as LazyLinear, "
                "cannot be given their agent's own start: give the size, as of the space that a torso is called with"
            )
        if param.dtype != torch.float32:
            raise ConfigError(f"network: its parameter {name} is of {param.dtype}; only torch.float32 can be trained")
    loose = kept_loose(network)
    for name, value in loose.items():
        if isinstance(value, nn.Module) and any(p.requires_grad for p in value.parameters()):
            raise ConfigError(f"network: the parameters of {name} would not be trained; keep it in an nn.ModuleList")
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
            way = "keep it in an nn.ParameterList" if isinstance(value, nn.Parameter) else "make it an nn.Parameter"
            raise ConfigError(f"network: {name} has a gradient, but is no parameter, and would not be trained; {way}")
    _require_apart(network, {name: x for name, x in loose.items() if isinstance(x, Tensor)})


def _places(x: Tensor) -> Tensor:
    """Where its numbers lie in memory, in bytes."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(size) * stride
    return x.data_ptr() + offsets.flatten() * x.element_size()


def _require_apart(network: nn.Module, loose: dict[str, Tensor]) -> None:
    """Refuse trained parameters whose numbers are also another tensor's: each is moved alone once agents are stacked.

    One parameter in two places is one parameter still.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers()) | loose
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, x in tensors.items():
        if x.numel() and x.layout == torch.strided:
            by_storage.setdefault(x.untyped_storage().data_ptr(), []).append((name, x))
    for group in by_storage.values():
        trained = [(name, x) for name, x in group if isinstance(x, nn.Parameter) and x.requires_grad]
        for name, param in trained:
            places = _places(param)
            if len(places.unique()) < len(places):
                raise ConfigError(f"network: numbers of its parameter {name} share memory; .clone() what it is made of")
            for other, x in group:
                if x is not param and torch.isin(_places(x), places).any():
                    raise ConfigError(
                        f"network: its parameter {name} shares memory with {other}, which would come apart where "
                        "agents are stacked; .clone() one, or use the same nn.Parameter in both places"
                    )
