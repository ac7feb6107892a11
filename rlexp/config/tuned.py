"""Tuned values: checks the choice, and warns where an algorithm has none while others do."""

from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader

from rlexp.config.search_path import folders
from rlexp.errors import ConfigError
from rlexp.text import nearest


def check_tuned(loader: ConfigLoader, overrides: Iterable[str]) -> None:
    """Refuse (ConfigError) an unknown choice of `tuned`: the group is optional, so that Hydra would leave it out."""
    known = loader.get_group_options("tuned")
    for override in overrides:
        key, _, choice = override.partition("=")
        if key == "tuned" and choice not in (*known, "null"):
            raise ConfigError(f"tuned={choice}: there is no such choice; {nearest(choice, known)}")


def untuned(hydras: Sequence[Any]) -> list[str]:
    """One line per environment on which an algorithm has no tuned values and another has. hydras: nodes of the jobs."""
    path = list(folders(hydras[0])) if hydras else []
    known, algos = ({file.stem for p in path for file in (p / group).glob("*.yaml")} for group in ("tuned", "algo"))
    chosen: dict[str, dict[str, str]] = {}  # environment -> algorithm -> its choice of `tuned`
    for choices in (hydra.runtime.choices for hydra in hydras):
        chosen.setdefault(str(choices.env), {})[str(choices.algo)] = str(choices.tuned)
    lines = []
    for env, by_algo in chosen.items():
        without = ", ".join(a for a, choice in by_algo.items() if choice == f"{a}_{env}" and choice not in known)
        having = {a: f"tuned={choice}" for a, choice in by_algo.items() if choice in known - {"none"}}
        others = sorted(f"tuned={a}_{env}" for a in algos if f"{a}_{env}" in known)
        if without and having:
            has = ", ".join(f"{a} has {choice}" for a, choice in having.items())
            options = " or ".join([*dict.fromkeys(having.values()), "tuned=none"])
            lines.append(f"tuned values on {env} differ: {has}, {without} none; {options} applies to all")
        elif without and others:
            lines.append(f"no tuned values for {without} on {env}; others have {', '.join(others)}")
    return lines
