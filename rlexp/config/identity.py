"""What makes a run what it is: its config less what cannot change results."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlexp.algos.schedules import Scheduled
from rlexp.config.imports import MOVED
from rlexp.config.schema import GROUPS, WHOLE
from rlexp.config.signatures import as_type, typed

# Keys that cannot change results: they name no folder and enter no hash.
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
    "env.timeout",
)
BY_CONTENT = ("init_from", "init_with")  # enter it as the run that they name; see `jobs.settings_of`


def typed_config(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config whose numbers have the types that their keys ask for, as 5e5 of total_steps is 500000.

    What is asked for nowhere, as in `env.kwargs`, keeps its type: there 2 and 2.0 are two settings.
    """
    values = {key: typed(value) if key in GROUPS else value for key, value in plain.items()}
    for key in WHOLE:
        value = values.get(key)
        values[key] = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(values.get("optimizer"), Mapping):
        values["optimizer"] = {**values["optimizer"], "lr": as_type(plain["optimizer"].get("lr"), Scheduled)}
    return values


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config less what cannot change results, and less earlier runs; see `jobs.settings_of`."""
    values = {str(key): cfg[key] for key in cfg if key != "hydra"}
    plain = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in values.items()
        if key not in (*NOT_IDENTITY, *BY_CONTENT)
    }
    kept = {key: value for key, value in typed_config(plain).items() if key not in NOT_IDENTITY}
    for key in NOT_IDENTITY:
        group, _, name = key.partition(".")
        if name and isinstance(kept.get(group), dict):
            kept[group] = {key: value for key, value in kept[group].items() if key != name}
    return kept


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys; lists as tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else str(value) if value == {} else value
    return flat


def config_hash(settings: dict[str, Any]) -> str:
    """Eight hex digits that name a config; see `identity`."""
    first = _renamed(settings, {new: old for old, new in MOVED.items()})
    return hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:8]


def with_current_names(config: Any) -> Any:
    """A config that was kept, maybe by an earlier version, with classes by the names that they have now."""
    return _renamed(config, MOVED)


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    if isinstance(config, dict):
        return {
            key: names.get(value, value) if key == "_target_" and isinstance(value, str) else _renamed(value, names)
            for key, value in config.items()
        }
    return [_renamed(value, names) for value in config] if isinstance(config, list) else config
