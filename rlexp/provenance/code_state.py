"""The code behind a run: digests of its sources, and commits of their repositories."""

import contextlib
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
from rlexp.provenance.repositories import git_text, is_document


@functools.cache
def code_state() -> dict[str, Any]:
    """Git commit and dirty flag of rlexp (None outside a checkout), relevant versions, the machine."""
    versions = {"python": platform.python_version()}
    for package in ("rlexp", "torch", "gymnasium", "numpy", "hydra-core", "envpool", "mujoco", "ale-py", "optuna"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    in_checkout = repositories.package_root() is not None
    return {
        "commit": git_text(PACKAGE, "rev-parse", "HEAD") if in_checkout else None,
        "dirty": _is_dirty() if in_checkout else None,
        "versions": versions,
        "code": sources.training_digest(),
        "machine": f"{os.cpu_count()} cores, {_processor()}",
    }


def _is_dirty() -> bool | None:
    """Whether rlexp's code or yamls differ from the commit; its documents change no result."""
    options = ("--porcelain", "--no-renames", "--untracked-files=all")
    status = git_text(PACKAGE, "status", *options, "--", str(PACKAGE), str(CONF_DIR))
    return None if status is None else any(not is_document(line.strip('"')) for line in status.splitlines())


def _processor() -> str:
    lines = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def config_state(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Digests of the modules that a config names, and states of their repositories and the working directory's.

    settings: the run's identity, see `jobs.job.settings_of`; folder: of the run.
    """
    files = frozenset(sources.sources(settings).values())
    package = repositories.package_root()
    found = [_state(root, files, output_folder(folder)) for root in repositories.holding(files) if root != package]
    return {"sources": sources.digests(settings), "repositories": found}


@functools.cache  # for all jobs of a sweep
def _state(root: Path, files: frozenset[Path], excluded: Path) -> dict[str, Any]:
    """Path, commit and dirty flag: whether tracked files, or files that the config names, have uncommitted changes."""
    changed = repositories.changed(root, files, excluded)
    return {"path": str(root), "commit": repositories.commit_of(root), "dirty": changed}


def output_folder(folder: Path) -> Path:
    """The outputs folder of a run's folder, which contains no code; the run's folder if that is ambiguous."""
    outputs = folder.absolute().parent.parent
    return folder.absolute() if Path.cwd().is_relative_to(outputs) else outputs


def changed_files(record: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Files whose code has changed since run.json was written; empty if run.json has no digests."""
    before = sources_of(record)
    now = sources.digests(settings) if before else {}
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def sources_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Digests in run.json by source file; empty for older ones, whose digests were of modules."""
    return digests_of(record.get("sources"))


def digests_of(found: Any) -> dict[str, str]:
    """Entries of a `sources` dictionary that are files; older versions list modules."""
    return {name: str(x) for name, x in found.items() if name.endswith(".py")} if isinstance(found, dict) else {}
