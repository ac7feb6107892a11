"""Which source files can change a run's result: rlexp's training side, and the modules of what its config names.

Files are found by their import statements, which are read and not run, so that what else a process has imported makes
no difference.
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import inspect
import pkgutil
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
TRAINING = ("rlexp.trainer", "rlexp.parts")  # whatever these import can change a result
# Libraries whose versions run.json holds: their files are not read.
LIBRARIES = ("torch", "gymnasium", "numpy", "hydra", "omegaconf", "ale_py", "envpool", "mujoco", "builtins")
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib"))


class _Imports(ast.NodeVisitor):
    """Names that a module imports when it runs: modules, or what is in them."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.package = module if is_package else module.rpartition(".")[0]
        self.names: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        parts = self.package.split(".") if node.level else []
        parts = parts[: len(parts) - node.level + 1] if node.level else parts
        base = ".".join([*parts, *([node.module] if node.module else [])])
        self.names += [base, *(f"{base}.{alias.name}" for alias in node.names)]

    def visit_If(self, node: ast.If) -> None:
        if getattr(node.test, "id", getattr(node.test, "attr", "")) != "TYPE_CHECKING":
            self.generic_visit(node)


def _file_of(module: str, root: Path) -> Path | None:
    """The source file of a module below the folder that its top-level package or module lies in."""
    path = root.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def closure(modules: Iterable[str], root: Path, without: Collection[str] = ()) -> dict[str, Path]:
    """Modules below a folder, and what of that folder they import, and so on: name -> file.

    Of installed packages only their own package is followed.
    """
    found: dict[str, Path] = {}
    left = list(modules)
    tops = {name.partition(".")[0] for name in left}
    while left:
        name = left.pop()
        file = None if name in found or name in without else _file_of(name, root)
        if file is None or (root in INSTALLED and name.partition(".")[0] not in tops):
            continue
        found[name] = file
        imports = _Imports(name, file.name == "__init__.py")
        try:
            imports.visit(ast.parse(file.read_bytes()))
        except (OSError, SyntaxError, ValueError):
            continue  # whoever runs it will tell
        left += [*imports.names, *([name.rpartition(".")[0]] if "." in name else [])]
    return found


def digest(files: Mapping[str, Path]) -> str:
    """Eight hex digits that name the content of modules."""
    hashed = hashlib.sha256()
    for name in sorted(files):
        hashed.update(name.encode() + _content(files[name]))
    return hashed.hexdigest()[:8]


@functools.cache  # what a process has imported does not change with the file
def _content(file: Path) -> bytes:
    return file.read_bytes()


@functools.cache
def training() -> dict[str, Path]:
    """The modules of rlexp that train, whatever a config names."""
    return closure(TRAINING, PACKAGE.parent, without=["rlexp"])  # which shows what is used after training


@functools.cache
def training_digest() -> str:
    """Eight hex digits that name the source of rlexp that trains, committed or not."""
    return digest(training())


# What a config names -------------------------------------------------------------------------------------------------


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def _modules_of(target: str) -> Iterator[str]:
    """Modules of a class and of its bases, or of a function."""
    try:
        found = pkgutil.resolve_name(target)
    except Exception:  # told where it is made
        return
    for own in found.__mro__ if inspect.isclass(found) else [found]:
        yield str(getattr(own, "__module__", None) or "")


def _modules_of_environment(name: str) -> Iterator[str]:
    """The module that registers an id, and that of the class registered."""
    import gymnasium

    module, _, own = name.rpartition(":")
    if module:
        with contextlib.suppress(Exception):  # told where the environment is made
            importlib.import_module(module)
        yield module
    spec = gymnasium.registry.get(own)
    for entry in (getattr(spec, "entry_point", None), getattr(spec, "vector_entry_point", None)):
        yield entry.partition(":")[0] if isinstance(entry, str) else str(getattr(entry, "__module__", ""))


def _root_of(module: str) -> Path | None:
    """The folder that a module's top-level package or module lies in; None: it has no file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    depth = module.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


def sources(config: Mapping[str, Any]) -> dict[str, Path]:
    """Modules whose code a config names, their bases', and what they import of the same package: name -> file.

    Of what rlexp has itself only objectives' modules and whatever else its training side does not import anyhow.

    Args:
        config: plain data.
    """
    env = config.get("env")
    name = env.get("id") if isinstance(env, Mapping) else None
    return _sources(frozenset(_targets(config)), name if isinstance(name, str) else "")


@functools.cache
def _sources(targets: frozenset[str], env_id: str) -> dict[str, Path]:
    modules = {module for target in targets for module in _modules_of(target)} | set(_modules_of_environment(env_id))
    found: dict[str, Path] = {}
    for module in sorted(modules):
        top, root = module.partition(".")[0], _root_of(module)
        if root is None or top in LIBRARIES or top in sys.stdlib_module_names:
            continue
        if top == "rlexp":
            file = None if module in training() else _file_of(module, root)
            found |= {module: file} if file else {}
        else:
            found |= closure([module], root)
    return found


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Eight hex digits that name the content of each of `sources`."""
    return {name: digest({name: file}) for name, file in sources(config).items()}
