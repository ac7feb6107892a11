"""Files written in one step, and errors of full disks in one line."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from rlexp.errors import StorageError

PACKAGE = Path(__file__).resolve().parent  # of rlexp


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: whoever reads it, also after a crash, sees the old content or the new."""
    with storing(path):
        _write_atomically(path, data)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """While entered, a file that cannot be written is told as what a user can mend.

    Raises:
        StorageError: naming the file and why.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(
            f"{path}: cannot be written ({why}); make room or say by outputs=<folder> where runs may write. What was "
            f"saved before is kept, and the same command goes on"
        ) from error


def through_no_link(path: str, flags: int) -> int:
    """An opener for `open` that follows no link, as a stranger's may lead anywhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb", opener=through_no_link) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
