"""Keeps what a run declares as of its first launch, or of the sweep that planned it: before it has any result."""

import json
from pathlib import Path
from typing import Any

from rlexp.config.declaration import Declared
from rlexp.run.record import RunRecord


def declare(record: RunRecord, declared: Declared) -> None:
    """Add what a run declares to its record, in memory; what was declared first stays.

    A run that was started, or extends one that was, without a declaration gets none: its results may have been seen.
    """
    data = record.data
    if not {"declared", "started", "extends"} & data.keys():
        data["declared"] = planned_declaration(record.path.parent) or declared.entry


def planned_declaration(folder: Path) -> dict[str, Any] | None:
    """What the sweep that planned the run in a folder declared, by its study's sweep.json; None if it is not known."""
    try:
        jobs = json.loads((folder.parent / "sweep.json").read_text(encoding="utf-8"))["jobs"]
        return Declared.read(jobs[folder.name]["declared"]).entry
    except (OSError, ValueError, KeyError, TypeError):  # not planned, or a plan that was edited
        return None


def otherwise(data: dict[str, Any], declared: Declared) -> str | None:
    """How a launch declares otherwise than the run's first, in one line; data: content of run.json, or an entry."""
    try:
        first = Declared.read(data["declared"]) if "declared" in data else Declared()
    except ValueError as error:
        return f"{error}: compare refuses this run"
    if first == declared:
        return None
    if "declared" not in data:
        return f"{declared}: not recorded, as the run was started without a declaration"
    return f"{declared}: the run was declared with {first}, which stays"
