"""Git repositories that hold code: which, and what is not committed there, as a patch that `git apply` takes."""

import functools
import itertools
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rlexp.files import PACKAGE
from rlexp.provenance.modules import is_installed

PATCH_LIMIT = 1_000_000  # bytes of changes that a patch holds beside those of the files that a config names
# As `git apply` reads it, whatever somebody's own settings are
PLAIN = ("-U3", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
DIFF = ("diff", *PLAIN, "--binary", "--full-index", "--ignore-submodules=dirty")
# What git tells its hooks, whose repository is not the one that is asked for, and what outdoes -U
UNSET = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_DIFF_OPTS")
SECTION = b"diff --git "  # begins the changes of one file; no line within them begins so


class Patch(NamedTuple):
    """What is not committed of one repository."""

    text: bytes
    clean: bool  # there is nothing


def git(folder: Path, *arguments: str) -> bytes | None:
    """What git says there; None where it says no, or is not there."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    command = ["git", "-C", str(folder), "--literal-pathspecs", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, env=environment)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    said_no = done.returncode > 1 or (done.returncode == 1 and not done.stdout)  # 1 is what diff says of differences
    return None if said_no else done.stdout


def said(folder: Path, *arguments: str) -> str | None:
    """The same as text."""
    answer = git(folder, *arguments)
    return None if answer is None else os.fsdecode(answer).strip("\n")


@functools.cache
def root_of(folder: Path) -> Path | None:
    """The root of the repository that a folder lies in."""
    top = said(folder, "rev-parse", "--show-toplevel")
    return Path(top) if top else None


def of_package() -> Path | None:
    """The root of the repository that holds rlexp, if git knows it there: not that of a .venv it is installed in."""
    return root_of(PACKAGE) if git(PACKAGE, "ls-files", "--", "__init__.py") else None


def holding(files: Iterable[Path]) -> list[Path]:
    """The roots of those that hold files, what links among them lead to, or the working directory."""
    folders = {Path.cwd(), *(own.parent for file in files if not is_installed(file) for own in _both(file))}
    return sorted({root for folder in folders if (root := root_of(folder)) is not None})


def _both(file: Path) -> set[Path]:
    """A file as it is called, below folders that are no links, and what it leads to if it is a link."""
    return {file.parent.resolve() / file.name, file.resolve()}


def _within(root: Path, files: Iterable[Path]) -> list[str]:
    """Files of a repository, not of one within it nor of what is installed there, as paths from its root."""
    edited = [file for file in files if not is_installed(file)]
    own = {path for file in edited for path in _both(file) if root_of(path.parent) == root}
    return sorted(str(path.relative_to(root)) for path in own)


def commit_of(root: Path) -> str | None:
    """The last commit; None: there is none yet."""
    return said(root, "rev-parse", "--verify", "-q", "HEAD")


def _base(root: Path, commit: str | None) -> str:
    """What changes are held against: a commit, or nothing at all."""
    return commit or said(root, "hash-object", "-t", "tree", "/dev/null") or ""


def _new(root: Path, names: Sequence[str]) -> list[str]:
    """Those of some files that git does not know."""
    known = git(root, "ls-files", "-z", "--", *names) if names else b""
    return sorted(set(names) - {os.fsdecode(name) for name in (known or b"").split(b"\0")})


def changed(root: Path, files: Iterable[Path], left_out: Path) -> bool:
    """Whether something that git knows is not committed, or one of the files is new to it; a folder aside."""
    if _new(root, _within(root, files)):
        return True
    names = git(root, *DIFF, "--name-only", "-z", _base(root, commit_of(root))) or b""
    return any(not _lies_in(root / os.fsdecode(name), left_out) for name in names.split(b"\0") if name)


def _lies_in(file: Path, folder: Path) -> bool:
    return file.is_relative_to(folder.resolve())


def patch(root: Path, files: Iterable[Path], where: Sequence[Path], left_out: Path) -> Patch:
    """What is not committed of a repository: all of the files that a config names, then what git knows of the rest.

    Args:
        root: of the repository.
        files: that the config names, new ones too.
        where: what of the rest counts.
        left_out: a folder that does not.
    """
    names = _within(root, files)
    new = _new(root, names)
    commit = commit_of(root)  # once, as somebody may commit in the meantime
    base = _base(root, commit)
    known = [name for name in names if name not in new]
    first = _sections(git(root, *DIFF, base, "--", *known) if known else b"")
    for name in new:
        first += _sections(git(root, *DIFF, "--no-index", "--", "/dev/null", name))
    listed = git(root, *DIFF, "--name-only", "-z", base, "--", *map(str, where))
    rest = [os.fsdecode(name) for name in (listed or b"").split(b"\0") if name]
    rest = [name for name in rest if name not in names and not _lies_in(root / name, left_out)]
    kept, missing = _up_to_limit(root, base, rest)
    if listed is None:
        missing.append("whatever else has changed: git did not say")
    lines = [f"# {root}, {f'commit {commit}' if commit else 'no commit yet'}: git apply restores this there"]
    lines += [] if first or kept or missing else ["# nothing has changed since that commit"]
    lines += [f"# left out, as there is too much: {name}" for name in missing]
    head = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
    return Patch(head + b"".join(first + kept), clean=not (first or kept or missing))


def _up_to_limit(root: Path, base: str, names: Sequence[str]) -> tuple[list[bytes], list[str]]:
    """Changes of files as far as the limit goes, none in part; the names of those left out."""
    small = [name for name in names if not _is_large(root / name)]
    missing = [name for name in names if name not in small]
    whole = git(root, *DIFF, base, "--", *small) if small else b""
    changes = _sections(whole)
    if whole is None:  # it would take too long
        return [], list(names)
    if len(changes) != len(small):  # one that was a link before is told as gone and new
        changes = [git(root, *DIFF, base, "--", name) or b"" for name in small]
    kept, room = [], PATCH_LIMIT
    for name, change in zip(small, changes, strict=True):
        if len(change) <= room:
            kept.append(change)
            room -= len(change)
        else:
            missing.append(name)
    return kept, sorted(missing)


def _is_large(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 50 * PATCH_LIMIT  # git would take long


def _sections(diff: bytes | None) -> list[bytes]:
    """A diff by files."""
    diff = diff or b""
    starts = [match.start() for match in re.finditer(rb"^" + SECTION, diff, re.MULTILINE)]
    return [diff[start:end] for start, end in itertools.pairwise([*starts, len(diff)])]
