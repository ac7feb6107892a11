"""What code makes a run: digests of its sources, commits of the repositories that they lie in."""

import functools
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlexp.config.schema import CONF_DIR
from rlexp.files import PACKAGE
from rlexp.provenance import repositories, sources
from rlexp.provenance.repositories import said


@functools.cache
def code_state() -> dict[str, Any]:
    """Git commit and dirty flag of rlexp, null outside a checkout; versions that matter; the machine."""
    versions = {"python": platform.python_version()}
    for package in ("rlexp", "torch", "gymnasium", "numpy", "hydra-core", "envpool", "mujoco", "ale-py", "optuna"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    # a checkout counts as this project's own only if it holds this very file
    own = bool(said(PACKAGE, "ls-files", "--", __file__))
    status = said(PACKAGE, "status", "--porcelain", "--", str(PACKAGE), str(CONF_DIR)) if own else None
    return {
        "commit": said(PACKAGE, "rev-parse", "HEAD") if own else None,
        "dirty": None if status is None else bool(status),
        "versions": versions,
        "code": sources.training_digest(),
        "machine": f"{os.cpu_count()} cores, {_processor()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# A config's own code -------------------------------------------------------------------------------------------------


def of_config(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Digests of the modules that a config names, and the repositories that hold them and the working directory.

    Args:
        settings: the resolved config less what cannot change results.
        folder: the run's own.
    """
    files = frozenset(sources.sources(settings).values())
    own = repositories.of_package()
    found = [_state(root, files, written(folder)) for root in repositories.holding(files) if root != own]
    return {"sources": sources.digests(settings), "repositories": found}


@functools.cache  # for all jobs of a sweep
def _state(root: Path, files: frozenset[Path], left_out: Path) -> dict[str, Any]:
    """Path, commit and dirty flag: whether something is not committed that the config names or git knows."""
    changed = repositories.changed(root, files, left_out)
    return {"path": str(root), "commit": repositories.commit_of(root), "dirty": changed}


def written(folder: Path) -> Path:
    """The folder of outputs that a run's own lies in, which is no code; its own where that is not clear."""
    outputs = folder.absolute().parent.parent
    return folder.absolute() if Path.cwd().is_relative_to(outputs) else outputs


def changed_files(record: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Files whose code is another than when a run was made, as its run.json says; none where it says nothing."""
    before = sources_of(record)
    now = sources.digests(settings) if before else {}
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def sources_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Digests of sources by file that a run.json holds; none in older ones, whose digests were of something else."""
    return of_files(record.get("sources"))


def of_files(found: Any) -> dict[str, str]:
    """What run.json says of files: older ones name modules instead."""
    return {name: str(own) for name, own in found.items() if name.endswith(".py")} if isinstance(found, dict) else {}
