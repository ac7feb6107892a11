"""A lock on a folder: the kernel's, which releases it when its holder dies; where it has none, a file that names it."""

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
PATIENCE = 1.0  # seconds for which a lock is tried: whoever probes it holds it for an instant

_held: set["FolderLock"] = set()  # by this process


class BusyError(UserError):
    """A folder in which another process is at work."""


class FolderLock:
    """An exclusive lock on <folder>/.lock, a file that is there while the lock is held, or its holder has been killed.

    As a context manager it raises BusyError when somebody else holds the lock. A forked child does not keep it. On a
    file system without locks the file itself is the lock; that of a killed process of this host is nobody's.

    Args:
        folder: must exist.
        name: of the file; another one is another lock.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.folder, self.path = folder, folder / name
        self.lock: BaseFileLock | None = None  # while it is held

    def acquire(self) -> bool:
        """Take the lock, trying for a second; returns whether it could be had.

        Raises:
            OSError: the lock file cannot be made.
        """
        if self.lock is not None:
            return True
        # filelock's own way out of the kernel's lock takes one error of several for a file system without locks
        lock = FileLock(self.path, thread_local=False) if has_locks(self.folder) else _marker(self.path)
        try:
            lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 20)
        except Timeout:
            return False
        self.lock = lock
        _held.add(self)
        if not isinstance(lock, SoftFileLock):  # which has written the same
            with contextlib.suppress(OSError):  # a full disk: it is held all the same
                self.path.write_text(f"{os.getpid()}\n{platform.node()}\n")
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        lock, self.lock = self.lock, None
        _held.discard(self)
        if lock is not None:
            with contextlib.suppress(OSError):  # the folder is gone or cannot be written to any more: nor can the lock
                if _pid(self.path) == os.getpid():  # else the folder was made anew, and the lock is somebody else's
                    self.path.unlink()
            with contextlib.suppress(OSError):
                lock.release()

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            BusyError: naming the folder and who holds it.
        """
        if not self.acquire():
            gone = "" if has_locks(self.folder) else f"; if it is gone, remove {self.path}"
            raise BusyError(
                f"{self.folder}: {holder(self.path)} is at work in it; wait until it ends, or stop it{gone}"
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.release()


def _record(path: Path) -> list[str]:
    """What a lock file says: process, host, and what else filelock notes."""
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def _pid(path: Path) -> int | None:
    pid = (_record(path) or [""])[0]
    return int(pid) if pid.isdecimal() else None


def holder(path: Path) -> str:
    """Who took a lock last, by its file: "process 123 on host"."""
    record = _record(path)
    if len(record) < 2 or not record[0].isdecimal():
        return "another process"
    return f"process {record[0]} on {record[1].partition('?')[0]}"  # behind it: the container, for filelock


def has_locks(folder: Path) -> bool:
    """Whether the folder's file system has locks, tried on a file that nobody else knows.

    Raises:
        OSError: no file can be made there.
    """
    if fcntl is None:
        return True
    with tempfile.TemporaryFile(dir=folder, prefix=NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # ENOSYS, ENOTSUP, ENOLCK: every file system has its own
            return False
    return True


def _marker(path: Path) -> SoftFileLock:
    return SoftFileLock(path, thread_local=False)


def probe(folder: Path) -> bool | None:
    """Whether somebody, this process included, holds a folder's lock; None where that cannot be told."""
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
        return _probe_marker(folder / NAME)
    finally:
        os.close(descriptor)
    return False


def _probe_marker(path: Path) -> bool | None:
    # who is gone is told by filelock, when it takes over what he has left
    lock = _marker(path)
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
    """Whether somebody, this process included, holds a folder's lock; False where that cannot be told."""
    return probe(folder) is True


def _forget() -> None:
    # environments in processes of their own are forked: filelock has closed the lock's file there, and it is not theirs
    for lock in list(_held):
        lock.lock = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
