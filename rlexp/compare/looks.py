"""Looks at a study's data, each of which spends part of the 5 % of false verdicts; kept in looks.json of the study.

Whoever adds seeds until a difference shows will find one: of two verdicts at 5 % each, one is false in up to 10 % of
studies. So a study declares at most three numbers of seeds at which it is looked at (`plan=true`), and these share the
5 %: whatever the data are, the chance of a false verdict at any of them is at most the sum (Bonferroni; a
group-sequential design in the sense of Lan and DeMets 1983 with most of the error left to the end). Without a plan, the
first verdict is the only one. Any other number of seeds is an interim look, which gives intervals and no verdict.
Arms are known by their settings, not their names, which depend on what is beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlexp.errors import ConfigError

SHARES = {1: (1.0,), 2: (0.2, 0.8), 3: (0.05, 0.15, 0.8)}  # of the error, by number of declared looks


class Seeds(NamedTuple):
    """Seeds of an arm that were scored."""

    arm: str
    id: str
    named: str  # as 0-9, 12


@dataclass
class Looks:
    """Looks at one environment's runs, in seeds per arm."""

    planned: list[int] = field(default_factory=list)  # declared; empty: a single look, at whatever comes first
    taken: list[int] = field(default_factory=list)  # at which a verdict was given
    pilot: int = 0  # seeds that there were when the looks were declared
    seen: bool = False  # whether differences have been shown since
    shown: list[int] = field(default_factory=list)  # at which differences were shown before any plan or verdict
    seeds: dict[int, dict[str, str]] = field(default_factory=dict)  # look -> arm's id -> its seeds at the first verdict
    compared: dict[str, str] = field(default_factory=dict)  # id -> name of the arms up to the study's first verdict
    late: dict[str, str] = field(default_factory=dict)  # those that came later
    awaited: dict[str, int] = field(default_factory=dict)  # id -> seeds that were to be, when some were still to come

    def share(self, seeds: int) -> float | None:
        """Share of the error that a look at so many seeds may spend; None: it was not declared."""
        if self.planned:
            return SHARES[len(self.planned)][self.planned.index(seeds)] if seeds in self.planned else None
        return 1.0 if not self.taken or seeds in self.taken else None

    def changed(self, seeds: int, arm: Seeds, base: Seeds) -> str:
        """Why an arm and the baseline are not those of the verdict at this look; empty: they are."""
        before = self.seeds.get(seeds, {})
        apart = [f"seeds {before[x.id]} of {x.arm}" for x in (base, arm) if before.get(x.id, x.named) != x.named]
        if before and base.id not in before:
            apart.append(f"other runs of {base.arm}")
        return f"the verdict was given on {' and '.join(apart)}" if apart else ""

    def why_interim(self, seeds: int) -> str:
        """Why a look at so many seeds gives no verdict."""
        if not self.planned:
            return f"the verdict was given at {self.taken[0]} seeds, with all of the 5 %"
        later = [n for n in self.planned if n > seeds]
        declared = ", ".join(map(str, self.planned))
        return f"declared looks are at {declared} seeds" + (f": next at {later[0]}" if later else "")

    @staticmethod
    def read(entry: Mapping[str, Any]) -> "Looks":
        """An environment's entry of looks.json; any error if it is damaged."""
        planned, taken, shown = ([*map(int, entry.get(name, ()))] for name in ("planned", "taken", "shown"))
        if len(planned) not in (0, *SHARES) or planned != sorted(set(planned)):
            raise ValueError(f"planned {planned}")
        seeds = {int(look): _texts(arms) for look, arms in entry.get("seeds", {}).items()}
        compared, late = (_texts(entry.get(name, {})) for name in ("compared", "late"))
        awaited = {str(arm): int(n) for arm, n in entry.get("awaited", {}).items()}
        return Looks(
            planned, taken, int(entry.get("pilot", 0)), bool(entry.get("seen")), shown, seeds, compared, late, awaited
        )

    def join(self, other: "Looks") -> None:
        """Add the looks at the runs of another study.

        Raises:
            ConfigError: it declares others.
        """
        if self.planned and other.planned and self.planned != other.planned:
            raise ConfigError(f"looks are declared at {self.planned} and at {other.planned} seeds")
        self.planned = self.planned or other.planned
        self.pilot, self.seen = max(self.pilot, other.pilot), self.seen or other.seen
        self.taken, self.shown = _union(self.taken, other.taken), _union(self.shown, other.shown)
        self.seeds = {
            look: other.seeds.get(look, {}) | self.seeds.get(look, {}) for look in _union(self.seeds, other.seeds)
        }
        self.compared = self.compared | other.compared
        self.late, self.awaited = self.late | other.late, self.awaited | other.awaited


def _texts(entry: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in entry.items()}


def _union(first: Iterable[int], second: Iterable[int]) -> list[int]:
    return list(dict.fromkeys([*first, *second]))


def spans(seeds: Iterable[int]) -> str:
    """Seeds in order, as 0-9, 12."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)
