"""Modules as files: where each lies, what it imports and what its code says, all read and never run.

So what else a process has imported makes no difference, and an answer is the same at every launch.
"""

import ast
import functools
import hashlib
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlexp.provenance.syntax import normal

# Libraries whose versions run.json holds: their files are not read.
LIBRARIES = ("torch", "gymnasium", "numpy", "hydra", "omegaconf", "ale_py", "envpool", "mujoco", "builtins")
SITES = ("site-packages", "dist-packages")  # where what is installed lies, of this Python and of others
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
# Calls whose first word, if it is written out, names a module or what is in one
LOADERS = ("import_module", "__import__", "resolve_name", "get_class", "get_method", "get_object")
MAKERS = ("make", "make_vec")  # and an environment's id


# Where a module lies -------------------------------------------------------------------------------------------------


def find(name: str) -> Path | None:
    """The source file that an import of a module would run; None: there is none, as of a package without __init__.py.

    The name decides, so that a link is found under its own name and not under that of the file it leads to.
    """
    return _place(name)[0]


def _place(name: str) -> tuple[Path | None, tuple[str, ...]]:
    """A module's file and the folders of its submodules; there is no such module where it has neither."""
    top, *below = name.split(".")
    spec = _spec(top) if all(part.isidentifier() for part in (top, *below)) else None
    if spec is None:
        return None, ()
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    folders = tuple(spec.submodule_search_locations or ())
    for part in below:
        packages = [Path(folder, part) for folder in folders]
        file = next((own for path in packages if (own := _own_file(path)) is not None), None)
        folders = tuple(str(path) for path in packages if path.is_dir())
        if file is not None:
            folders = (str(file.parent),) if file.name == "__init__.py" else ()
        elif not folders:
            break
    return file, folders


def _own_file(path: Path) -> Path | None:
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _spec(top: str) -> Any:
    """What Python's finders say of a top-level module, editable installs among them."""
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(top, None)
        except Exception:  # a finder of somebody's own
            continue
        if spec is not None:
            return spec
    return None


def is_installed(file: Path) -> bool:
    """Whether a file belongs to an installed package or to Python: nobody edits it from run to run."""
    return _holds_installed(file.parent)


@functools.cache
def _holds_installed(folder: Path) -> bool:
    folder = folder.resolve()
    return any(site in folder.parts for site in SITES) or folder.is_relative_to(STANDARD)


def home(dotted: str) -> str | None:
    """The module that a dotted name, their_pkg.nets.Torso or their_pkg.nets:Torso, begins with."""
    return _home(dotted.replace(":", "."), _place)


def _home(dotted: str, place: Callable[[str], tuple[Path | None, tuple[str, ...]]]) -> str | None:
    parts = dotted.split(".")
    if not any(place(parts[0])):
        return None
    return next((name for n in range(len(parts), 0, -1) if place(name := ".".join(parts[:n]))[0]), None)


def label(name: str, file: Path) -> str:
    """A module as its file is called: calm.py, their_pkg/nets.py, their_pkg/__init__.py."""
    return name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")


# What it imports -----------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One import statement, or a call that does the same: `import module`, or `from module import name`."""

    module: str
    name: str = ""
    used: bool = True  # what is imported is used by the module itself, which does not only hand it on


@dataclass(frozen=True)
class Code:
    """What is known of a source file."""

    digest: str
    imports: tuple[Import, ...] = ()
    words: tuple[str, ...] = ()  # dotted names among its texts, of modules and of what is in them
    made: tuple[str, ...] = ()  # ids of environments


@functools.cache  # what a process has imported does not change with the file
def read(name: str, file: Path) -> Code:
    """Digest and imports of a module; of a file that does not parse, and of installed ones, all bytes count."""
    try:
        content = file.read_bytes()
    except OSError:
        return Code("none")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its escapes, told when it is imported
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Code(_hash(content))  # whoever runs it will tell
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    text, told = normal(tree)
    loaded = {node.id for node in told if isinstance(node, ast.Name)}
    calls = [(_called(node), node) for node in told if isinstance(node, ast.Call)]
    # a package that registers environments does not make each a part of the others
    registered = {id(part) for called, call in calls if called == "register" for part in ast.walk(call)}
    texts = {node.value for node in told if isinstance(node, ast.Constant) and id(node) not in registered}
    made = {_literal(call) for called, call in calls if called in MAKERS and id(call) not in registered}
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    loads = lazy or any(called in LOADERS for called, _ in calls)
    importing = [node for node in told if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)]
    return Code(
        _hash(content if is_installed(file) else text.encode()),
        tuple(found for node in importing for found in _imports(node, package, loaded)),
        tuple(sorted(_names({own for own in texts if isinstance(own, str)}, package, loads, lazy))),
        tuple(sorted(made - {""})),
    )


def _names(texts: Iterable[str], package: str, loads: bool, lazy: bool) -> Iterator[str]:
    """Dotted names among texts; relative ones where something loads modules by name, any where a __getattr__ may."""
    for text in texts:
        if re.fullmatch(r"\w+(\.\w+)+", text):
            yield text
        if (lazy or (loads and text.startswith("."))) and re.fullmatch(r"\.*\w+(\.\w+)*", text):
            own = absolute(text if text.startswith(".") else f".{text}", package)
            if find(own):  # else it is no name, as ".csv"
                yield own


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def _literal(call: ast.Call) -> str:
    """The text that a call is given first, or as what name, path or id; empty where it is not written out."""
    given = [*call.args[:1], *(own.value for own in call.keywords if own.arg in ("name", "path", "id"))]
    text = given[0].value if given and isinstance(given[0], ast.Constant) else ""
    return text if isinstance(text, str) else ""


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _imports(node: ast.AST, package: str, loaded: Collection[str]) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name)
    elif isinstance(node, ast.ImportFrom):
        module = absolute("." * node.level + (node.module or ""), package)
        for alias in node.names:
            yield Import(module, alias.name, (alias.asname or alias.name) in loaded)
    elif isinstance(node, ast.Call) and _called(node) in LOADERS and (text := _literal(node)):
        found = home(absolute(text, package))
        if found:
            yield Import(found)


def absolute(name: str, package: str) -> str:
    """A module's name from a relative one, ..nets, as seen from within a package."""
    own = name.lstrip(".")
    level = len(name) - len(own)
    if not level:
        return own
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *([own] if own else [])])


def closure(
    asked: Iterable[str], run: Iterable[str] = (), *, without: Collection[str] = (), only: str | None = None
) -> dict[str, Path]:
    """Modules, the packages they lie in, what all these import, and so on: name -> file.

    Installed packages are followed only where they are asked for, and Python's own modules never. A package whose code
    runs only because a module lies in it counts itself, with what its own code uses; what it merely hands on by name,
    as an __init__.py that lists all objectives does, counts where somebody takes it through the package.

    Args:
        asked: modules whose imports all count.
        run: modules of which only what their own code uses counts.
        without: modules that are left out, with what they import.
        only: the one top-level package to stay in.
    """
    left = [(name, True) for name in asked] + [(name, False) for name in run]
    tops = {name.partition(".")[0] for name, _ in left}
    found: dict[str, Path] = {}
    seen: set[tuple[str, bool]] = set()
    place = functools.cache(_place)  # while this lasts
    while left:
        name, whole = left.pop()
        top = name.partition(".")[0]
        if name in without or {(name, whole), (name, True)} & seen or _is_library(top) or only not in (None, top):
            continue
        seen.add((name, whole))
        file, _ = place(name)
        if file is None or (top not in tops and is_installed(file)):
            continue
        found[name] = file
        code = read(name, file)
        left += [(name.rpartition(".")[0], False)] if "." in name else []
        for module, taken, used in code.imports:
            if _is_library(module.partition(".")[0]):
                continue
            if taken and taken != "*" and any(place(f"{module}.{taken}")):
                left.append((f"{module}.{taken}", True))
            elif whole or used or not taken:
                left.append((module, True))
        if whole and only is None:  # rlexp itself writes its imports out, and its commands as words
            left += [(own, True) for word in code.words if (own := _home(word, place)) is not None]
    return found


def _is_library(top: str) -> bool:
    return top in LIBRARIES or top in sys.stdlib_module_names
