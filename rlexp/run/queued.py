"""queued.json: a job was left in the queue of a cluster; by it later commands know where to ask for the job.

The launcher writes it before it submits the job, and the job's id into it afterwards: whatever ends the command in
between, no later one submits the job again unawares. A later sweep that finds the job ended, or gone from the queue,
removes it.
"""

import contextlib
import json
import os
import platform
import re
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlexp.files import file_digest, storage_errors, write_atomically
from rlexp.run.record import now
from rlexp.text import sanitize

NAME = "queued.json"
MOST = 4096  # bytes of it
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
    user: str | None = None  # who submitted it
    clusters: str | None = None  # to which of Slurm's clusters, if that was set
    controller: str | None = None  # which cluster took it otherwise: Slurm's name of it, or Ray's address

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


def user() -> str:
    """Name of this process's user, else the number."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def entry(
    queue: str, id: str, record: str | None, clusters: str | None = None, controller: str | None = None
) -> Queued:
    """Mark of a job that is submitted now, from here; record: the digest of its run.json before that."""
    return Queued(queue, id, now(), platform.node(), record, user(), clusters, controller)


def write(folder: Path, mark: Queued) -> None:
    """Mark a job as queued; a StorageError if that cannot be written."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, (json.dumps(asdict(mark)) + "\n").encode())


def read(folder: Path) -> Queued | None:
    """The mark in a folder, perhaps an untrusted one; None if there is none."""
    try:
        found = Queued(**json.loads(_content(folder / NAME)))
        places = [found.user, found.clusters, found.controller]
        texts = (found.queue, found.id, found.since, found.host, found.record or "", *(text or "" for text in places))
        if not all(isinstance(text, str) and len(text) < 200 for text in texts):
            raise ValueError("not texts")
        if found.queue not in QUEUES or not re.fullmatch(r"[\w-]*", found.id, re.ASCII):
            raise ValueError("no job of a queue")
        return replace(found, since=sanitize(found.since), host=sanitize(found.host))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return Queued("", "", "", "", None)


def _content(path: Path) -> bytes:
    """A file's content; ValueError if it is none, or too long for a mark. Follows no link, and waits for nothing."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a file")
        content = os.read(descriptor, MOST + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST:
        raise ValueError("too long")
    return content


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
