"""Folder locks: the kernel's flock, released when its holder dies, or a lock file on file systems without it."""

import contextlib
import os
import platform
import tempfile
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

_held: set["FolderLock"] = set()  # locks that this process holds


class BusyError(UserError):
    """Another process is using the folder."""


class FolderLock:
    """An exclusive lock on <folder>/.lock; the file exists while the lock is held, or after its holder was killed.

    As a context manager it raises BusyError when another process holds the lock. Forked children do not inherit it. On
    a file system without flock the file itself is the lock; one left by a killed process of this host is stale.

    Args:
        folder: must exist.
        name: of the lock file.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.folder, self.path = folder, folder / name
        self.lock: BaseFileLock | None = None  # while it is held

    def acquire(self) -> bool:
        """Try to acquire the lock for a second; returns whether it was acquired.

        Raises:
            OSError: the lock file cannot be created.
        """
        if self.lock is not None:
            return True
        # filelock's fallback recognizes only one of the errors that file systems without flock give
        lock = FileLock(self.path, thread_local=False) if has_locks(self.folder) else _soft_lock(self.path)
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

    def release(self) -> None:
        """Release the lock, if held."""
        lock, self.lock = self.lock, None
        _held.discard(self)
        if lock is not None:
            with contextlib.suppress(OSError):  # the folder is gone or no longer writable
                if _pid(self.path) == os.getpid():  # otherwise the folder was recreated, with another process's lock
                    self.path.unlink()
            with contextlib.suppress(OSError):
                lock.release()

    def __enter__(self) -> Self:
        """Acquire the lock.

        Raises:
            BusyError: names the folder and the process that holds the lock.
        """
        if not self.acquire():
            gone = "" if has_locks(self.folder) else f"; if it is gone, remove {self.path}"
            raise BusyError(f"{self.folder}: {holder(self.path)} is using it; wait for it to finish, or stop it{gone}")
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.release()


def _record(path: Path) -> list[str]:
    """Content of a lock file: pid, host, and what filelock adds."""
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def _pid(path: Path) -> int | None:
    pid = (_record(path) or [""])[0]
    return int(pid) if pid.isdecimal() else None


def holder(path: Path) -> str:
    """The last holder of a lock, from its file: "process 123 on host"."""
    record = _record(path)
    if len(record) < 2 or not record[0].isdecimal():
        return "another process"
    return f"process {record[0]} on {record[1].partition('?')[0]}"  # followed by filelock's container id


def has_locks(folder: Path) -> bool:
    """Whether the folder's file system supports flock, checked on a temporary file.

    Raises:
        OSError: no file can be created there.
    """
    if fcntl is None:
        return True
    with tempfile.TemporaryFile(dir=folder, prefix=NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # ENOSYS, ENOTSUP or ENOLCK, depending on the file system
            return False
    return True


def _soft_lock(path: Path) -> SoftFileLock:
    return SoftFileLock(path, thread_local=False)


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
    except BlockingIOError:
        return True
    except OSError:
        return _probe_soft_lock(folder / NAME)
    finally:
        os.close(descriptor)
    return False


def _probe_soft_lock(path: Path) -> bool | None:
    lock = _soft_lock(path)  # acquiring it breaks a stale lock
    try:
        lock.acquire(timeout=PATIENCE / 10, poll_interval=PATIENCE / 20)
    except Timeout:
        return True
    except OSError:
        return None
    lock.release()
    return False


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
