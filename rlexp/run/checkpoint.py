"""Checkpoints: written atomically, read with weights_only=True, refused in one line when they do not fit."""

import io
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from rlexp.errors import CheckpointError
from rlexp.files import write_atomically

FORMAT = "rlexp-checkpoint-4"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a crash at any moment leaves the last good one."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


OWN_WAY_OUT = "remove it, or start anew with resume=never"


def load(path: Path, *, config_hash: str | None = None, way_out: str = OWN_WAY_OUT) -> dict[str, Any]:
    """Read a checkpoint, to the CPU.

    Args:
        path: the file.
        config_hash: refuse a checkpoint of another config.
        way_out: what a refusal says to do.

    Raises:
        CheckpointError: missing, damaged, of another program, or of another config.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever comes of reading bytes that are no checkpoint
        line = shorten(str(error), 120, placeholder=" ...")
        raise CheckpointError(f"{path}: is damaged or no checkpoint ({line}); {way_out}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: was not written by this version of rlexp (no {FORMAT}); {way_out}")
    theirs = state.get("config_hash")
    if config_hash is not None and theirs != config_hash:
        raise CheckpointError(f"{path}: belongs to config {theirs}, this run is {config_hash}; {way_out}")
    return state
