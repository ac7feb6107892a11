"""Patches of uncommitted code, kept in the run's folder: one per repository."""

import functools
import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlexp.files import PACKAGE, write_atomically
from rlexp.provenance import repositories, sources
from rlexp.provenance.code_state import output_folder


def keep_patches(settings: Mapping[str, Any], folder: Path, launch: int) -> None:
    """Write uncommitted changes to code.<repository>.patch in the run's folder; later ones with the launch number.

    A launch without a patch used the state of the latest earlier one, or clean code if there is none.
    """
    files = frozenset(sources.sources(settings).values())
    for name, patch in _patches(files, output_folder(folder)).items():
        earlier = [path for path in folder.glob(f"code.{glob.escape(name)}.*patch") if _launch(path, name)]
        latest = max(earlier, key=lambda path: _launch(path, name), default=None)
        same = latest.read_bytes() == patch.text if latest else patch.clean
        if not same:
            number = "" if launch == 1 else f"{launch}."
            write_atomically(folder / f"code.{name}.{number}patch", patch.text)


def _launch(path: Path, name: str) -> int:
    """Launch number of a patch; 0: it is of another repository."""
    number = re.fullmatch(rf"code\.{re.escape(name)}\.(?:(\d+)\.)?patch", path.name)
    return int(number[1] or 1) if number else 0


@functools.cache  # for all jobs of a sweep
def _patches(files: frozenset[Path], excluded: Path) -> dict[str, repositories.Patch]:
    """The patch of each repository, by a name usable in file names."""
    package = repositories.package_root()
    found: dict[str, repositories.Patch] = {}
    for root in repositories.holding([*files, *([PACKAGE / "__init__.py"] if package else [])]):
        name = stem = re.sub(r"[^\w-]+", "_", root.name) or "root"
        while name in found:
            name = f"{stem}-{len(found) + 1}"
        found[name] = repositories.patch(root, files, excluded)
    return found
