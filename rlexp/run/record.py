"""run.json: what a run is (config, seeds, code) and its status."""

import contextlib
import datetime
import json
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

from rlexp.config.identity import config_hash, with_current_names
from rlexp.errors import ConfigError
from rlexp.files import file_digest, open_nofollow, write_atomically
from rlexp.provenance import code_state
from rlexp.text import one_line, sanitize

Status = Literal["running", "interrupted", "failed", "pruned", "done"]


MEASURED = ("metrics.csv", "evaluation.json")  # files that comparisons read


def _now() -> str:
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


SHAPES: dict[str, type | tuple[type, ...]] = {  # types of run.json's entries, where present
    "status": str,
    "config": dict,
    "config_hash": str,
    "seeds": list,
    "files": dict,
    "result": dict,
    "parent": dict,
    "extends": dict,
    "choices": dict,
    "versions": dict,
    "sources": dict,
    "made_by": list,
    "error": str,
    "traceback": str,
    "host": (str, type(None)),
    "machine": str,
    "started": str,
    "command": list,
    "launches": int,
    "deaths": int,
    "agents_together": int,
    "how": dict,
    "time": dict,
    "paused_at": (int, float),
    "started_unix": (int, float),
    "training": bool,
    "code": (str, type(None)),
    "commit": (str, type(None)),
}


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read run.json of a folder, perhaps an untrusted one, with sanitized strings; None if there is none.

    Raises:
        RecordError: it cannot be read, or is not a run.json.
    """
    path = folder / "run.json"
    remedy = "fix or remove it, or use resume=never"
    try:
        record = _sanitize(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        line = sanitize(one_line(str(error)))
        raise RecordError(f"{path}: cannot be read ({line}); {remedy}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{path}: cannot be read (it is not an object but {str(record)[:20]}); {remedy}")
    for name, shape in SHAPES.items():
        if name in record and not isinstance(record[name], shape):
            raise RecordError(f"{path}: cannot be read ({name} is {str(record[name])[:20]}); {remedy}")
    if not isinstance(record.get("status"), str):
        raise RecordError(f"{path}: cannot be read (it has no status); {remedy}")
    if not all(isinstance(version, str) for version in record.get("versions", {}).values()):
        raise RecordError(f"{path}: cannot be read (versions are {str(record['versions'])[:20]}); {remedy}")
    if not all(type(seed) is int for seed in record.get("seeds", ())):
        raise RecordError(f"{path}: cannot be read (seeds are {str(record['seeds'])[:20]}); {remedy}")
    if "config" in record:
        record["config"] = with_current_names(record["config"])
    return record


def _sanitize(value: Any) -> Any:
    """Sanitize all strings in nested data."""
    if isinstance(value, str):
        return sanitize(value)
    if isinstance(value, dict):
        return {sanitize(key): _sanitize(item) for key, item in value.items()}
    return [_sanitize(item) for item in value] if isinstance(value, list) else value


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
        """Record that the run starts or resumes.

        Args:
            settings: the run's identity; see `jobs.job.settings_of`.
            seeds: one per agent.
            together: agents in the batch, those of other runs included.
        """
        # this process holds the lock, so the earlier one has died; a death before training is not the run's fault
        if self.status == "running" and self.data.get("training", True):
            self.data["deaths"] = self.data.get("deaths", 0) + 1
        self.data.setdefault("started", _now())
        self.data["launches"] = self.data.get("launches", 0) + 1
        if changed := code_state.changed_files(self.data, settings):
            self.data.setdefault("made_by", []).append({name: self.data["sources"].get(name) for name in changed})
        self.update(
            **_launch_entries(settings, seeds, self.path.parent),
            status="running",
            training=False,
            agents_together=together,
            launched=_now(),
        )

    def survived(self) -> None:
        """Reset the count of deaths: a checkpoint was written, so that the run has made progress."""
        if self.data.pop("deaths", 0):
            self.update()

    def fail(self, error: BaseException, settings: dict[str, Any], seeds: list[int]) -> None:
        """Record the error that ended the run; its traceback also goes to train.log."""
        text = "".join(traceback.format_exception(error))
        entries = _launch_entries(settings, seeds, self.path.parent)
        self.update(**entries, status="failed", error=one_line(error), traceback=text)
        path = self.path.with_name("train.log")
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", opener=open_nofollow) as file:
            file.write(text)  # fails for a link or a full disk: run.json has it

    def finish(self, result: dict[str, Any]) -> None:
        """Record the result and digests of the measured files; status done."""
        self.update(status="done", result=result, files=self.digests())

    def digests(self) -> dict[str, str]:
        """Digests of the files in MEASURED, which reveal later edits."""
        files = [self.path.with_name(name) for name in MEASURED]
        return {file.name: file_digest(file) for file in files if file.is_file()}

    def update(self, **changes: Any) -> None:
        """Change entries and write the file; error and traceback last until the status changes."""
        if "status" in changes:
            for name in ("error", "traceback"):
                self.data.pop(name, None)
        self.data.update(changes, updated=_now())
        write_atomically(self.path, (json.dumps(self.data, indent=2) + "\n").encode())
