"""live.yaml, which is edited while a run goes, and live.csv, the changes that were made."""

import csv
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlexp.errors import CheckpointError
from rlexp.files import storage_errors, write_atomically
from rlexp.run.record import read_record
from rlexp.text import one_line
from rlexp.training.live import Change, Range

log = logging.getLogger(__name__)

HEAD = """\
# Hyperparameters that may change while the run goes: edit a value and save; it is in force from the next update on.
# A list is a schedule over the whole run, as [2.5e-4, 0]. live.csv keeps the changes; what is out of range is refused,
# as train.log says. The same by command: python -m rlexp.tune_live run=<this folder> optimizer.lr=1e-4
"""


def read_values(text: str) -> dict[str, Any]:
    """Values by dotted key; a ValueError if the text is not such a file."""
    try:
        # OmegaConf reads 1e-4 as a number, which YAML does not
        plain = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ValueError(one_line(str(error), 120)) from None
    if not isinstance(plain, dict):
        raise ValueError("it has no lines like optimizer.lr: 1e-4")
    return {str(key): value for key, value in plain.items()}


class LiveFiles:
    """live.yaml and live.csv in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path, self.log_path = folder / "live.yaml", folder / "live.csv"
        self.seen: tuple[int, int, int] | None = None  # what identifies the content that was last read

    def offer(self, values: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
        """Write live.yaml with a line for each value, unless it is there."""
        if self.path.exists():
            return
        width = max(len(f"{key}: {value}") for key, value in values.items())
        lines = [
            f"{f'{key}: {value}':<{width}}  # {ranges[key][0]:g} to {ranges[key][1]:g}" for key, value in values.items()
        ]
        with storage_errors(self.path):
            write_atomically(self.path, (HEAD + "\n".join(lines) + "\n").encode())

    def read(self) -> dict[str, Any]:
        """Values in live.yaml, if it has changed since the last call; none, and a warning, if it cannot be read."""
        try:
            at = os.stat(self.path)
            if (now := (at.st_mtime_ns, at.st_size, at.st_ino)) == self.seen:
                return {}
            self.seen = now
            return read_values(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("live.yaml: cannot be read (%s); the run goes on with the values before", error)
            return {}

    def changes(self) -> list[Change]:
        """The rows of live.csv, without a torn last one; a CheckpointError if it is damaged."""
        kept = (read_record(self.path.parent) or {}).get("live", {}).get("changes", 0)
        changes: list[Change] = []
        try:
            rows = csv.DictReader(io.StringIO(self._whole_rows().decode(), newline=""))
            changes = [Change(int(r["update"]), int(r["step"]), r["key"], r["before"], r["value"]) for r in rows]
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            what = f"cannot be read ({error!r}), and says which values the run had"
            raise CheckpointError(f"{self.log_path}: {what}; restore it, or use resume=never") from None
        if len(changes) < kept:
            what = f"holds {len(changes)} of {kept} changes that run.json counts"
            raise CheckpointError(f"{self.log_path}: {what}; restore it, or use resume=never")
        return changes

    def _whole_rows(self) -> bytes:
        """Content of live.csv without a torn last row; empty if there is none."""
        content = self.log_path.read_bytes() if self.log_path.exists() else b""
        return content[: content.rfind(b"\n") + 1]

    def keep(self, change: Change) -> None:
        """Add a row to live.csv, on disk: it must outlive what follows from it."""
        with storage_errors(self.log_path):
            before, text = self._whole_rows(), io.StringIO(newline="")
        csv.writer(text).writerows([change] if before else [Change._fields, change])
        write_atomically(self.log_path, before + text.getvalue().encode())
