"""A lock on a folder, which the kernel releases when its holder dies, however it dies."""

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import Self

from rlexp.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing is ever locked
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
PATIENCE = 1.0  # seconds for which a lock is tried: whoever probes it holds it for an instant

_held: set["FolderLock"] = set()  # by this process


class BusyError(UserError):
    """A folder in which another process is at work."""


class FolderLock:
    """An exclusive lock on <folder>/.lock, a file that is there while the lock is held, or its holder has been killed.

    As a context manager it raises BusyError when somebody else holds the lock. A forked child does not keep it.

    Args:
        folder: must exist.
        name: of the file; another one is another lock.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.folder, self.path = folder, folder / name
        self.descriptor: int | None = None
        self.guards = False  # whether it keeps others out: there are file systems without locks

    def acquire(self) -> bool:
        """Take the lock, trying for a second; returns whether it could be had.

        Raises:
            OSError: the lock file cannot be made.
        """
        deadline = time.monotonic() + PATIENCE
        while self.descriptor is None and fcntl is not None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            # a folder may be removed, or made anew, between the opening and the locking
            locked = _flock(descriptor, fcntl.LOCK_EX)
            if locked is not False and _same_file(descriptor, self.path):
                self.descriptor, self.guards = descriptor, locked is True
                _held.add(self)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{platform.node()} {os.getpid()}".encode())
                break
            os.close(descriptor)
            if time.monotonic() > deadline:
                return False
            time.sleep(PATIENCE / 20)
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self.descriptor is not None:
            with contextlib.suppress(FileNotFoundError):  # with its folder
                self.path.unlink()
            os.close(self.descriptor)
        self.descriptor = None
        _held.discard(self)

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            BusyError: naming the folder and who holds it.
        """
        if not self.acquire():
            raise BusyError(f"{self.folder}: {holder(self.path)} is at work in it; wait until it ends, or stop it")
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.release()


def holder(path: Path) -> str:
    """Who took a lock last, by its file: "process 123 on host"."""
    try:
        host, pid = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "another process"
    return f"process {pid} on {host}"


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
        free = _flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
    return None if free is None else not free


def holds_any() -> bool:
    """Whether this process holds any lock."""
    return bool(_held)


def is_held(folder: Path) -> bool:
    """Whether somebody, this process included, holds a folder's lock; False where that cannot be told."""
    return probe(folder) is True


def _flock(descriptor: int, kind: int) -> bool | None:
    """Lock without waiting; returns whether it could be had, None on a file system without locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    # environments in processes of their own are forked, and would keep the lock of a run that was killed
    for lock in list(_held):
        if lock.descriptor is not None:
            os.close(lock.descriptor)
        lock.descriptor = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
