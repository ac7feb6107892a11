"""Checkpoints: written atomically, read with weights_only=True, refused in one line if they do not fit."""

import io
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from rlexp.errors import CheckpointError
from rlexp.files import write_atomically

FORMAT = "rlexp-checkpoint-4"
REMEDY = "remove it, or train from scratch with resume=never"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a crash at any time leaves the previous one intact."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path, *, config_hash: str | None = None, remedy: str = REMEDY) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. remedy: ends the error message.

    Raises:
        CheckpointError: missing, damaged, of another program, or of another config than `config_hash`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # anything, for bytes that are not a checkpoint
        line = shorten(str(error), 120, placeholder=" ...")
        raise CheckpointError(f"{path}: is damaged or not a checkpoint ({line}); {remedy}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: was not written by this version of rlexp (no {FORMAT}); {remedy}")
    found = state.get("config_hash")
    if config_hash is not None and found != config_hash:
        raise CheckpointError(f"{path}: belongs to config {found}, this run is {config_hash}; {remedy}")
    return state
