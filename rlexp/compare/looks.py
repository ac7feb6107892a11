"""Looks at a study's data, each of which spends part of the 5 % of false verdicts; kept in looks.json of the study.

Whoever adds seeds until a difference shows will find one: of two verdicts at 5 % each, one is false in up to 10 % of
studies. So a study declares at most three numbers of seeds at which it is looked at (`plan=true`), and these share the
5 %: whatever the data are, the chance of a false verdict at any of them is at most the sum (Bonferroni; a
group-sequential design in the sense of Lan and DeMets 1983 with most of the error left to the end). Without a plan, the
first verdict is the only one. Any other number of seeds is an interim look, which gives intervals and no verdict.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlexp.errors import ConfigError
from rlexp.files import write_atomically
from rlexp.text import one_line

FILE = "looks.json"
SHARES = {1: (1.0,), 2: (0.2, 0.8), 3: (0.05, 0.15, 0.8)}  # of the error, by number of declared looks


@dataclass
class Looks:
    """Looks at one environment's runs, in seeds per arm."""

    planned: list[int] = field(default_factory=list)  # declared; empty: a single look, at whatever comes first
    taken: list[int] = field(default_factory=list)  # at which a verdict was given
    pilot: int = 0  # seeds that there were when the looks were declared
    seen: bool = False  # whether differences have been shown since
    seeds: dict[int, dict[str, str]] = field(default_factory=dict)  # look -> arm -> its seeds at the first verdict

    def share(self, seeds: int) -> float | None:
        """Share of the error that a look at so many seeds may spend; None: it was not declared."""
        if self.planned:
            return SHARES[len(self.planned)][self.planned.index(seeds)] if seeds in self.planned else None
        return 1.0 if not self.taken or seeds in self.taken else None

    def changed(self, seeds: int, scored: Mapping[str, str]) -> str:
        """Why these arms, with these scored seeds, are not those of the verdict at this look; empty: they are."""
        before = self.seeds.get(seeds, {})
        apart = [f"seeds {before[arm]} of {arm}" for arm, named in scored.items() if before.get(arm, named) != named]
        return f"the verdict was given on {' and '.join(apart)}" if apart else ""

    def why_interim(self, seeds: int) -> str:
        """Why a look at so many seeds gives no verdict."""
        if not self.planned:
            return f"the verdict was given at {self.taken[0]} seeds, with all of the 5 %"
        later = [n for n in self.planned if n > seeds]
        declared = ", ".join(map(str, self.planned))
        return f"declared looks are at {declared} seeds" + (f": next at {later[0]}" if later else "")


def spans(seeds: Iterable[int]) -> str:
    """Seeds in order, as 0-9, 12."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


class LookBook:
    """Looks of a study by environment, as in looks.json; and what was compared at the first verdict."""

    def __init__(self, folder: Path) -> None:
        """Read the study's file.

        Raises:
            ConfigError: it cannot be read, or is a symbolic link.
        """
        self.path = folder / FILE
        self.looks: dict[str, Looks] = {}
        self.content: dict[str, Any] = {}
        self.begun = False  # whether a verdict had been given, or a plan made, when it was read
        self.compared: dict[str, list[str]] = {}  # environment -> arms that were compared up to the first verdict
        self.judged = False  # whether a verdict had been given when it was read
        self.changed = False  # since it was read
        if self.path.is_symlink():
            raise ConfigError(f"{self.path}: is a symbolic link; remove it")
        if not self.path.is_file():
            return
        try:
            self.content = dict(json.loads(self.path.read_text(encoding="utf-8")))
            self.content.pop("updated", None)
            for env, entry in self.content["envs"].items():
                seeds = {
                    int(look): {str(arm): str(named) for arm, named in arms.items()}
                    for look, arms in entry.get("seeds", {}).items()
                }
                planned, taken = ([*map(int, entry[name])] for name in ("planned", "taken"))
                looks = Looks(planned, taken, int(entry.get("pilot", 0)), bool(entry.get("seen")), seeds)
                if len(looks.planned) not in (0, *SHARES) or looks.planned != sorted(set(looks.planned)):
                    raise ValueError(f"{env}: planned {looks.planned}")
                self.looks[str(env)] = looks
                self.begun |= bool(looks.taken or looks.planned)
                self.judged |= bool(looks.taken)
            compared = self.content.get("compared", {})
            self.compared = {str(env): [*map(str, arms)] for env, arms in compared.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"{self.path}: cannot be read ({one_line(repr(error), 100)}); restore or remove it"
            ) from None

    def of(self, env: str) -> Looks:
        """Looks at an environment."""
        return self.looks.setdefault(env, Looks())

    def late(self, env: str, arm: str) -> bool:
        """Whether an arm was not among those compared when the study's first verdict was given."""
        return self.judged and bool(self.compared) and arm not in self.compared.get(env, ())

    def everything(self, now: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Arms by environment that are compared now or were before: what was left out since has been looked at, too."""
        envs = dict.fromkeys([*self.compared, *now])
        return {env: list(dict.fromkeys([*self.compared.get(env, ()), *now.get(env, ())])) for env in envs}

    def show(self, compared: Mapping[str, list[str]]) -> None:
        """Note that differences of these arms are shown, whether or not with a verdict."""
        known = self.everything(compared)
        if not self.judged and known != self.compared:
            self.compared, self.changed = known, True
        for env in compared:
            if (looks := self.of(env)).planned and not looks.seen:
                looks.seen = self.changed = True

    def take(self, env: str, seeds: int, scored: Mapping[str, str]) -> None:
        """Note that a verdict is given on arms with these scored seeds, so many at most."""
        looks = self.of(env)
        known = looks.seeds.setdefault(seeds, {})
        self.changed |= seeds not in looks.taken or not scored.keys() <= known.keys()
        looks.taken += [seeds] if seeds not in looks.taken else []
        looks.seeds[seeds] = {**scored, **known}

    def save(self, plan: bool = False, **more: Any) -> None:
        """Write the file; more: the question, such as the primary measure, which stays as at the plan or first verdict.

        plan: it is one, before any verdict, and replaces a former one. What was recorded by environment stays, and is
        added for environments that are new.

        Raises:
            StorageError: it cannot be written.
        """
        used = {env: x for env, x in self.looks.items() if x.planned or x.taken}
        envs = {env: asdict(x) | {"seeds": {str(n): each for n, each in x.seeds.items()}} for env, x in used.items()}
        content = {**self.content, **more} if plan or not self.begun else {**more, **self.content}
        for key, value in more.items():
            former = self.content.get(key)
            if self.begun and not plan and isinstance(value, dict) and isinstance(former, dict):
                content[key] = {**value, **former}
        if self.compared:
            content["compared"] = self.compared
        content["envs"] = envs
        if content != self.content:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_atomically(self.path, (json.dumps({**content, "updated": now}, indent=1) + os.linesep).encode())
            self.content = content
