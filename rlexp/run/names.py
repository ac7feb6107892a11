"""Names of run folders: <study>/<job>, from overrides and a hash of the config."""

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlexp.config.identity import config_hash, key_of, naming, sets_env_id
from rlexp.config.replaced import drop_replaced
from rlexp.errors import ConfigError
from rlexp.provenance import code_state
from rlexp.run.record import RecordError, read_record

NAME_WIDTH = 200  # bytes of a folder's name before the hash; file systems take 255


def _hydra(root: DictConfig) -> Any:
    return root.hydra if "hydra" in root else HydraConfig.get()


def study_name(root: DictConfig) -> str:
    """<algo>_<env> from the choices in those groups, or the environment's id if only env.id was set."""
    chosen = _hydra(root)
    env = root.env.id if sets_env_id(list(chosen.overrides.task)) else chosen.runtime.choices.env
    return re.sub(r"[^\w.+-]", "_", f"{chosen.runtime.choices.algo}_{str(env).rpartition(':')[2]}")


def missing_folder(path: Path) -> str:
    """Message for a missing study or run folder, with a hint if it exists below outputs/."""
    meant = "outputs" / path
    try:
        there = locate(meant) is not None
    except ConfigError:  # several
        there = True
    return f"{path}: there is no such folder" + (f"; did you mean {meant}?" if there else "")


def locate(path: Path) -> Path | None:
    """A run's folder, named by its path or by <study>/<hash>; None if there is none, ConfigError if several."""
    try:
        is_hash = re.fullmatch(r"[0-9a-f]{8}(_\d+)?", path.name) is not None
        if path.is_dir() and not (is_hash and next(path.rglob("run.json"), None) is None):
            return path  # also a study whose name is like a hash, such as a date
        matching = sorted(path.parent.glob(f"[!.]*-{path.name}")) if is_hash else []
        found = [folder for folder in matching if (folder / "run.json").is_file() or (folder / ".hydra").is_dir()]
        if len(found) > 1:
            raise ConfigError(f"{path}: is the end of {len(found)} folders' names; {found[0]} is one of them")
        return found[0] if found else path if path.is_dir() else None
    except OSError:  # no name that a file could have
        return None


def folder_named(word: str | Path) -> Path:
    """The folder that a command's word means: a path, or <study>/<hash>, which may also be none that is there."""
    return locate(Path(word)) or Path(word)


def job_name(overrides: Sequence[str], settings: dict[str, Any]) -> str:
    """<overrides that can change results>-<config hash>."""
    parent = str(settings.get("init_from", "")).partition("@")[0]  # the parent's hash instead of a path
    words = [f"init_from={parent}" if parent and key_of(o) == "init_from" else o for o in naming(overrides)]
    words = [word for word in words if parent or key_of(word) != "init_with"]  # no effect without a parent
    cut = ",".join(re.sub(r"[^\w.=+~,-]", "_", word) for word in words).encode()[:NAME_WIDTH].decode(errors="ignore")
    return "-".join([cut or "default", config_hash(settings)])


def _latest(parent: Path, name: str) -> tuple[Path, int]:
    """The folder of a config with the highest suffix, and the suffix (1: none; 0: there is no folder yet).

    The hash at the end identifies the run: overrides may be typed differently, 3e3 or 3000.
    """
    stem, _, digest = name.rpartition("-")
    found: dict[int, Path] = {}
    for path in sorted(parent.glob(f"*-{digest}*"), key=lambda path: not path.name.startswith(f"{stem}-")):
        match = re.fullmatch(rf"[^.].*-{digest}(?:_(\d+))?", path.name)
        if match and path.is_dir():
            found.setdefault(int(match[1] or 1), path)
    number = max(found, default=0)
    return found.get(number, parent / name), number


def subfolder(root: DictConfig, settings_of: Callable[[DictConfig], dict[str, Any]]) -> str:
    """<study>/<job> below outputs: the run's folder, or with resume=never a new one."""
    if not re.fullmatch(r"[\w=+,-][\w.=+,-]*(/[\w=+,-][\w.=+,-]*)*", root.study):
        raise ConfigError(f"study={root.study}: must be a folder name of letters, digits and . _ = + , -")
    if str(root.outputs).startswith("~"):
        home = f"${{oc.env:HOME}}{str(root.outputs)[1:]}"
        raise ConfigError(f"outputs={root.outputs}: the shell alone knows ~; write the path, or '{home}'")
    hydra = _hydra(root)
    settings = settings_of(drop_replaced(root, hydra))
    name = job_name(list(hydra.overrides.task), settings)
    path, number = _latest(Path(root.outputs) / root.study, name)
    stale = False
    if root.stale == "rerun" and number:
        with contextlib.suppress(RecordError):
            stale = bool(code_state.changed_files(read_record(path) or {}, settings))
    if number and (stale or root.resume == "never"):  # even an empty one: a sweep may be about to start there
        path = path.with_name(f"{re.sub(r'_[0-9]+$', '', path.name)}_{number + 1}")
    return f"{root.study}/{path.name}"


def register_resolvers(settings_of: Callable[[DictConfig], dict[str, Any]]) -> None:
    """Register ${rlexp.study:}, ${rlexp.subfolder:} and ${rlexp.folder:}; settings_of returns a config's identity."""
    resolvers: dict[str, Callable[..., str]] = {
        "study": lambda *, _root_: study_name(_root_),
        "subfolder": lambda *, _root_: subfolder(_root_, settings_of),
        "folder": lambda *, _root_: f"{_root_.outputs}/{subfolder(_root_, settings_of)}",
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(f"rlexp.{name}", resolver, replace=True)
