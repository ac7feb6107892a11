"""Static analysis of modules: their files, imports and digests, read without running them.

Results do not depend on what the process has imported, so they are the same at every launch.
"""

import ast
import contextlib
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

from rlexp.provenance.syntax import normalize

# Libraries whose versions are in run.json: their files are not read.
LIBRARIES = ("torch", "gymnasium", "numpy", "hydra", "omegaconf", "ale_py", "envpool", "mujoco", "builtins")
SITES = ("site-packages", "dist-packages")  # folders of installed packages, of any Python
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
# Calls whose first argument, if a literal, names a module or something in one
LOADERS = ("import_module", "__import__", "resolve_name", "get_class", "get_method", "get_object")
MAKERS = ("make", "make_vec")  # the same for an environment's id


def find(name: str) -> Path | None:
    """The source file, perhaps a link, that importing a module would run; None, as for a namespace package."""
    return _locate(name)[0]


def _locate(name: str) -> tuple[Path | None, tuple[str, ...]]:
    """A module's file and the folders of its submodules; neither if there is no such module."""
    top, *below = name.split(".")
    spec = _spec(top) if all(part.isidentifier() for part in (top, *below)) else None
    if spec is None:
        return None, ()
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    folders = tuple(spec.submodule_search_locations or ())
    for part in below:
        packages = [Path(folder, part) for folder in folders]
        files = [file for path in packages for file in (path / "__init__.py", path.with_suffix(".py"))]
        file = next((file for file in files if file.is_file()), None)
        folders = tuple(str(path) for path in packages if path.is_dir())
        if file is not None:
            folders = (str(file.parent),) if file.name == "__init__.py" else ()
        elif not folders:
            break
    return file, folders


def _spec(top: str) -> Any:
    """Spec of a top-level module from Python's finders, which cover editable installs."""
    for finder in sys.meta_path:
        with contextlib.suppress(Exception):  # of a third-party finder
            if (spec := finder.find_spec(top, None)) is not None:
                return spec
    return None


@functools.cache
def is_installed(file: Path) -> bool:
    """Whether a file belongs to an installed package or to Python, and so does not change between runs."""
    folder = file.parent.resolve()
    return any(site in folder.parts for site in SITES) or folder.is_relative_to(STANDARD)


def home(dotted: str) -> str | None:
    """The module part of a dotted name, as in their_pkg.nets.Torso or their_pkg.nets:Torso."""
    return _home(dotted.replace(":", "."), _locate)


def _home(dotted: str, locate: Callable[[str], tuple[Path | None, tuple[str, ...]]]) -> str | None:
    parts = dotted.split(".")
    if not any(locate(parts[0])):
        return None
    return next((name for n in range(len(parts), 0, -1) if locate(name := ".".join(parts[:n]))[0]), None)


def label(name: str, file: Path) -> str:
    """A module's file name: calm.py, their_pkg/nets.py, their_pkg/__init__.py."""
    return name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")


class Import(NamedTuple):
    """An import statement or equivalent call: `import module`, or `from module import name`."""

    module: str
    name: str = ""
    used: bool = True  # the module uses the import itself, rather than only re-exporting it


@dataclass(frozen=True)
class Code:
    """Analysis of a source file."""

    digest: str
    imports: tuple[Import, ...] = ()
    words: tuple[str, ...] = ()  # dotted names among its string literals
    made: tuple[str, ...] = ()  # ids of environments that it makes


@functools.cache  # what a process has imported does not change when the file does
def read(name: str, file: Path) -> Code:
    """Digest and imports of a module; the digest of unparsable and of installed files is of all bytes."""
    try:
        content = file.read_bytes()
    except OSError:
        return Code("none")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes; shown when it is imported
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Code(_hash(content))  # importing it raises the error
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    text, nodes = normalize(tree)
    loaded = {node.id for node in nodes if isinstance(node, ast.Name)}
    calls = [(_called(node), node) for node in nodes if isinstance(node, ast.Call)]
    # environments registered by one package are not part of each other
    registered = {id(part) for called, call in calls if called == "register" for part in ast.walk(call)}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in registered}
    made = {_literal(call) for called, call in calls if called in MAKERS and id(call) not in registered}
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    loads = lazy or any(called in LOADERS for called, _ in calls)
    importing = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)]
    return Code(
        _hash(content if is_installed(file) else text.encode()),
        tuple(found for node in importing for found in _imports(node, package, loaded)),
        tuple(sorted(_names({text for text in texts if isinstance(text, str)}, package, loads, lazy))),
        tuple(sorted(made - {""})),
    )


def _names(texts: Iterable[str], package: str, loads: bool, lazy: bool) -> Iterator[str]:
    """Dotted names among string literals; relative ones if the module loads by name, any if it has a __getattr__."""
    for text in texts:
        if re.fullmatch(r"\w+(\.\w+)+", text):
            yield text
        if (lazy or (loads and text.startswith("."))) and re.fullmatch(r"\.*\w+(\.\w+)*", text):
            name = absolute(text if text.startswith(".") else f".{text}", package)
            if find(name):  # otherwise not a module, as ".csv"
                yield name


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def _literal(call: ast.Call) -> str:
    """String literal passed as a call's first argument, or as name, path or id; empty if there is none."""
    given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg in ("name", "path", "id"))]
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
    """Resolve a relative module name, as ..nets, within a package."""
    base = name.lstrip(".")
    level = len(name) - len(base)
    if not level:
        return base
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *([base] if base else [])])


def closure(
    asked: Iterable[str], run: Iterable[str] = (), *, without: Collection[str] = (), only: str | None = None
) -> dict[str, Path]:
    """Transitive closure of imports, parent packages included: name -> file.

    Installed packages are followed only if asked for, the standard library never. A package that is imported only as
    the parent of a module counts with what its code uses; names that it merely re-exports, as an __init__.py that lists
    all objectives, count only where they are imported through it.

    asked: modules all of whose imports count; run: those of which only the imports that their code uses count; without:
    modules to leave out, with their imports; only: the top-level package to stay in.
    """
    left = [(name, True) for name in asked] + [(name, False) for name in run]
    tops = {name.partition(".")[0] for name, _ in left}
    found: dict[str, Path] = {}
    seen: set[tuple[str, bool]] = set()
    locate = functools.cache(_locate)  # for this call only
    while left:
        name, whole = left.pop()
        top = name.partition(".")[0]
        if name in without or {(name, whole), (name, True)} & seen or _is_library(top) or only not in (None, top):
            continue
        seen.add((name, whole))
        file, _ = locate(name)
        if file is None or (top not in tops and is_installed(file)):
            continue
        found[name] = file
        code = read(name, file)
        left += [(name.rpartition(".")[0], False)] if "." in name else []
        for module, imported, used in code.imports:
            if _is_library(module.partition(".")[0]):
                continue
            if imported and imported != "*" and any(locate(f"{module}.{imported}")):
                left.append((f"{module}.{imported}", True))
            elif whole or used or not imported:
                left.append((module, True))
        if whole and only is None:  # rlexp has no imports by name
            left += [(found_in, True) for word in code.words if (found_in := _home(word, locate)) is not None]
    return found


def _is_library(top: str) -> bool:
    return top in LIBRARIES or top in sys.stdlib_module_names
