"""A run's identity: its config without the keys that cannot change results, its hash, and what names it."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlexp.algos.schedules import Scheduled
from rlexp.config.imports import MOVED
from rlexp.config.schema import GROUPS, LOCAL, LOGGER, WHOLE_NUMBERS
from rlexp.config.signatures import added_fields, as_type, typed

# Keys that cannot change results: not part of folder names or hashes.
NOT_IDENTITY = (
    "study",
    "outputs",
    "device",
    "torch_threads",
    "compile",
    "batching",
    "resume",
    "retry_failed",
    "stale",
    "stop_at",
    "checkpoint_every",
    "log_every",
    "progress",
    "profile",
    "debug",
    "primary",
    "margin",
    "env.timeout",
    "env.install",
    "env.limits",
    "evaluation.every",
    "evaluation.curve_episodes",
    "evaluation.video_every",
    "live_ranges",
    LOGGER,
    "tags",
)
# Keys that are in the identity only where they differ from these values, so that what ran before they were there is
# found again; of the class of a group, those that are `rlexp.algos.base.added`
NEUTRAL: dict[str, Any] = {
    "live": False,
    "bonus": "{}",
    "evaluation.weights": "last",
    "population": 1,
}
READ_WITH = {  # keys that change results with these evaluation.weights alone
    "average": ("evaluation.average_decay",),
    "best": ("evaluation.every", "evaluation.curve_episodes", "log_every"),  # which weights there were to choose from
}
COPIES = {"algo.gamma": "gae.gamma"}  # likewise, where they differ from another key's
BY_CONTENT = ("init_from", "init_with")  # identified by the run that they name; see `jobs.job.settings_of`


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def sets_env_id(overrides: Sequence[str]) -> bool:
    """Whether env.id is set without choosing an `env`, so that settings of the default one do not apply."""
    return "env.id" in (keys := [key_of(override) for override in overrides]) and "env" not in keys


def without_tuned(overrides: Sequence[str]) -> list[str]:
    """The overrides, with tuned=none where values tuned for the default environment do not apply."""
    chosen = {"tuned", "experiment"} & set(map(key_of, overrides))
    return [*overrides, *(["tuned=none"] if sets_env_id(overrides) and not chosen else [])]


def naming(overrides: Sequence[str]) -> list[str]:
    """Overrides that can change results, sorted, without +: they name a job's folder."""
    return [
        override
        for override in sorted(override.lstrip("+") for override in overrides)
        if not (key := key_of(override).partition("@")[0]).startswith(("hydra", f"{LOGGER}."))
        and key not in (*NOT_IDENTITY, LOCAL)
    ]


def typed_config(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Cast the numbers of a resolved config to the annotated types: total_steps=5e5 becomes 500000.

    Values without an annotation, as in `env.kwargs`, keep their type: there 2 and 2.0 differ.
    """
    values = {key: typed(value) if key in GROUPS else value for key, value in plain.items()}
    for key in WHOLE_NUMBERS:
        group, _, name = key.rpartition(".")
        if isinstance(held := values.get(group) if group else values, Mapping):
            value = held.get(name)
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            values |= {group: {**held, name: whole}} if group else {name: whole}
    if isinstance(values.get("optimizer"), Mapping):
        values["optimizer"] = {**values["optimizer"], "lr": as_type(plain["optimizer"].get("lr"), Scheduled)}
    return values


def neutral(config: Mapping[str, Any]) -> dict[str, Any]:
    """NEUTRAL, and the fields that were added to the classes of a config's groups, as dotted keys."""
    found = dict(NEUTRAL)
    for group in GROUPS:
        if isinstance(node := config.get(group), Mapping) and isinstance(target := node.get("_target_"), str):
            found |= {f"{group}.{name}": default for name, default in added_fields(target).items()}
    return found


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config without the keys in NOT_IDENTITY and BY_CONTENT, and without those that are `neutral`.

    With those of READ_WITH that are read. See `jobs.job.settings_of`.
    """
    read = READ_WITH.get(str(OmegaConf.select(cfg, "evaluation.weights")), ())
    ignored = {*NOT_IDENTITY, *itertools.chain(*READ_WITH.values())} - {*read}
    values = {str(key): cfg[key] for key in cfg if key not in (*ignored, *BY_CONTENT, "hydra")}
    plain = {key: OmegaConf.to_container(x, resolve=True) if OmegaConf.is_config(x) else x for key, x in values.items()}
    kept = {key: value for key, value in typed_config(plain).items() if key not in ignored}
    kept = json.loads(json.dumps(kept))  # as run.json has it: keys are text, as that of {0: 1.5} in env.kwargs
    flat = flatten(kept)
    copied = {key: flat.get(of) for key, of in COPIES.items()}
    silent = [key for key, value in (neutral(kept) | copied).items() if flat.get(key, ...) == value]
    for key in (*ignored, *silent):
        group, _, name = key.rpartition(".")
        if not name or not group:
            kept.pop(key, None)
        elif isinstance(kept.get(group), dict):
            kept[group] = {key: value for key, value in kept[group].items() if key != name}
    return kept


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys; lists as tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else str(value) if value == {} else value
    return flat


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values differ between flat configs, or that some lack."""
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({repr(config.get(key, ...)) for config in configs}) > 1]


def config_hash(settings: dict[str, Any]) -> str:
    """Eight hex digits that identify a config; see `identity`."""
    original = _renamed(settings, {new: old for old, new in MOVED.items()})
    return hashlib.sha256(json.dumps(original, sort_keys=True).encode()).hexdigest()[:8]


def with_current_names(config: Any) -> Any:
    """A saved config, perhaps of an earlier version, with classes by their current names."""
    return _renamed(config, MOVED)


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    if isinstance(config, dict):
        return {
            key: names.get(value, value) if key == "_target_" and isinstance(value, str) else _renamed(value, names)
            for key, value in config.items()
        }
    return [_renamed(value, names) for value in config] if isinstance(config, list) else config
