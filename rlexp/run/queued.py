"""queued.json: a job was left in the queue of a cluster; by it later commands know where to ask for the job.

The launcher writes it before it submits the job, and the job's id into it afterwards: whatever ends the command in
between, no later one submits the job again unawares. A later sweep that finds the job ended, or gone from the queue,
removes it.
"""

import contextlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from rlexp.files import file_digest, storage_errors, write_atomically
from rlexp.run.record import now
from rlexp.text import sanitize

NAME = "queued.json"
QUEUES = {"slurm": "Slurm", "ray": "Ray"}
ENDED = ("done", "failed", "pruned")  # statuses of runs for which no queue has anything left to do


@dataclass(frozen=True)
class Queued:
    """A job's place in a queue."""

    queue: str  # one of QUEUES; empty if the file cannot be read
    id: str  # of the job there; empty before it is known
    since: str  # when it was submitted
    host: str  # from where
    record: str | None  # digest of run.json then; one that has changed since was written by the queue's job

    def __str__(self) -> str:
        if not self.queue:
            return f"{NAME} cannot be read"
        if not self.id:
            return f"perhaps a {QUEUES[self.queue]} job, by a command of {self.since} on {self.host} that did not tell"
        return f"{QUEUES[self.queue]} job {self.id}, submitted {self.since} on {self.host}"


def digest(folder: Path) -> str | None:
    """Digest of a folder's run.json; None if there is none."""
    try:
        return file_digest(folder / "run.json")
    except OSError:
        return None


def entry(queue: str, id: str, record: str | None) -> Queued:
    """Mark of a job that is submitted now, from here; record: the digest of its run.json before that."""
    return Queued(queue, id, now(), platform.node(), record)


def write(folder: Path, mark: Queued) -> None:
    """Mark a job as queued; a StorageError if that cannot be written."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, (json.dumps(asdict(mark)) + "\n").encode())


def read(folder: Path) -> Queued | None:
    """The mark in a folder, perhaps an untrusted one; None if there is none."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        found = Queued(**content)
        texts = (found.queue, found.id, found.since, found.host, found.record or "")
        if not all(isinstance(text, str) and len(text) < 200 for text in texts):
            raise ValueError("not texts")
        if found.queue not in QUEUES or not re.fullmatch(r"[\w-]*", found.id, re.ASCII):
            raise ValueError("no job of a queue")
        return Queued(found.queue, found.id, sanitize(found.since), sanitize(found.host), found.record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return Queued("", "", "", "", None)


def still_queued(folder: Path, status: str) -> Queued | None:
    """The mark in a folder, unless the job has ended since it was submitted; status: of run.json, or "waiting"."""
    found = read(folder)
    if found is None or (status in ENDED and digest(folder) != found.record):
        return None
    return found


def remove(folder: Path) -> None:
    """Remove the mark, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        (folder / NAME).unlink()
