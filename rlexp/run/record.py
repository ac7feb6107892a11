"""A run's folder: its name, and run.json, which says what the run is and how it stands."""

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
from rlexp.files import file_digest, through_no_link, write_atomically
from rlexp.provenance import code_state
from rlexp.text import harmless

Status = Literal["running", "interrupted", "failed", "pruned", "done"]


MEASURED = ("metrics.csv", "evaluation.json")  # what comparisons are made from


# Names ---------------------------------------------------------------------------------------------------------------


# run.json ------------------------------------------------------------------------------------------------------------


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _of(settings: dict[str, Any], seeds: list[int], folder: Path) -> dict[str, Any]:
    """What a launch says of itself."""
    return {
        "config_hash": config_hash(settings),
        "config": settings,
        "seeds": seeds,
        "host": platform.node(),
        "pid": os.getpid(),
        "command": sys.argv,
        **code_state.code_state(),
        **code_state.of_config(settings, folder),
    }


class RecordError(ConfigError):
    """A run.json that cannot be read: nobody knows what its run is, and how it stands."""


SHAPES: dict[str, type | tuple[type, ...]] = {  # of what is read of a run.json, where it is there
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
    """run.json of a folder, which may be a stranger's, with harmless texts; None if there is none.

    Raises:
        RecordError: it cannot be read, or is no run.json.
    """
    path = folder / "run.json"
    way_out = "mend or remove it, or use resume=never"
    try:
        record = _harmless(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        line = harmless(" ".join(str(error).split()))
        raise RecordError(f"{path}: cannot be read ({line}); {way_out}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{path}: cannot be read (it is no object but {str(record)[:20]}); {way_out}")
    for name, shape in SHAPES.items():
        if name in record and not isinstance(record[name], shape):
            raise RecordError(f"{path}: cannot be read ({name} is {str(record[name])[:20]}); {way_out}")
    if not isinstance(record.get("status"), str):
        raise RecordError(f"{path}: cannot be read (it holds no status); {way_out}")
    if not all(isinstance(own, str) for own in record.get("versions", {}).values()):
        raise RecordError(f"{path}: cannot be read (versions are {str(record['versions'])[:20]}); {way_out}")
    if not all(type(seed) is int for seed in record.get("seeds", ())):
        raise RecordError(f"{path}: cannot be read (seeds are {str(record['seeds'])[:20]}); {way_out}")
    if "config" in record:
        record["config"] = with_current_names(record["config"])
    return record


def _harmless(value: Any) -> Any:
    """The same nested data with nothing in its texts that a terminal would obey."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, dict):
        return {harmless(key): _harmless(own) for key, own in value.items()}
    return [_harmless(own) for own in value] if isinstance(value, list) else value


class RunRecord:
    """run.json of one folder, rewritten atomically at every change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.json"
        self.data: dict[str, Any] = read_record(folder) or {}

    @property
    def status(self) -> Status | None:
        """How the run stands; None before it first started."""
        return self.data.get("status")

    def start(self, settings: dict[str, Any], seeds: list[int], together: int) -> None:
        """Note that the run starts, or goes on.

        Args:
            settings: the resolved config less what cannot change results.
            seeds: one an agent.
            together: agents trained side by side, those of other runs included.
        """
        # nobody else writes here: the process that did has died; before it trained, that was not this run's doing
        if self.status == "running" and self.data.get("training", True):
            self.data["deaths"] = self.data.get("deaths", 0) + 1
        self.data.setdefault("started", _now())
        self.data["launches"] = self.data.get("launches", 0) + 1
        if changed := code_state.changed_files(self.data, settings):
            self.data.setdefault("made_by", []).append({name: self.data["sources"].get(name) for name in changed})
        self.update(
            **_of(settings, seeds, self.path.parent),
            status="running",
            training=False,
            agents_together=together,
            launched=_now(),
        )

    def survived(self) -> None:
        """A checkpoint was written: whatever killed earlier launches before they came so far is overcome."""
        if self.data.pop("deaths", 0):
            self.update()

    def fail(self, error: BaseException, settings: dict[str, Any], seeds: list[int]) -> None:
        """Note what ended the run, in one line and as a traceback, which goes to train.log as well."""
        line = " ".join(f"{type(error).__name__}: {error}".split())
        told = "".join(traceback.format_exception(error))
        self.update(**_of(settings, seeds, self.path.parent), status="failed", error=line, traceback=told)
        path = self.path.with_name("train.log")
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", opener=through_no_link) as file:
            file.write(told)  # unless it is a link, or the disk is full: run.json has it

    def finish(self, result: dict[str, Any]) -> None:
        """The run's last act: its result, digests of what it measured, status done."""
        self.update(status="done", result=result, files=self.digests())

    def digests(self) -> dict[str, str]:
        """Of the files that comparisons are made from, by which an edit shows."""
        files = [self.path.with_name(name) for name in MEASURED]
        return {file.name: file_digest(file) for file in files if file.is_file()}

    def update(self, **changes: Any) -> None:
        """Change some entries and write the file; an error lasts until the status changes."""
        if "status" in changes:
            for name in ("error", "traceback"):
                self.data.pop(name, None)
        self.data.update(changes, updated=_now())
        write_atomically(self.path, (json.dumps(self.data, indent=2) + "\n").encode())
