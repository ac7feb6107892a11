"""What Hydra and OmegaConf say of a config that cannot be composed, as one line that names the key and a way out."""

import difflib
import re
from collections.abc import Callable
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlexp.config.overrides import key_of
from rlexp.config.schema import CONF_DIR, GROUPS
from rlexp.config.search_path import HOW, choices_with, folders
from rlexp.config.signatures import settings_of

ELSEWHERE = {  # settings of other commands, which look like keys of this one: what they are set for
    "run": "python -m rlexp.evaluate run=outputs/<study>/<run>",
    "trust": "python -m rlexp.evaluate run=... trust=<package>",
    "episodes": "python -m rlexp.evaluate run=... episodes=100; of the final evaluation: evaluation.episodes",
    "deterministic": "python -m rlexp.evaluate run=... deterministic=false; of the final one: evaluation.deterministic",
    "max_steps": "python -m rlexp.evaluate run=... max_steps=1000; of the final evaluation: evaluation.max_steps",
    "baseline": "python -m rlexp.compare outputs/<study> baseline=<arm>",
    "allow": "python -m rlexp.compare outputs/<study> allow=<key>",
    "threshold": "python -m rlexp.compare outputs/<study> threshold=<return>; of the environment: env.threshold",
    "beside": "python -m rlexp.compare outputs/<study> beside=<file>.csv",
    "figures": "python -m rlexp.compare outputs/<study> figures=false",
    "n_trials": "a tuning: -m hydra/sweeper=optuna hydra.sweeper.n_trials=20",
    "n_jobs": "a launcher: -m hydra/launcher=joblib hydra.launcher.n_jobs=2",
}


def decides_targets(override: str) -> bool:
    """Whether what else may be set depends on it: a group's choice, a class, where yamls are found."""
    key, _, value = override.partition("=")
    return "," not in value and (key.endswith("_target_") or key == "hydra.searchpath" or (CONF_DIR / key).is_dir())


def composed(overrides: list[str], **options: bool) -> DictConfig:
    """The config that some overrides make."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides, **options)


def with_plus(error: Exception, overrides: list[str], compose_with: Callable[[list[str]], Any]) -> list[str] | None:
    """The overrides with ++ before the key that an error is about, if no yaml has it but what it is meant for takes it.

    Args:
        error: Hydra's.
        overrides: as typed.
        compose_with: the config that some of them make.
    """
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown is None:
        return None
    parent, _, key = unknown[1].rpartition(".")
    try:
        config = compose_with([o for o in overrides if decides_targets(o)])
        node = OmegaConf.select(config, parent)
    except (HydraException, OmegaConfBaseException):
        return None
    of_environment = parent == "env.kwargs"
    taken = settings_of(str(node.get("_target_"))) if OmegaConf.is_dict(node) else []
    if not (of_environment or {key, "**"} & set(taken)):
        return None
    return [f"++{o}" if key_of(o) == unknown[1] else o for o in overrides]


def explain(error: Exception, overrides: list[str]) -> str:
    """One line for an error of Hydra or OmegaConf."""
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    missing = re.search(r"Could not find '([^']+)'", text)
    merging = re.search(r"Error merging override (\S+)", text)
    if "Config group override must be" in text:
        return next((f"{o}: names no yaml; {_without(key_of(o))}" for o in overrides if _names_no_yaml(o)), text)
    several = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if unknown:
        return _no_setting(unknown[1], overrides)
    if missing:
        group, _, choice = missing[1].rpartition("/")
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        close = difflib.get_close_matches(choice, options, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        theirs = f"; {HOW}" if group in GROUPS and not close else ""
        return f"{group}={choice}: there is no such choice; {hint}known: {', '.join(options)}{theirs}"
    if several:
        key, _, values = several[1].partition("=")
        return f"{several[1]}: several values; add -m to run a job for each, or write {key}=[{values}] for one list"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; {_how_to_write(str(error.override))}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    line = str(cause).splitlines()[0]
    line = line.removeprefix("ConfigError raised while resolving interpolation: ")
    return f"{merging[1]}: {line}" if merging else " ".join(line.split())


def _names_no_yaml(override: str) -> bool:
    """Whether it gives a group something that is no name, as null."""
    value = override.partition("=")[2]
    return (CONF_DIR / key_of(override)).is_dir() and not isinstance(yaml.safe_load(value), str | list)


def _without(group: str) -> str:
    """How nothing is chosen in a group, or what there is."""
    known = sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))
    return f"{group}=none is without" if "none" in known else f"leave it out; known: {', '.join(known)}"


def _no_setting(key: str, overrides: list[str]) -> str:
    """What is told of a key that there is not: where it belongs, the nearest one that there is, or where to look."""
    typed = next((o for o in overrides if o.lstrip("+~").partition("=")[0] == key), key)
    if key in ELSEWHERE:
        return f"{typed}: there is no setting {key} of training; it belongs to {ELSEWHERE[key]}"
    group = key.partition(".")[0]
    config = _composed_as_far_as_it_goes(overrides)
    if config is None:
        return f"{typed}: there is no setting {key}; python -m rlexp.train --help lists the keys"
    with_key = choices_with(key, list(folders(config.hydra))) if group in GROUPS else []
    if with_key:
        chosen = f"{group}={config.hydra.runtime.choices.get(group)}"
        return f"{typed}: {chosen} has no such setting; of {', '.join(with_key)} it is one"
    known = [name for name in _keys(config) if name.startswith("hydra") == key.startswith("hydra")]
    theirs = group not in config  # perhaps a group of somebody else's
    shared = f"{group}." if group in GROUPS and "." in key else ""  # what all have in common makes nothing near
    inside = [name.removeprefix(shared) for name in known if name.startswith(shared)]
    near = 0.55 if not theirs else 0.8 if "." in key else 0.65
    close = difflib.get_close_matches(key.removeprefix(shared), inside, n=1, cutoff=near)
    where = f" {group}" if shared else ""
    strange = f"; {HOW}" if theirs else ""
    hint = (
        f"did you mean {shared}{close[0]}?" if close else f"python -m rlexp.train --help{where} lists the keys{strange}"
    )
    return f"{typed}: there is no setting {key}; {hint}"


def _composed_as_far_as_it_goes(overrides: list[str]) -> DictConfig | None:
    """The config that the choices among the overrides make, else the default one."""
    for attempt in ([o for o in overrides if decides_targets(o)], []):
        try:
            return composed(attempt, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):
            continue
    return None


def _keys(node: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a config, and those that its classes take besides."""
    found: list[str] = []
    for key in node:
        found.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            found += _keys(child, f"{prefix}{key}.")
    target = (
        node.get("_target_") if isinstance(node, DictConfig) and not OmegaConf.is_missing(node, "_target_") else None
    )
    return found + [f"{prefix}{name}" for name in settings_of(str(target)) if target and name not in node]


def _how_to_write(override: str) -> str:
    key, _, value = override.partition("=")
    if key == "init_from":
        return "name the folder by the hash that it ends in, as in init_from=outputs/first/2eec0503, or quote it"
    if re.match(r"(tag|int|float|interval|range|choice)\(", value):
        return "write interval(1e-4,1e-2), tag(log,interval(1e-4,1e-2)), range(0,1,0.1) or choice(a,b)"
    if "[" in value and "=" in value:
        return """quote what holds =, as in '[["algo=ppo"],["algo=apo"]]'"""
    return "quote what holds spaces, brackets or commas"
