"""Git repositories of the code, and their uncommitted changes as a patch for `git apply`."""

import functools
import itertools
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rlexp.config.schema import CONF_DIR
from rlexp.files import PACKAGE
from rlexp.provenance.modules import is_installed

PATCH_LIMIT = 1_000_000  # bytes of changes in a patch, besides those to files that a config names
# A format that `git apply` reads, independent of the user's git settings
PLAIN = ("-U3", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
DIFF = ("diff", *PLAIN, "--binary", "--full-index", "--ignore-submodules=dirty")
# Set by git for its hooks, whose repository is another one; the last overrides -U
UNSET = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_DIFF_OPTS")
SECTION = b"diff --git "  # first line of a file's changes; no other line starts like this


class Patch(NamedTuple):
    """Uncommitted changes of a repository."""

    text: bytes
    clean: bool  # no changes


def git(folder: Path, *arguments: str) -> bytes | None:
    """Output of a git command in a folder; None if it fails or git is not installed."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    command = ["git", "-C", str(folder), "--literal-pathspecs", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, env=environment)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    # diff returns 1 for differences; a negative code is the signal that killed git
    failed = done.returncode not in (0, 1) or (done.returncode == 1 and not done.stdout)
    return None if failed else done.stdout


def git_text(folder: Path, *arguments: str) -> str | None:
    """Output of a git command as text."""
    answer = git(folder, *arguments)
    return None if answer is None else os.fsdecode(answer).strip("\n")


@functools.cache
def root_of(folder: Path) -> Path | None:
    """Root of a folder's repository."""
    top = git_text(folder, "rev-parse", "--show-toplevel")
    return Path(top) if top else None


def is_document(name: str) -> bool:
    """Whether a file of rlexp's repository is documentation, which changes no result."""
    return name.endswith(".md")


def package_root() -> Path | None:
    """Root of the repository that tracks rlexp: not of one whose .venv it is installed in."""
    return root_of(PACKAGE) if git(PACKAGE, "ls-files", "--", "__init__.py") else None


def holding(files: Iterable[Path]) -> list[Path]:
    """Roots of the repositories of the files, their link targets, and the working directory."""
    folders = {Path.cwd(), *(path.parent for file in files if not is_installed(file) for path in _both(file))}
    return sorted({root for folder in folders if (root := root_of(folder)) is not None})


def _both(file: Path) -> set[Path]:
    """A file's path with its folder resolved, and its link target."""
    return {file.parent.resolve() / file.name, file.resolve()}


def _within(root: Path, files: Iterable[Path]) -> list[str]:
    """Those of the files that are in this repository, as relative paths; not nested repositories or installed files."""
    edited = [file for file in files if not is_installed(file)]
    tracked = {path for file in edited for path in _both(file) if root_of(path.parent) == root}
    return sorted(str(path.relative_to(root)) for path in tracked)


def commit_of(root: Path) -> str | None:
    """The last commit; None if there is none yet."""
    return git_text(root, "rev-parse", "--verify", "-q", "HEAD")


def _base(root: Path, commit: str | None) -> str:
    """The tree to diff against: a commit, or the empty tree."""
    return commit or git_text(root, "hash-object", "-t", "tree", "/dev/null") or ""


def _new(root: Path, names: Sequence[str]) -> list[str]:
    """Those of the files that git does not track."""
    known = git(root, "ls-files", "-z", "--", *names) if names else b""
    return sorted(set(names) - {os.fsdecode(name) for name in (known or b"").split(b"\0")})


def changed(root: Path, files: Iterable[Path], excluded: Path) -> bool:
    """Whether tracked files have uncommitted changes outside `excluded`, or one of the files is untracked."""
    if _new(root, _within(root, files)):
        return True
    return bool(_changed_names(root, _base(root, commit_of(root)), excluded))


def _changed_names(root: Path, base: str, excluded: Path, *where: Path) -> list[str] | None:
    """Tracked files that differ from a commit, without those in `excluded`; None if git does not say."""
    answer = git(root, *DIFF, "--name-only", "-z", base, "--", *map(str, where))
    names = None if answer is None else [os.fsdecode(name) for name in answer.split(b"\0") if name]
    return names and [name for name in names if not (root / name).is_relative_to(excluded.resolve())]


def patch(root: Path, files: Iterable[Path], excluded: Path) -> Patch:
    """Uncommitted changes: all those of files that a config names, then those of other tracked files.

    In rlexp's own repository its code and yamls count; in others all that is tracked, outside the folder `excluded`.
    """
    names = _within(root, files)
    new = _new(root, names)
    commit = commit_of(root)  # read once, as HEAD may move in the meantime
    base = _base(root, commit)
    known = [name for name in names if name not in new]
    first = _sections(git(root, *DIFF, base, "--", *known) if known else b"")
    for name in new:
        first += _sections(git(root, *DIFF, "--no-index", "--", "/dev/null", name))
    own = root == package_root()
    listed = _changed_names(root, base, excluded, *((PACKAGE, CONF_DIR) if own else (root,)))
    rest = [name for name in listed or () if name not in names and not (own and is_document(name))]
    kept, missing = _up_to_limit(root, base, rest)
    if listed is None:
        missing.append("whatever else has changed: git did not say")
    lines = [f"# {root}, {f'commit {commit}' if commit else 'no commit yet'}: git apply restores this there"]
    lines += [] if first or kept or missing else ["# nothing has changed since that commit"]
    lines += [f"# left out, as there is too much: {name}" for name in missing]
    head = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
    return Patch(head + b"".join(first + kept), clean=not (first or kept or missing))


def _up_to_limit(root: Path, base: str, names: Sequence[str]) -> tuple[list[bytes], list[str]]:
    """Whole changes of files up to PATCH_LIMIT; names of the files left out."""
    # others are slow to diff
    small = [name for name in names if not (file := root / name).is_file() or file.stat().st_size <= 50 * PATCH_LIMIT]
    missing = [name for name in names if name not in small]
    whole = git(root, *DIFF, base, "--", *small) if small else b""
    changes = _sections(whole)
    if whole is None:  # timed out
        return [], list(names)
    if len(changes) != len(small):  # a replaced link is listed twice: deleted and new
        changes = [git(root, *DIFF, base, "--", name) or b"" for name in small]
    kept, room = [], PATCH_LIMIT
    for name, change in zip(small, changes, strict=True):
        if len(change) <= room:
            kept.append(change)
            room -= len(change)
        else:
            missing.append(name)
    return kept, sorted(missing)


def _sections(diff: bytes | None) -> list[bytes]:
    """Split a diff by file."""
    diff = diff or b""
    starts = [match.start() for match in re.finditer(rb"^" + SECTION, diff, re.MULTILINE)]
    return [diff[start:end] for start, end in itertools.pairwise([*starts, len(diff)])]
