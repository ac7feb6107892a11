"""Creates the folders of fresh jobs (resume=never) before anything runs, so that concurrent sweeps never share one."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlexp.errors import UserError
from rlexp.sweep.plan import Planned


@contextlib.contextmanager
def reserving(jobs: Sequence[Planned]) -> Iterator[None]:
    """Create the folders of fresh jobs, with the next free suffix where another sweep has been faster.

    If this sweep is refused within the context, folders of jobs that have not started are removed.
    """
    made: list[Path] = []
    try:
        for planned in jobs:
            if planned.fresh:
                made.append(make_new(planned.folder))
                planned.move_to(made[-1])
        yield
    except (UserError, OSError):
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: the job has started
                folder.rmdir()
        raise


def make_new(folder: Path) -> Path:
    """Create a folder of that name, or with the next free suffix; mkdir makes the claim atomic between processes."""
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
