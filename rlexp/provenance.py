"""What code makes a run: digests of its sources, commits and uncommitted changes of the repositories they lie in."""

import functools
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlexp import sources
from rlexp.config import CONF_DIR

PATCH_LIMIT = 1_000_000  # bytes of uncommitted changes that a run's folder keeps


def git(folder: Path, *arguments: str) -> str | None:
    """What git says there; None where it says no, or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    said_no = done.returncode > 1 or (done.returncode == 1 and done.stderr)  # 1 is what diff says of differences
    return None if said_no else done.stdout.strip("\n")


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
    own = git(sources.PACKAGE, "ls-files", "--error-unmatch", Path(__file__).name) is not None
    status = git(sources.PACKAGE, "status", "--porcelain", "--", str(sources.PACKAGE), str(CONF_DIR)) if own else None
    return {
        "commit": git(sources.PACKAGE, "rev-parse", "HEAD") if own else None,
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


def of_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Digests of the modules that a config names, and the repositories that hold them and the working directory."""
    files = sources.sources(settings)
    return {"sources": sources.digests(settings), "repositories": repositories(files.values())}


def changed_modules(record: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Modules whose content is another than when a run was made, as its run.json says; none where it says nothing."""
    before = record.get("sources")
    if not isinstance(before, Mapping):
        return []
    now = sources.digests(settings)
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def told(modules: Iterable[str]) -> str:
    """Modules as their files: calm.py, their_pkg/nets.py."""
    return ", ".join(name.replace(".", "/") + ".py" for name in sorted(modules))


def repositories(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Path, commit and dirty flag of the git repositories that hold files or the working directory, rlexp's not."""
    return [_state(root) for root in _roots(files) if root != _root(sources.PACKAGE)]


def _roots(files: Iterable[Path]) -> list[Path]:
    folders = {Path.cwd(), *(file.parent for file in files)}
    return sorted({root for folder in folders if (root := _root(folder)) is not None})


@functools.cache
def _root(folder: Path) -> Path | None:
    top = git(folder, "rev-parse", "--show-toplevel")
    return Path(top) if top else None


@functools.cache
def _state(root: Path) -> dict[str, Any]:
    status = git(root, "status", "--porcelain")
    return {"path": str(root), "commit": git(root, "rev-parse", "HEAD"), "dirty": bool(status)}


def patch(settings: Mapping[str, Any]) -> str:
    """Uncommitted changes of the repositories that hold what a config names and rlexp, new files that it names too.

    At most `PATCH_LIMIT` characters; what is left out is said at the end.
    """
    return _patch(frozenset(sources.sources(settings).values()))


@functools.cache  # for all jobs of a sweep
def _patch(files: frozenset[Path]) -> str:
    parts = []
    for root in _roots([*files, sources.PACKAGE / "__init__.py"]):
        where = [str(sources.PACKAGE), str(CONF_DIR)] if root == _root(sources.PACKAGE) else ["."]
        changes = git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", "--", *where)
        parts += [f"# {root}\n{changes}"] if changes else []
        for file in sorted(files):
            if _root(file.parent) == root and git(root, "ls-files", "--error-unmatch", str(file)) is None:
                new = git(root, "diff", "--no-color", "--no-ext-diff", "--no-index", "--", "/dev/null", str(file))
                parts += [f"# {root}\n{new}"] if new else []
    text = "\n".join(parts)
    return text if len(text) <= PATCH_LIMIT else f"{text[:PATCH_LIMIT]}\n# {len(text) - PATCH_LIMIT} more characters\n"
