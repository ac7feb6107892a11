"""Search path for user yamls (installed packages, conf/ here, hydra.searchpath), and who has tuned values."""

import contextlib
import copy
import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from rlexp.config.identity import differing, flatten, key_of
from rlexp.config.schema import CONF_DIR, LOCAL, LOGGER
from rlexp.errors import ConfigError
from rlexp.text import nearest

HOW_TO_ADD = (
    "your yamls are found in conf/ of the working directory, in conf/ of an installed package with an entry point in "
    "the group rlexp, and with hydra.searchpath=[pkg://their_pkg.conf]"
)

# What conf/local may set, besides loggers and the launcher: neither results nor what compare makes of them depend on it
OF_A_MACHINE = (
    "outputs",
    "device",
    "torch_threads",
    "compile",
    "batching",
    "checkpoint_every",
    "progress",
    "env.timeout",
    "evaluation.video_every",
)
NAMED = 3  # tuned values that a message names; those of the default algorithm come first
# Parts of hydra: the launcher, which it may set, and what Hydra itself tells of a job
OF_A_LAUNCH = ("launcher", "runtime", "overrides", "job.num", "job.id", "job.override_dirname")


class PluginSearchPath(SearchPathPlugin):
    """Adds conf/ of every installed package with an entry point in the group `rlexp`, and of the working directory.

    They come after rlexp's conf/, so that none of its yamls is silently replaced; see `require_unshadowed`.
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


def how_to_add() -> str:
    """Where yamls of one's own are found, and which packages have an entry point and none."""
    bare = [
        entry.value
        for entry in entry_points(group="rlexp")
        if not any(True for folder in _folders_of(entry.value.partition(":")[0]) for _ in folder.glob("conf/**/*.yaml"))
    ]
    return HOW_TO_ADD + (f"; {', '.join(bare)} has an entry point, but no yamls in conf/" if bare else "")


def register_search_path() -> None:
    """Have Hydra search there. Whoever composes a config needs it, with or without the plugins of sweeps."""
    Plugins.instance().register(PluginSearchPath)
    # Hydra would take its builtin configs of the same names for schemas of the files in conf/hydra/
    store = ConfigStore.instance().repo["hydra"]
    for path in (CONF_DIR / "hydra").rglob("*.yaml"):
        store.get(path.parent.name, {}).pop(path.name, None)


def _folders_of(package: str) -> list[Path]:
    """The folders of a package, found without running its code unless it is a subpackage."""
    try:
        spec = importlib.util.find_spec(package)
    except (Exception, SystemExit):  # whatever the package above it raises as it is imported
        return []
    return [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or []]


def require_search_path(words: Iterable[str]) -> None:
    """Refuse (ConfigError) a missing entry of hydra.searchpath, which Hydra would only warn about."""
    for word in words:
        if not word.lstrip("+").startswith("hydra.searchpath="):
            continue
        try:
            entries: Any = OverridesParser.create().parse_override(word).value()
        except HydraException:  # reported when Hydra parses it
            return
        for entry in map(str, [entries] if isinstance(entries, str) else entries or []):
            scheme, _, rest = entry.partition("://")
            what = "package" if scheme == "pkg" else "folder"
            is_there = scheme not in ("file", entry) or Path(rest or entry).is_dir()
            if not (_folders_of(rest) if scheme == "pkg" else is_there):
                raise ConfigError(
                    f"hydra.searchpath={entry}: there is no such {what}; write pkg://their_pkg.conf, which must be "
                    f"importable from here, or file:///path/to/conf"
                )


def folders(hydra: Any) -> Iterator[Path]:
    """Folders of a config's search path, in order. hydra: node of a composed config."""
    for source in hydra.runtime.config_sources:
        if source.schema == "file":
            yield Path(source.path)
        elif source.schema == "pkg" and source.provider != "hydra":
            yield from _folders_of(source.path)


def read(file: Path) -> Any:
    """A yaml's content, unresolved; cached until the file changes."""
    return copy.deepcopy(_read(file, file.stat().st_mtime_ns))


def node_at(settings: Any, path: str) -> Mapping[str, Any]:
    """The settings below a dotted key of a yaml; empty if there are none."""
    for name in path.split(".") if path else ():
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings if isinstance(settings, Mapping) else {}


@functools.lru_cache(maxsize=256)
def _read(file: Path, changed: int) -> Any:
    content = OmegaConf.load(file)
    return OmegaConf.to_container(content, resolve=False) if OmegaConf.is_dict(content) else {}


def chain(group: str, choice: str | None, search_path: Sequence[Path]) -> Iterator[Path]:
    """The yaml of a choice and those of its group in its defaults list, in order of precedence, lowest first."""
    file = next((file for folder in search_path if (file := folder / group / f"{choice}.yaml").is_file()), None)
    if file is None:
        return
    defaults = read(file).get("defaults", [])
    names = [entry.removeprefix(f"/{group}/") for entry in defaults if isinstance(entry, str)]
    for name in names if "_self_" in names else [*names, "_self_"]:
        if name == "_self_":
            yield file
        elif "/" not in name:
            yield from chain(group, name, search_path)


def group_choices(hydra: Any) -> dict[str, str]:
    """The choice in each config group; tuned=none where there are no tuned values, no `local` where there is none."""
    choices = {str(name): str(choice) for name, choice in hydra.runtime.choices.items() if not name.startswith("hydra")}
    without = {"tuned": "none", LOCAL: None}  # what stands for a yaml that is not there
    for group, instead in without.items():
        if not any((folder / group / f"{choices.get(group)}.yaml").is_file() for folder in folders(hydra)):
            choices.pop(group, None)
            choices |= {group: instead} if instead else {}
    return choices


def require_unshadowed(hydra: Any) -> None:
    """Refuse (ConfigError) a choice with two different yamls on the search path: the first would shadow the other.

    Of those that its defaults list names, too.
    """
    search_path = list(folders(hydra))
    chosen = hydra.runtime.choices.items()
    named = [(group, file.stem) for group, choice in chosen for file in chain(group, choice, search_path)]
    for group, choice in dict.fromkeys(named):
        files = [file for folder in search_path if (file := folder / group / f"{choice}.yaml").is_file()]
        other = next((file for file in files if file.read_bytes() != files[0].read_bytes()), None)
        if other is not None:
            raise ConfigError(f"{group}={choice}: there are two, {files[0]} and {other}; give yours another name")


def choices_that_set(path: str, search_path: Sequence[Path]) -> list[str]:
    """Choices of a key's group whose yamls set the key: `algo=apo` for algo.anchor_coef."""
    group, _, key = path.partition(".")
    parent, _, name = key.rpartition(".")
    found = []
    for file in [file for folder in search_path for file in sorted((folder / group).glob("*.yaml"))]:
        with contextlib.suppress(OSError, ValueError, YAMLError):
            if name in node_at(read(file), parent):
                found.append(f"{group}={file.stem}")
    return list(dict.fromkeys(found))  # a folder may be on the search path twice


def check_optional(loader: ConfigLoader, overrides: Iterable[str]) -> None:
    """Refuse (ConfigError) an unknown choice of a group that is optional, which Hydra would leave out."""
    known = {group: loader.get_group_options(group) for group in ("tuned", LOCAL)}
    for override in overrides:
        key, _, choice = override.partition("=")
        if key in known and choice not in (*known[key], "null"):
            hint = nearest(choice, known[key]) if known[key] else f"there is no conf/{key}/{choice}.yaml"
            raise ConfigError(f"{key}={choice}: there is no such choice; {hint}")


def has_local(hydra: Any) -> bool:
    """Whether the yaml of `local` is there."""
    choice = hydra.runtime.choices.get(LOCAL)
    return any((folder / LOCAL / f"{choice}.yaml").is_file() for folder in folders(hydra))


def check_local(config: DictConfig, hydra: Any, compose: Callable[[list[str]], DictConfig]) -> None:
    """Refuse (ConfigError) a yaml in conf/local that changes more of a config than `OF_A_MACHINE`, by whatever way.

    So that a study's commands mean the same everywhere. compose: composes a config, with its node hydra.
    """
    if not has_local(hydra):
        return
    words = [word for word in hydra.overrides.task if key_of(word).partition("@")[0] != LOCAL]
    without = compose([*words, f"~{LOCAL}"])
    flat: list[dict[str, Any]] = []
    for each, of_hydra in ((config, hydra), (without, without.hydra)):
        plain: Any = OmegaConf.to_container(each, resolve=False)
        settings: Any = OmegaConf.to_container(of_hydra, resolve=False)
        settings["mode"] = str(settings.get("mode") or RunMode.RUN)
        flat.append(flatten({**plain, "hydra": settings}))
    free = (LOGGER, "tags", *OF_A_MACHINE)
    allowed = (*free, *(f"hydra.{part}" for part in OF_A_LAUNCH))
    changed = [key for key in differing(flat) if not any(key == one or key.startswith(f"{one}.") for one in allowed)]
    if changed:
        file, may = f"conf/{LOCAL}/{hydra.runtime.choices[LOCAL]}.yaml", ", ".join((*free, "hydra.launcher"))
        raise ConfigError(f"{file} changes {changed[0]}, but may only set {may}; put the rest into an experiment")


def untuned(hydras: Sequence[Any]) -> list[str]:
    """One line per environment on which an algorithm has no tuned values and another has. hydras: nodes of the jobs."""
    path = list(folders(hydras[0])) if hydras else []
    known, algos = ({file.stem for p in path for file in (p / group).glob("*.yaml")} for group in ("tuned", "algo"))
    entries = (entry for entry in read(CONF_DIR / "config.yaml")["defaults"] if isinstance(entry, Mapping))
    default = next((entry["algo"] for entry in entries if "algo" in entry), None)
    chosen: dict[str, dict[str, str]] = {}  # environment -> algorithm -> its choice of `tuned`
    for choices in (hydra.runtime.choices for hydra in hydras):
        chosen.setdefault(str(choices.env), {})[str(choices.algo)] = str(choices.tuned)
    lines = []
    for env, by_algo in chosen.items():
        without = ", ".join(a for a, choice in by_algo.items() if choice == f"{a}_{env}" and choice not in known)
        having = {a: f"tuned={choice}" for a, choice in by_algo.items() if choice in known - {"none"}}
        others = sorted((a for a in algos if f"{a}_{env}" in known), key=lambda a: (a != default, a))
        if without and having:
            has = ", ".join(f"{a} has {choice}" for a, choice in having.items())
            options = " or ".join([*dict.fromkeys(having.values()), "tuned=none"])
            lines.append(f"tuned values on {env} differ: {has}, {without} none; {options} applies to all")
        elif without and others:
            named = ", ".join(f"tuned={a}_{env}" for a in others[:NAMED]) + (", ..." if others[NAMED:] else "")
            lines.append(f"no tuned values for {without} on {env}; others have {named}")
    return lines
