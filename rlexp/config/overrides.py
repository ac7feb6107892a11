"""Overrides: `key=value` arguments of the command line."""

from collections.abc import Sequence

from rlexp.config.identity import NOT_IDENTITY


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def sets_env_id(overrides: Sequence[str]) -> bool:
    """Whether env.id is set without choosing an `env`, so that settings of the default one do not apply."""
    return "env.id" in (keys := [key_of(override) for override in overrides]) and "env" not in keys


def naming(overrides: Sequence[str]) -> list[str]:
    """Overrides that can change results, sorted, without +: they name a job's folder."""
    return [
        override
        for override in sorted(override.lstrip("+") for override in overrides)
        if not (key := key_of(override)).startswith("hydra") and key.partition("@")[0] not in NOT_IDENTITY
    ]
