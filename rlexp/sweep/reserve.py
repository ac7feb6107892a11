"""Folders of jobs that begin anew: made before anything runs, so that of two sweeps at once no two jobs share one."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlexp.errors import UserError
from rlexp.sweep.plan import Planned


@contextlib.contextmanager
def reserving(jobs: Sequence[Planned]) -> Iterator[None]:
    """Make the folders of jobs that begin anew, so that no other sweep does; where another was faster, the next ones.

    If this sweep is refused while entered, those in which nothing has begun are removed.
    """
    made: list[Planned] = []
    try:
        for planned in jobs:
            if planned.anew:
                planned.settle(make_new(planned.job.folder))
                made.append(planned)
        yield
    except (UserError, OSError):
        for planned in made:
            with contextlib.suppress(OSError):  # it has begun
                planned.job.folder.rmdir()
        raise


def make_new(folder: Path) -> Path:
    """Make a folder of that name, or with the next suffix that is free: no other process has made it, nor will."""
    parts = re.fullmatch(r"(.+?)(?:_(\d+))?", folder.name)
    assert parts is not None
    number = int(parts[2] or 1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{parts[1]}_{number}")
