"""Turns composition errors of Hydra and OmegaConf into one line that names the key and a remedy."""

import re
from collections.abc import Callable
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlexp.config.identity import key_of
from rlexp.config.schema import CONF_DIR, GROUPS, LOCAL, LOGGER
from rlexp.config.search_path import choices_that_set, folders, how_to_add
from rlexp.config.signatures import setting_names
from rlexp.text import closest, one_line

OTHER_COMMANDS = {  # settings of other commands, which look like keys of this one -> how to set them
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
    """Whether an override changes which keys exist: a group's choice, a `_target_`, the search path."""
    key, _, value = override.partition("=")
    return "," not in value and (key.endswith("_target_") or key == "hydra.searchpath" or (CONF_DIR / key).is_dir())


def compose_config(overrides: list[str], **options: bool) -> DictConfig:
    """Compose a config from overrides."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides, **options)


def with_plus(error: Exception, overrides: list[str], compose_with: Callable[[list[str]], Any]) -> list[str] | None:
    """The overrides with ++ before the unknown key of Hydra's error, if its target accepts it; None otherwise."""
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown is None:
        return None
    parent, _, key = unknown[1].rpartition(".")
    try:
        node = OmegaConf.select(compose_with([o for o in overrides if decides_targets(o)]), parent)
    except (HydraException, OmegaConfBaseException):
        return None
    accepted = setting_names(str(node.get("_target_"))) if OmegaConf.is_dict(node) else []
    if not (parent == "env.kwargs" or {key, "**"} & set(accepted)):
        return None
    return [f"++{o}" if key_of(o) == unknown[1] else o for o in overrides]


def explain(error: Exception, overrides: list[str]) -> str:
    """Message for an error of Hydra or OmegaConf, in one line."""
    text = str(error)
    if "Config group override must be" in text:
        return next(filter(None, map(_no_yaml, overrides)), text)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(unknown[1], overrides)
    if missing := re.search(r"Could not (?:find|load) '([^']+)'", text):  # load: one of a list
        group, _, choice = missing[1].rpartition("/")
        listed = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        options = listed or sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))
        near = closest(choice, options, cutoff=0.4)
        hint = f"did you mean {near}? " if near else ""
        how = f"; {how_to_add()}" if group in (*GROUPS, LOGGER) and not near else ""
        return f"{group}={choice}: there is no such choice; {hint}known: {', '.join(options)}{how}"
    if composing := re.search(r"In '([^']+)': \w+ raised while composing config:\n(.+)", text):
        head = "; its first line must be # @package _global_" if composing[2].startswith(f"Key '{LOCAL}'") else ""
        return f"{composing[1]}.yaml: {composing[2]}{head}"
    if making := re.search(r"Error in call to target '(\S+)':\n(.+)\nfull_key: (hydra\.(?:launcher|sweeper))", text):
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", making[2])
        if unexpected and (near := closest(unexpected[1], setting_names(making[1]))):
            return f"{making[3]}.{unexpected[1]}: there is no such setting; did you mean {making[3]}.{near}?"
        what = f"{making[1].rpartition('.')[2]} cannot be made of these settings ({making[2]})"
        return f"{making[3]}: {what}; where a yaml, such as conf/local, has some for another, choose that one there too"
    if several := re.search(r"Ambiguous value for argument '([^']+)'", text):
        key, _, values = several[1].partition("=")
        return f"{several[1]}: several values; add -m to run one job each, or write {key}=[{values}] for a list"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; {_how_to_write(str(error.override))}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    line = str(cause).splitlines()[0].removeprefix("ConfigError raised while resolving interpolation: ")
    if named := re.fullmatch(r"KeyError raised while resolving interpolation: '(True|False|None|[\d.]+)'", line):
        return f"a yaml has a key that YAML reads as {named[1]}, no name, as on, off, yes, no, null, numbers: rename it"
    merging = re.search(r"Error merging override (\S+)", text)
    if merging and "is not a ListConfig" in line:
        key, _, value = merging[1].partition("=")
        return f"{merging[1]}: must be a list, as {key}=[{value}]"
    return f"{merging[1]}: {line}" if merging else one_line(line)


def _no_yaml(override: str) -> str:
    """Message for an override that sets a group to something other than a name, as null; empty for others."""
    group, value = key_of(override), override.partition("=")[2]
    if group == LOCAL:
        return f"{override}: is not the name of a yaml; ~{LOCAL} leaves it out"
    if not (CONF_DIR / group).is_dir() or isinstance(yaml.safe_load(value), str | list):
        return ""
    known = sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))
    how = f"{group}=none leaves it out" if "none" in known else f"leave it out; known: {', '.join(known)}"
    return f"{override}: is not the name of a yaml; {how}"


def _unknown_key(key: str, overrides: list[str]) -> str:
    """Message for an unknown key: the command it belongs to, the nearest key, or where to look."""
    typed = next((o for o in overrides if key_of(o) == key), key)
    if key in OTHER_COMMANDS:
        return f"{typed}: there is no setting {key} of training; it belongs to {OTHER_COMMANDS[key]}"
    if key == LOCAL:
        return f"{typed}: there is no conf/local/{typed.partition('=')[2]}.yaml; see conf/README.md"
    group = key.partition(".")[0]
    config = _compose_leniently(overrides)
    if config is None:
        return f"{typed}: there is no setting {key}; python -m rlexp.train --help lists the keys"
    with_key = choices_that_set(key, list(folders(config.hydra))) if group in (*GROUPS, LOGGER) else []
    if with_key:
        chosen = f"{group}={config.hydra.runtime.choices.get(group)}"
        return f"{typed}: {chosen} has no such setting; {', '.join(with_key)} has it"
    if plugins := _plugins_with(key):
        kind, name = key.split(".")[1:]
        chosen = f"hydra/{kind}={config.hydra.runtime.choices.get(f'hydra/{kind}')}"
        return f"{typed}: {chosen} has no setting {name}, unlike {' and '.join(plugins)}"
    known = [name for name in _keys(config) if name.startswith("hydra") == key.startswith("hydra")]
    is_foreign = group not in config  # perhaps a group of user code
    shared = f"{group}." if group in GROUPS and "." in key else ""  # the common prefix would make all keys similar
    inside = [name.removeprefix(shared) for name in known if name.startswith(shared)]
    cutoff = 0.55 if not is_foreign else 0.8 if "." in key else 0.65
    near = closest(key.removeprefix(shared), inside, cutoff)
    where = f" {group}" if shared else ""
    how = f"; {how_to_add()}" if is_foreign else ""
    hint = f"did you mean {shared}{near}?" if near else f"python -m rlexp.train --help{where} lists the keys{how}"
    return f"{typed}: there is no setting {key}; {hint}"


def _plugins_with(key: str) -> list[str]:
    """Launchers or sweepers that have a setting hydra.launcher.<name> or hydra.sweeper.<name>."""
    group, _, name = key.rpartition(".")
    if group not in ("hydra.launcher", "hydra.sweeper"):
        return []
    files = sorted((CONF_DIR / group.replace(".", "/")).glob("*.yaml"))
    return [file.stem for file in files if name in yaml.safe_load(file.read_text(encoding="utf-8"))]


def _compose_leniently(overrides: list[str]) -> DictConfig | None:
    """Compose with those overrides that choose groups and classes, else the default config."""
    for attempt in ([o for o in overrides if decides_targets(o)], []):
        try:
            return compose_config(attempt, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):
            continue
    return None


def _keys(node: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a config, and those that its targets accept besides."""
    found: list[str] = []
    for key in node:
        found.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            found += _keys(child, f"{prefix}{key}.")
    is_target = isinstance(node, DictConfig) and not OmegaConf.is_missing(node, "_target_")
    target = node.get("_target_") if is_target else None
    return found + [f"{prefix}{name}" for name in setting_names(str(target)) if target and name not in node]


def _how_to_write(override: str) -> str:
    key, _, value = override.partition("=")
    if key == "init_from":
        return "name the folder by the hash at its end, as in init_from=outputs/first/2eec0503, or quote it"
    if re.match(r"(tag|int|float|interval|range|choice)\(", value):
        return "write interval(1e-4,1e-2), tag(log,interval(1e-4,1e-2)), range(0,1,0.1) or choice(a,b)"
    if "[" in value and "=" in value:
        return """quote values that contain =, as in '[["algo=ppo"],["algo=apo"]]'"""
    return "quote values that contain spaces, brackets or commas"
