"""Names of runs' folders: <study>/<job>, made of overrides and a hash of the config."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlexp.config.identity import config_hash
from rlexp.config.overrides import key_of, names_an_environment, naming
from rlexp.config.replaced import without_inherited
from rlexp.errors import ConfigError
from rlexp.provenance import code_state
from rlexp.run.record import RecordError, read_record

NAME_WIDTH = 200  # bytes of a folder's name before the hash; file systems take 255


def _hydra(root: DictConfig) -> Any:
    return root.hydra if "hydra" in root else HydraConfig.get()


def study_name(root: DictConfig) -> str:
    """<algo>_<env>, by the choices made in those groups; by the environment's id, where that alone was said."""
    chosen = _hydra(root)
    env = root.env.id if names_an_environment(list(chosen.overrides.task)) else chosen.runtime.choices.env
    return re.sub(r"[^\w.+-]", "_", f"{chosen.runtime.choices.algo}_{str(env).rpartition(':')[2]}")


def no_folder(path: Path) -> str:
    """What to tell of a study or run that is not there, with the place where it may be meant to lie."""
    meant = "outputs" / path
    return f"{path}: there is no such folder" + (f"; did you mean {meant}?" if meant.is_dir() else "")


def job_name(overrides: Sequence[str], settings: dict[str, Any]) -> str:
    """What was overridden and can change results, then a hash of the whole config."""
    parent = str(settings.get("init_from", "")).partition("@")[0]  # instead of a path, however it is typed
    words = [f"init_from={parent}" if parent and key_of(o) == "init_from" else o for o in naming(overrides)]
    words = [word for word in words if parent or key_of(word) != "init_with"]  # without a parent of no effect
    kept = [re.sub(r"[^\w.=+~,-]", "_", word) for word in words]
    cut = ",".join(kept).encode()[:NAME_WIDTH].decode(errors="ignore")
    return "-".join([cut or "default", config_hash(settings)])


def _latest(parent: Path, name: str) -> tuple[Path, int]:
    """The folder of that config with the highest suffix, and the suffix (1: none; 0: there is no folder yet).

    However the overrides were typed, 3e3 or 3000, the hash is the config's: a folder that ends in it is the run's.
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
    """<study>/<job> below outputs: the run's own folder, or one that is not there yet with resume=never."""
    if not re.fullmatch(r"[\w=+,-][\w.=+,-]*(/[\w=+,-][\w.=+,-]*)*", root.study):
        raise ConfigError(f"study={root.study}: must be a folder name of letters, digits and . _ = + , -")
    hydra = _hydra(root)
    settings = settings_of(without_inherited(root, hydra))
    name = job_name(list(hydra.overrides.task), settings)
    path, number = _latest(Path(root.outputs) / root.study, name)
    stale = root.stale == "rerun" and number and is_stale(path, settings)
    if number and (stale or root.resume == "never"):  # an empty one, too: a sweep may be about to begin there
        path = path.with_name(f"{re.sub(r'_[0-9]+$', '', path.name)}_{number + 1}")
    return f"{root.study}/{path.name}"


def is_stale(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a run was made, or begun, by other code of what its config names."""
    try:
        return bool(code_state.changed_files(read_record(folder) or {}, settings))
    except RecordError:
        return False


def register_resolvers(settings_of: Callable[[DictConfig], dict[str, Any]]) -> None:
    """Make ${rlexp.study:}, ${rlexp.subfolder:} and ${rlexp.folder:} known to OmegaConf.

    settings_of: what makes the run of a config what it is.
    """

    def study(*, _root_: DictConfig) -> str:
        return study_name(_root_)

    def below(*, _root_: DictConfig) -> str:
        return subfolder(_root_, settings_of)

    def whole(*, _root_: DictConfig) -> str:
        return f"{_root_.outputs}/{subfolder(_root_, settings_of)}"

    for name, resolver in (("study", study), ("subfolder", below), ("folder", whole)):
        OmegaConf.register_new_resolver(f"rlexp.{name}", resolver, replace=True)
