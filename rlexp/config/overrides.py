"""Words of the command line that set something."""

from collections.abc import Sequence

from rlexp.config.identity import NOT_IDENTITY


def key_of(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").partition("=")[0]


def names_an_environment(overrides: Sequence[str]) -> bool:
    """Whether they say an id and choose no group `env`, so that what is known of the default one is not meant."""
    return "env.id" in (keys := [key_of(override) for override in overrides]) and "env" not in keys


def naming(overrides: Sequence[str]) -> list[str]:
    """Those of the overrides that can change results, in the order in which they name a job, with or without a +."""
    return [
        override
        for override in sorted(override.lstrip("+") for override in overrides)
        if not (key := key_of(override)).startswith("hydra") and key.partition("@")[0] not in NOT_IDENTITY
    ]
