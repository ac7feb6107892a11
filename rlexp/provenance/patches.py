"""What is not committed of the code that makes a run, kept in its folder: one patch for each repository."""

import functools
import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlexp.config.schema import CONF_DIR
from rlexp.files import PACKAGE, write_atomically
from rlexp.provenance import repositories, sources
from rlexp.provenance.code_state import written


def keep_patches(settings: Mapping[str, Any], folder: Path, launch: int) -> None:
    """Leave what is not committed in a run's folder: code.<repository>.patch, and later ones by number of launch.

    A launch that leaves none was made with what the latest one before it holds, or with none where there is none.
    """
    files = frozenset(sources.sources(settings).values())
    for name, patch in _patches(files, written(folder)).items():
        earlier = [path for path in folder.glob(f"code.{glob.escape(name)}.*patch") if _launch(path, name)]
        latest = max(earlier, key=lambda path: _launch(path, name), default=None)
        same = latest.read_bytes() == patch.text if latest else patch.clean
        if not same:
            number = "" if launch == 1 else f"{launch}."
            write_atomically(folder / f"code.{name}.{number}patch", patch.text)


def _launch(path: Path, name: str) -> int:
    """The number of the launch that left a patch; 0: it is of another repository."""
    number = re.fullmatch(rf"code\.{re.escape(name)}\.(?:(\d+)\.)?patch", path.name)
    return int(number[1] or 1) if number else 0


@functools.cache  # for all jobs of a sweep
def _patches(files: frozenset[Path], left_out: Path) -> dict[str, repositories.Patch]:
    """The patch of each repository, by a name that is a file's."""
    own = repositories.of_package()
    found: dict[str, repositories.Patch] = {}
    for root in repositories.holding([*files, *([PACKAGE / "__init__.py"] if own else [])]):
        name = stem = re.sub(r"[^\w-]+", "_", root.name) or "root"
        while name in found:
            name = f"{stem}-{len(found) + 1}"
        where = (PACKAGE, CONF_DIR) if root == own else (root,)
        found[name] = repositories.patch(root, files, where, left_out)
    return found
