"""run.json: what a run is (config, seeds, code) and its status."""

import contextlib
import datetime
import json
import os
import platform
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rlexp.config.identity import config_hash, with_current_names
from rlexp.errors import ConfigError, DivergedError, EnvironmentFault
from rlexp.files import file_digest, open_nofollow, write_atomically
from rlexp.provenance import code_state
from rlexp.text import one_line, sanitize
from rlexp.user_code import chain

Status = Literal["running", "interrupted", "failed", "pruned", "done"]
MEASURED = ("metrics.csv", "evaluation.json")  # files that comparisons read


def now() -> str:
    """The time in UTC, as run.json has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _launch_entries(settings: dict[str, Any], seeds: list[int], folder: Path) -> dict[str, Any]:
    """Entries of run.json that describe a launch."""
    return {
        "config_hash": config_hash(settings),
        "config": settings,
        "seeds": seeds,
        "host": platform.node(),
        "pid": os.getpid(),
        "command": sys.argv,
        **code_state.code_state(),
        **code_state.config_state(settings, folder),
    }


class RecordError(ConfigError):
    """A run.json that cannot be read."""


ENTRIES: dict[type | tuple[type, ...], str] = {  # of run.json, by the type that they have if present
    str: "status config_hash error ended traceback machine started",
    (str, type(None)): "host code commit",
    dict: "config choices files result parent extends versions sources how time declared diverged live loggers",
    list: "seeds made_by command tags",
    int: "launches deaths agents_together",
    (int, float): "paused_at started_unix",
    bool: "training",
}
SHAPES = {name: shape for shape, names in ENTRIES.items() for name in names.split()}


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read run.json of a folder, perhaps an untrusted one: None if there is none, a RecordError if it is damaged."""
    path = folder / "run.json"
    try:
        return as_record(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        flaw = sanitize(one_line(str(error)))
    raise RecordError(f"{path}: cannot be read ({flaw}); fix or remove it, or use resume=never")


def as_record(content: Any) -> dict[str, Any]:
    """Content of a run.json, perhaps an untrusted one: sanitized, classes by their current names; else a ValueError."""
    record = _sanitize(content)
    if flaw := _flaw(record):
        raise ValueError(flaw)
    if "config" in record:
        record["config"] = with_current_names(record["config"])
    return record


def _flaw(record: Any) -> str | None:
    if not isinstance(record, dict):
        return f"it is not an object but {str(record)[:20]}"
    for name, shape in SHAPES.items():
        if name in record and not isinstance(record[name], shape):
            return f"{name} is {str(record[name])[:20]}"
    if "status" not in record:
        return "it has no status"
    if not all(isinstance(version, str) for version in record.get("versions", {}).values()):
        return f"versions are {str(record['versions'])[:20]}"
    if not all(type(seed) is int for seed in record.get("seeds", ())):
        return f"seeds are {str(record['seeds'])[:20]}"
    if not all(re.fullmatch(r"\d+", seed) and isinstance(x, dict) for seed, x in record.get("diverged", {}).items()):
        return f"diverged is {str(record['diverged'])[:20]}"
    return None


def _sanitize(value: Any) -> Any:
    """Sanitize all strings in nested data."""
    if isinstance(value, str):
        return sanitize(value)
    if isinstance(value, dict):
        return {sanitize(key): _sanitize(item) for key, item in value.items()}
    return [_sanitize(item) for item in value] if isinstance(value, list) else value


def diverged_in(record: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Seeds that have diverged, in the content of a run.json: seed -> step, update, metric, value."""
    return {int(seed): dict(entry) for seed, entry in record.get("diverged", {}).items()}


def why_ended(error: BaseException) -> str:
    """The kind of error that ended a run: diverged, memory, environment, or error for any other."""
    for one in chain(error):
        kind, text = type(one).__name__, str(one)
        if kind in ("MemoryError", "OutOfMemoryError") or ("DefaultCPUAllocator" in text and "memory" in text):
            return "memory"
    kinds = {DivergedError: "diverged", EnvironmentFault: "environment"}
    return next((name for kind, name in kinds.items() if isinstance(error, kind)), "error")


class RunRecord:
    """run.json of a folder, rewritten atomically on every change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.json"
        self.data: dict[str, Any] = read_record(folder) or {}

    @property
    def status(self) -> Status | None:
        """Status of the run; None before its first start."""
        return self.data.get("status")

    def start(self, settings: dict[str, Any], seeds: list[int], together: int) -> None:
        """Record that the run with these settings starts or resumes; together: agents in the batch, others included."""
        # this process holds the lock, so the earlier one has died; a death before training is not the run's fault
        if self.status == "running" and self.data.get("training", True):
            self.data["deaths"] = self.data.get("deaths", 0) + 1
        self.data.setdefault("started", now())
        self.data["launches"] = self.data.get("launches", 0) + 1
        if changed := code_state.changed_files(self.data, settings):
            self.data.setdefault("made_by", []).append({name: self.data["sources"].get(name) for name in changed})
        self.update(
            **_launch_entries(settings, seeds, self.path.parent),
            status="running",
            training=False,
            agents_together=together,
            launched=now(),
        )

    def fail(self, error: BaseException, settings: dict[str, Any], seeds: list[int]) -> None:
        """Record the error that ended the run; its traceback also goes to train.log.

        What is said of code and host stays that of the launch that started it, by which its checkpoint was made.
        """
        text = "".join(traceback.format_exception(error))
        is_new = not {"started", "extends"} & self.data.keys()
        entries = _launch_entries(settings, seeds, self.path.parent) if is_new else {}
        self.update(**entries, status="failed", error=one_line(error), ended=why_ended(error), traceback=text)
        path = self.path.with_name("train.log")
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", opener=open_nofollow) as file:
            file.write(text)  # fails for a link or a full disk: run.json has it

    def digests(self, *names: str) -> dict[str, str]:
        """Digests of files, by default those in MEASURED, which reveal later edits."""
        files = [self.path.with_name(name) for name in names or MEASURED]
        return {file.name: file_digest(file) for file in files if file.is_file()}

    def update(self, **changes: Any) -> None:
        """Change entries and write the file; error, ended and traceback last until the status changes."""
        if "status" in changes:
            for name in ("error", "ended", "traceback"):
                self.data.pop(name, None)
        self.data.update(changes, updated=now())
        write_atomically(self.path, (json.dumps(self.data, indent=2) + "\n").encode())
