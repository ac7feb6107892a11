"""Looks at a study's data, each of which spends part of the 5 % of false verdicts; kept in looks.json of the study.

Whoever adds seeds until a difference shows will find one: of two verdicts at 5 % each, one is false in up to 10 % of
studies. So a study declares at most three numbers of seeds at which it is looked at (`plan=true`), and these share the
5 %: whatever the data are, the chance of a false verdict at any of them is at most the sum (Bonferroni; a
group-sequential design in the sense of Lan and DeMets 1983 with most of the error left to the end). Without a plan, the
first verdict is the only one. Any other number of seeds is an interim look, which gives intervals and no verdict; so is
one at which seeds are still to come, or from which seeds are gone that were shown before.
Arms are known by their settings, not their names, which depend on what is beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SHARES = {1: (1.0,), 2: (0.2, 0.8), 3: (0.05, 0.15, 0.8)}  # of the error, by number of declared looks
NEW = "new seeds take a study of their own"  # what can be done where the 5 % of this one are spent


class Seeds(NamedTuple):
    """Seeds of an arm on one environment."""

    arm: str
    id: str
    scored: frozenset[int]  # by the measure that gives the verdict
    ended: frozenset[int]  # those that can be seen: trained to the end, or diverged
    seeds: frozenset[int]  # all that there are or were to be, whatever became of them
    coming: frozenset[int] = frozenset()  # those of them that may yet have a score
    unevaluated: frozenset[int] = frozenset()  # of these, those trained to the end
    diverged: frozenset[int] = frozenset()  # of those that were scored
    runs: Mapping[int, Path] = {}  # seed -> folder of its run

    @property
    def own(self) -> int:
        """How many there are or were to be."""
        return len(self.seeds)

    @property
    def named(self) -> str:
        """Those that were scored, as 0-9, 12."""
        return spans(self.scored) + (f" (diverged: {spans(self.diverged)})" if self.diverged else "")

    def within(self, study: Path) -> "Seeds":
        """Those whose runs are in a study's folder; all if none is elsewhere."""
        parents = {run: run.resolve().parent for run in {*self.runs.values()}}
        elsewhere = {seed for seed, run in self.runs.items() if parents[run] != study.resolve()}
        sets = {name: getattr(self, name) - elsewhere for name in ("ended", "seeds", "coming")}
        return self._replace(**sets) if elsewhere else self


@dataclass
class Looks:
    """Looks at one environment's runs in one study, in seeds per arm; ids are those of arms."""

    planned: list[int] = field(default_factory=list)  # declared; empty: a single look, at whatever comes first
    taken: list[int] = field(default_factory=list)  # at which a verdict was given
    pilot: int = 0  # seeds that there were when the looks were declared
    seen: bool = False  # whether differences have been shown since
    shown: dict[str, list[int]] = field(default_factory=dict)  # id -> seeds ended, and all, when first shown, unplanned
    seeds: dict[int, dict[str, str]] = field(default_factory=dict)  # look -> id -> its seeds at the first verdict
    compared: dict[str, str] = field(default_factory=dict)  # id -> name of the arms up to the study's first verdict
    late: dict[str, str] = field(default_factory=dict)  # those that came later
    awaited: dict[str, int] = field(default_factory=dict)  # id -> seeds that were to be, when some were still to come
    known: dict[str, list[int]] = field(default_factory=dict)  # id -> all its seeds that were ever shown

    def share(self, arm: Seeds, base: Seeds) -> tuple[float, str]:
        """Share of the error that the interval of a difference may spend, and why it gives no verdict; empty: it does.

        Of a look that is none it is the whole: such an interval is for plans.
        """
        for look, given in self.seeds.items():
            if all(given.get(x.id) == x.named for x in (arm, base)):
                return self._part(look), ""  # a verdict on these very seeds stays
        if arm.coming or base.coming:
            return 1.0, _coming(arm, base)
        seeds = max(arm.own, base.own)
        if self.planned and (arm.own != base.own or seeds not in self.planned):
            return 1.0, self._undeclared(arm, base)
        return self._part(seeds), self._spent(seeds, arm, base) or self._lacking(arm) or self._lacking(base)

    def _part(self, seeds: int) -> float:
        return SHARES[len(self.planned)][self.planned.index(seeds)] if seeds in self.planned else 1.0

    def _undeclared(self, arm: Seeds, base: Seeds) -> str:
        """Why arms with so many seeds are not at a declared look."""
        told = f"declared looks are at {', '.join(map(str, self.planned))} seeds"
        if arm.own != base.own:
            return f"{told} of each arm, and {arm.arm} has {arm.own}, {base.arm} {base.own}"
        later = [n for n in self.planned if n > arm.own]
        return told + (f": next at {later[0]}" if later else f"; {NEW}")

    def _spent(self, seeds: int, arm: Seeds, base: Seeds) -> str:
        """Why the error has been spent on other seeds: at this look, or, without a plan, at any; empty: it has not."""
        looks = [self.seeds.get(seeds, {})] if self.planned else self.seeds.values()
        given = {x: named for look in looks for x, named in look.items()}
        apart = [f"on seeds {given[x.id]} of {x.arm}" for x in (base, arm) if given.get(x.id, x.named) != x.named]
        if given and base.id not in given:
            apart.append(f"with another baseline than these runs of {base.arm}")
        if not given and not self.planned and self.taken and seeds not in self.taken:  # a file that does not say which
            apart.append(f"on {self.taken[0]} seeds")
        if not apart:
            return ""
        if later := [n for n in self.planned if n > seeds]:
            return f"this look was spent {' and '.join(apart)}: next at {later[0]}"
        return f"the 5 % were spent {' and '.join(apart)}; {NEW}"

    def _lacking(self, x: Seeds) -> str:
        """Why an arm is not all that was shown or announced before; empty: it is."""
        gone = {*self.known.get(x.id, ())} - x.ended
        if self.planned and gone and min(gone) > max(x.seeds):
            return ""  # left out by number, not by score: what remains are the seeds of a declared look
        if gone:
            plural = len(gone) > 1
            told = f"seed{'s' * plural} {spans(gone)} of {x.arm}, shown before, {'are' if plural else 'is'} gone"
            return f"{told}; bring back or retrain"
        if not self.planned and (wanted := self.awaited.get(x.id, 0)) > x.own:
            return f"{x.arm} was to have {wanted} seeds when differences were shown; train the others"
        return ""

    @staticmethod
    def read(entry: Mapping[str, Any]) -> "Looks":
        """An environment's entry of looks.json; any error if it is damaged."""
        planned, taken = (_counts(entry.get(name, [])) for name in ("planned", "taken"))
        if len(planned) not in (0, *SHARES) or planned != sorted(set(planned)):
            raise ValueError(f"planned {planned}")
        seeds = {int(look): _texts(arms) for look, arms in entry.get("seeds", {}).items()}
        compared, late = (_texts(entry.get(name, {})) for name in ("compared", "late"))
        if isinstance(early := entry.get("shown", {}), list):  # once it was the numbers of seeds, of whatever arm
            early = {arm: [min(early)] * 2 for arm in compared} if early else {}
        shown, known = (
            {str(arm): _counts(each) for arm, each in each_of.items()} for each_of in (early, entry.get("known", {}))
        )
        if any(len(each) != 2 for each in shown.values()):
            raise ValueError(f"shown {shown}")
        awaited = {str(arm): n for arm, n in entry.get("awaited", {}).items()}
        pilot, seen = entry.get("pilot", 0), entry.get("seen", False)
        _counts([pilot, *awaited.values()])
        if not isinstance(seen, bool):
            raise ValueError(f"seen {seen!r}")
        return Looks(planned, taken, pilot, seen, shown, seeds, compared, late, awaited, known)


def _coming(arm: Seeds, base: Seeds) -> str:
    """That seeds are still to come, and of those that only lack an evaluation how they get one."""
    coming, trained = len(arm.coming) + len(base.coming), len(arm.unevaluated) + len(base.unevaluated)
    own = arm.own + base.own
    told = f"{coming} of {own} seeds {'is' if coming == 1 else 'are'} still to come"
    return told + (f", of which {trained} by python -m rlexp.evaluate" if trained else "")


def _counts(values: Any) -> list[int]:
    if not isinstance(values, list) or any(type(x) is not int or x < 0 for x in values):
        raise ValueError(f"no numbers of seeds: {values!r}")
    return values


def _texts(entry: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in entry.items()}


def spans(seeds: Iterable[int]) -> str:
    """Seeds in order, as 0-9, 12."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)
