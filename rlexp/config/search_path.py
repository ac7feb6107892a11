"""Where yamls of others are found: in installed packages, in conf/ of the folder one stands in, on hydra.searchpath."""

import copy
import functools
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from yaml import YAMLError

from rlexp.config.schema import CONF_DIR
from rlexp.errors import ConfigError

HOW = (
    "yamls of your own are found in conf/ where you stand, in conf/ of a package installed with an entry point of the "
    "group rlexp, and with hydra.searchpath=[pkg://their_pkg.conf]"
)


class Theirs(SearchPathPlugin):
    """Adds conf/ of every installed package that has an entry point of the group `rlexp`, and of the working directory.

    They come after rlexp's own, so that none of its yamls is replaced without being told; see `require_unshadowed`.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra."""
        for entry in sorted(entry_points(group="rlexp"), key=lambda entry: entry.value):
            for folder in _folders_of(entry.value.partition(":")[0]):
                if (folder / "conf").is_dir():
                    search_path.append(f"package {entry.name}", f"file://{folder / 'conf'}")
        here = Path.cwd() / "conf"
        if here.is_dir() and here.resolve() != CONF_DIR.resolve():
            search_path.append("working directory", f"file://{here}")


def _folders_of(package: str) -> list[Path]:
    """The folders of a package, found without running its code where it is no part of another."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return []
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or []]


def require_search_path(words: Iterable[str]) -> None:
    """Refuse a place on hydra.searchpath that is not there, which Hydra would only warn of.

    Raises:
        ConfigError: naming it.
    """
    for word in words:
        if not word.lstrip("+").startswith("hydra.searchpath="):
            continue
        try:
            places: Any = OverridesParser.create().parse_override(word).value()
        except HydraException:  # told where it is read
            return
        for place in [places] if isinstance(places, str) else places or []:
            if not _is_there(str(place)):
                what = "package" if str(place).startswith("pkg://") else "folder"
                raise ConfigError(
                    f"hydra.searchpath={place}: there is no such {what}; write pkg://their_pkg.conf, which must be "
                    f"importable from here, or file:///path/of/conf"
                )


def _is_there(place: str) -> bool:
    scheme, _, rest = place.partition("://")
    if scheme == "pkg":
        return bool(_folders_of(rest))
    return scheme not in ("file", place) or Path(rest or place).is_dir()


def folders(hydra: Any) -> Iterator[Path]:
    """Where a config's yamls were looked for, in order.

    Args:
        hydra: Hydra's own settings of it.
    """
    for source in hydra.runtime.config_sources:
        if source.schema == "file":
            yield Path(source.path)
        elif source.schema == "pkg" and source.provider != "hydra":
            yield from _folders_of(source.path)


def read(file: Path) -> Any:
    """A yaml's content, unresolved; of one that has not changed since it was last read, without reading it again."""
    return copy.deepcopy(_read(file, file.stat().st_mtime_ns))


@functools.lru_cache(maxsize=256)
def _read(file: Path, changed: int) -> Any:
    content = OmegaConf.load(file)
    return OmegaConf.to_container(content, resolve=False) if OmegaConf.is_dict(content) else {}


def chain(group: str, choice: str | None, places: Sequence[Path]) -> Iterator[Path]:
    """The yaml of a choice and those of its group that it starts from, in the order in which they count."""
    file = next((file for place in places if (file := place / group / f"{choice}.yaml").is_file()), None)
    if file is None:
        return
    defaults = read(file).get("defaults", [])
    names = [entry.removeprefix(f"/{group}/") for entry in defaults if isinstance(entry, str)]
    for name in names if "_self_" in names else [*names, "_self_"]:
        if name == "_self_":
            yield file
        elif "/" not in name:
            yield from chain(group, name, places)


def group_choices(hydra: Any) -> dict[str, str]:
    """What was chosen in each config group; tuned=none where nothing is tuned for the pair, which Hydra passes over.

    Args:
        hydra: Hydra's own settings of a composed config.
    """
    choices = {str(name): str(choice) for name, choice in hydra.runtime.choices.items() if not name.startswith("hydra")}
    tuned = f"{choices.get('tuned')}.yaml"
    found = any((place / "tuned" / tuned).is_file() for place in folders(hydra))
    return choices if found else choices | {"tuned": "none"}


def require_unshadowed(hydra: Any) -> None:
    """Refuse a choice of which there are two, as only the first would count.

    Args:
        hydra: Hydra's own settings of a composed config.

    Raises:
        ConfigError: naming both.
    """
    places = list(folders(hydra))
    if len(places) < 2:
        return
    for group, choice in hydra.runtime.choices.items():
        files = [file for place in places if (file := place / group / f"{choice}.yaml").is_file()]
        other = next((file for file in files if file.read_bytes() != files[0].read_bytes()), None)
        if other is not None:
            raise ConfigError(f"{group}={choice}: there are two, {files[0]} and {other}; give yours another name")


def choices_with(path: str, places: Sequence[Path]) -> list[str]:
    """Choices of a key's group whose yaml sets the key: `algo=apo` for algo.anchor_coef."""
    group, _, key = path.partition(".")
    files = [file for place in places for file in sorted((place / group).glob("*.yaml"))]
    found = []
    for file in files:
        try:
            node = read(file)
        except (OSError, ValueError, YAMLError):
            continue
        *way, name = key.split(".")
        for step in way:
            node = node.get(step, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict) and name in node:
            found.append(f"{group}={file.stem}")
    return list(dict.fromkeys(found))  # a folder may be on the path twice
