"""Checks a network's tensors: refuses parameters that would not be trained and tensors that share memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rlexp.errors import ConfigError
from rlexp.plain.attributes import leaves

OF_TORCH = set(vars(nn.Module()))  # attributes of every nn.Module


def attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module other than parameters, buffers, submodules and torch's internals."""
    of_torch = type(module).__module__.partition(".")[0] == "torch"
    return {
        key: value
        for key, value in vars(module).items()
        if key not in OF_TORCH and not isinstance(value, nn.Module) and not (of_torch and key.startswith("_"))
    }


def attributes_inside(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """`attributes` of a network's modules by dotted name."""
    for path, module in network.named_modules():
        for key, value in attributes(module).items():
            yield f"{path}.{key}".lstrip("."), value


def check_tensors(network: nn.Module) -> None:
    """Raise ConfigError for parameters that would not be trained, or not be shared any more once agents are stacked."""
    for name, param in network.named_parameters():
        if is_lazy(param):
            raise ConfigError(
                f"network: its parameter {name} has no shape yet; lazy modules, as LazyLinear, cannot be initialised "
                "per agent: give the size, e.g. from the space that a torso is built with"
            )
        if param.dtype != torch.float32:
            what = f"has dtype {param.dtype}; only torch.float32 can be trained"
            raise ConfigError(f"network: its parameter {name} {what}")
    known = {id(x) for x in (*network.parameters(), *network.buffers(), *network.modules())}
    inside = [leaf for name, value in attributes_inside(network) for leaf in leaves(value, name)]
    loose = {name: x for name, x in inside if isinstance(x, Tensor | nn.Module) and id(x) not in known}
    for name, value in loose.items():
        if isinstance(value, nn.Module) and any(p.requires_grad for p in value.parameters()):
            raise ConfigError(f"network: the parameters of {name} would not be trained; keep it in an nn.ModuleList")
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
            fix = "keep it in an nn.ParameterList" if isinstance(value, nn.Parameter) else "make it an nn.Parameter"
            raise ConfigError(f"network: {name} requires grad but is not registered and would not be trained; {fix}")
    _require_apart(network, {name: x for name, x in loose.items() if isinstance(x, Tensor)})


def _addresses(x: Tensor) -> Tensor:
    """Byte addresses of a tensor's elements."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(size) * stride
    return x.data_ptr() + offsets.flatten() * x.element_size()


def _require_apart(network: nn.Module, loose: dict[str, Tensor]) -> None:
    """Refuse trained parameters that share memory with another tensor: stacking would separate them.

    One nn.Parameter registered twice is fine.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers()) | loose
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, x in tensors.items():
        if x.numel() and x.layout == torch.strided:
            by_storage.setdefault(x.untyped_storage().data_ptr(), []).append((name, x))
    for group in by_storage.values():
        trained = [(name, x) for name, x in group if isinstance(x, nn.Parameter) and x.requires_grad]
        for name, param in trained:
            addresses = _addresses(param)
            if len(addresses.unique()) < len(addresses):
                raise ConfigError(f"network: elements of its parameter {name} share memory; .clone() its source")
            for other, x in group:
                if x is not param and torch.isin(_addresses(x), addresses).any():
                    raise ConfigError(
                        f"network: its parameter {name} shares memory with {other}, but would not once agents are "
                        "stacked; .clone() one, or use the same nn.Parameter twice"
                    )
