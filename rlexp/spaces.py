"""Gymnasium spaces as plain data, for checkpoints."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlexp.errors import ConfigError


def describe(space: spaces.Space) -> dict[str, Any]:
    """The space as plain data and tensors; `restore` is the inverse."""
    if isinstance(space, spaces.Box):
        bounds = {name: torch.from_numpy(getattr(space, name).copy()) for name in ("low", "high")}
        return {"type": "Box", "dtype": space.dtype.name, **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    raise ConfigError(f"space {space} is not supported; use Box, Discrete or MultiDiscrete")


def restore(data: dict[str, Any]) -> spaces.Space:
    """The space behind the data of `describe`."""
    if data["type"] == "Box":
        return spaces.Box(data["low"].numpy(), data["high"].numpy(), dtype=np.dtype(data["dtype"]).type)
    if data["type"] == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"])
    return spaces.MultiDiscrete(data["nvec"], start=data["start"])


def summary(data: dict[str, Any]) -> str:
    """One-line text of a space, from the data of `describe`; a Box without its bounds."""
    return f"Box{tuple(data['low'].shape)} {data['dtype']}" if data["type"] == "Box" else str(restore(data))


def require_readable(space: spaces.Space) -> None:
    """Refuse (ConfigError) a space whose observations networks cannot read."""
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
        raise ConfigError(
            f"observation space {space} is not supported; use Box, Discrete or MultiDiscrete, as "
            "returned by gymnasium.wrappers.FlattenObservation"
        )


def storage_dtype(space: spaces.Space) -> torch.dtype:
    """Dtype in which raw observations are stored: uint8 stays uint8, other integers become int64, the rest float32."""
    if space.dtype == np.uint8:
        return torch.uint8
    return torch.int64 if np.issubdtype(space.dtype, np.integer) else torch.float32
