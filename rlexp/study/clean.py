"""Removes folders, checkpoints or planned jobs of a study, by status and after confirmation."""

import contextlib
import json
import os
import platform
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlexp.errors import ConfigError
from rlexp.files import write_atomically
from rlexp.run import lock, queued
from rlexp.study.status import JobStatus, PlannedJob, ask_queue, find, planned, read_job_status, read_study

FOLDERS = ("failed", "killed", "interrupted", "pruned")  # statuses of jobs whose folders may be removed
CLEANABLE = (*FOLDERS, "queued", "waiting", "checkpoints")


@dataclass(frozen=True)
class Removal:
    """An item to remove: a run's folder, its checkpoint, its queued.json, or a waiting job's entry in sweep.json."""

    kind: Literal["folder", "checkpoint", "queue mark", "planned job"]
    path: Path
    job: JobStatus
    entry: PlannedJob | None = None  # of a planned job

    def __str__(self) -> str:
        files = [Path(root, name) for root, _, names in os.walk(self.path) for name in names] or [self.path]
        size = " " * 13 if self.entry else f"{sum(file.lstat().st_size for file in files) / 1e6:10.1f} MB"
        elsewhere = self.job.status == "killed" and self.job.host not in (None, platform.node())
        more = f"  ({self.job.error})" if self.job.mark else f"  (ran on {self.job.host})" if elsewhere else ""
        return f"{self.job.status:<11}{size}  {self.path}{more}"


def removals(study: Path, what: list[str]) -> list[Removal]:
    """Items of a study to remove. what: some of CLEANABLE."""
    entries, found = planned(study), []
    for job in read_study(study):
        if job.folder.resolve() != study.resolve() / job.folder.relative_to(study):
            continue  # sweep.json names a symbolic link, which may point anywhere
        checkpoint = job.folder / "checkpoint.pt"
        if job.status == "done" and "checkpoints" in what and checkpoint.is_file():
            found.append(Removal("checkpoint", checkpoint, job))
        elif job.status == "queued" and "queued" in what:
            found.append(Removal("queue mark", job.folder / queued.NAME, job))
        elif job.status == "waiting" and "waiting" in what and job.folder in entries:
            found.append(Removal("planned job", job.folder, job, entries[job.folder]))
        elif job.status in what and job.status in FOLDERS:
            found.append(Removal("folder", job.folder, job))
    return found


def remove(item: Removal) -> str | None:
    """Remove an item unless a process is using it; returns why it was kept, None if removed."""
    # a sweep locks its own folder to write sweep.json
    guard = lock.FolderLock(item.entry.plan.parent if item.entry else item.job.folder)
    try:
        kept = _remove(item) if guard.acquire() else f"{lock.holder(guard.path)} is using {guard.folder}"
        guard.release()
        if kept is None and item.kind == "folder":
            item.path.rmdir()
        return kept
    except OSError as error:
        return error.strerror or str(error)
    finally:
        guard.release()


def _remove(item: Removal) -> str | None:
    folder = item.job.folder
    if item.entry is not None:
        if lock.is_held(folder) or (folder / "run.json").exists():
            return "it has started in the meantime"
        if _status(folder) == "queued":
            return "it has been submitted in the meantime"
        content = json.loads(item.entry.plan.read_text(encoding="utf-8"))
        content["jobs"].pop(item.entry.name, None)
        write_atomically(item.entry.plan, (json.dumps(content, indent=1) + "\n").encode())
        queued.remove(folder)
        with contextlib.suppress(OSError):  # the folder reserved for it is empty
            folder.rmdir()
    elif _status(folder) != item.job.status:
        return "it has changed in the meantime"
    elif item.kind in ("checkpoint", "queue mark"):
        item.path.unlink()
    elif any(path.parent != folder for path in find(folder, "run.json")):
        return "it contains other runs"
    else:  # run.json late, so that after a crash the folder is still recognized; the lock last
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == lock.NAME, path.name == "run.json")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    return None


def _status(folder: Path) -> str:
    """Status of a job whose folder is locked here."""
    return ask_queue([read_job_status(folder, held=False)])[0].status


def clean(studies: list[Path], what: list[str], yes: bool) -> None:
    """List the items, ask for confirmation unless `yes` (a ConfigError without a terminal), and remove them."""
    items = {item.path.resolve(): item for study in studies for item in removals(study, what)}
    if not items:
        print(f"nothing to remove: no {' or '.join(what)} in {', '.join(map(str, studies))}")
        return
    print(*items.values(), sep="\n")
    counts = Counter(item.kind for item in items.values())
    named = " and ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items())
    if not yes and not _confirmed(f"remove {'this' if len(items) == 1 else 'these'} {named}? [y/N] "):
        print("nothing removed")
        return
    kept = [f"kept: {item.path}: {reason}" for item in items.values() if (reason := remove(item)) is not None]
    print(f"removed {len(items) - len(kept)} of {len(items)}", *kept, sep="\n")


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on; yes=true removes them without asking")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False
