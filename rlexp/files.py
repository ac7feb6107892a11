"""Atomic file writes, and disk errors in one line."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from rlexp.errors import StorageError

PACKAGE = Path(__file__).resolve().parent  # of rlexp


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, even after a crash."""
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        with open(temporary, "wb", opener=open_nofollow) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """While entered, an OSError is raised as StorageError, which names the file and the cause."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(
            f"{path}: cannot be written ({why}); free some space or set outputs=<folder> to a writable folder. Earlier "
            f"saves are kept, and the same command resumes"
        ) from error


def open_nofollow(path: str, flags: int) -> int:
    """An opener for `open` that follows no symbolic link, as an untrusted one may point anywhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
