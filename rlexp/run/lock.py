"""Folder locks: the kernel's flock, released when its holder dies, or a lock file on file systems without it."""

import contextlib
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from rlexp.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
PATIENCE = 1.0  # seconds for which acquiring is retried: a probe holds the lock for an instant
SILENCE = 5.0  # seconds before a command that waits says so

_held: set["FolderLock"] = set()  # locks that this process holds


class BusyError(UserError):
    """Another process is using the folder."""


class FolderLock:
    """An exclusive lock on <folder>/<name>; the file exists while the lock is held, or after its holder was killed.

    As a context manager it raises BusyError when another process holds the lock. Forked children do not inherit it. On
    a file system without flock the file itself is the lock; one left by a killed process of this host is stale.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.folder, self.path = folder, folder / name
        self.lock: BaseFileLock | None = None  # while it is held

    def acquire(self) -> bool:
        """Try for a second; returns whether the lock was acquired. An OSError: its file cannot be created."""
        if self.lock is not None:
            return True
        # filelock's fallback recognizes only one of the errors that file systems without flock give
        lock = (FileLock if has_locks(self.folder) else SoftFileLock)(self.path, thread_local=False)
        try:
            lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 20)
        except Timeout:
            return False
        self.lock = lock
        _held.add(self)
        if not isinstance(lock, SoftFileLock):  # a soft lock has written the same
            with contextlib.suppress(OSError):  # disk full: the lock is held all the same
                self.path.write_text(f"{os.getpid()}\n{platform.node()}\n")
        return True

    def wait(self) -> None:
        """Acquire it, however long another process holds it; after some seconds a line says who does."""
        since, told = time.monotonic(), False
        while not self.acquire():
            if not told and time.monotonic() - since > SILENCE:
                print(f"waiting for {holder(self.path)}, which is using {self.folder}{self._if_gone()}", flush=True)
                told = True

    def _if_gone(self) -> str:
        """What to do about a lock whose holder is no more, which the kernel does not see to everywhere."""
        return "" if has_locks(self.folder) else f"; if it is gone, remove {self.path}"

    def release(self) -> None:
        """Release the lock, if held."""
        lock, self.lock = self.lock, None
        _held.discard(self)
        if lock is not None:
            with contextlib.suppress(OSError):  # the folder is gone or no longer writable
                found = _holder(self.path)
                if found and found[0] == os.getpid():  # otherwise the folder was recreated, with another's lock
                    self.path.unlink()
            with contextlib.suppress(OSError):
                lock.release()

    def __enter__(self) -> Self:
        if not self.acquire():
            what = f"{holder(self.path)} is using it; wait for it to finish, or stop it{self._if_gone()}"
            raise BusyError(f"{self.folder}: {what}")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _holder(path: Path) -> tuple[int, str] | None:
    """The pid and host in a lock file."""
    try:
        pid, host, *_ = path.read_text(encoding="utf-8").split()
        return int(pid), host.partition("?")[0]  # followed by filelock's container id
    except (OSError, ValueError):
        return None


def holder(path: Path) -> str:
    """The last holder of a lock, from its file: "process 123 on host"."""
    found = _holder(path)
    return f"process {found[0]} on {found[1]}" if found else "another process"


def has_locks(folder: Path) -> bool:
    """Whether the folder's file system supports flock; an OSError if no file can be created there to try."""
    if fcntl is None:
        return True
    with tempfile.TemporaryFile(dir=folder, prefix=NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # ENOSYS, ENOTSUP or ENOLCK, depending on the file system
            return False
    return True


def probe(folder: Path) -> bool | None:
    """Whether any process, this one included, holds a folder's lock; None if unknown."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        pass  # a file system without flock
    finally:
        os.close(descriptor)
    try:  # acquiring it breaks a stale lock
        with SoftFileLock(folder / NAME, thread_local=False).acquire(PATIENCE / 10, poll_interval=PATIENCE / 20):
            return False
    except Timeout:
        return True
    except OSError:
        return None


def holds_any() -> bool:
    """Whether this process holds any lock."""
    return bool(_held)


def is_held(folder: Path) -> bool:
    """Whether any process, this one included, holds a folder's lock; False if unknown."""
    return probe(folder) is True


def _drop_in_child() -> None:
    # in forked environment processes filelock has closed the lock's file: the parent holds the lock
    for lock in list(_held):
        lock.lock = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)
