"""Names of arms: the algorithm and the settings that vary, as in `apo anchor_coef=1`."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from rlexp.compare.fairness import NONE, consequences, differing_in, fingerprint, implied, said, training_settings
from rlexp.study.runs import Run


class Names:
    """Names the arms of finished runs, in all environments alike.

    An arm's name has all settings in which runs of its algorithm differ, without those of which a tuning chose its
    values, if arms have different names all the same. Where several do, and one arm has of each the usual value, it has
    the algorithm's name, and the others what they change: the value that says nothing, as of `population`, or else the
    one that most arms have. others: runs that are not finished.
    """

    def __init__(self, by_env: Mapping[str, list[Run]], others: Collection[Run] = ()) -> None:
        runs = [run for found in by_env.values() for run in found]
        self.exact = _alike([*runs, *others])
        self.varied: dict[str, set[str]] = {run.algo: set() for run in runs}
        for found in by_env.values():
            for algo, keys in self.varied.items():
                same = [run for run in found if run.algo == algo]
                keys |= set(differing_in(same)) - implied(same) - consequences(same)
        # algorithms of whose arms names are silent on what tunings chose
        self.silent = {algo for algo in self.varied if self._are_apart([run for run in runs if run.algo == algo])}
        self.usual = {algo: self._usual([run for run in runs if run.algo == algo]) for algo in self.varied}

    def _are_apart(self, runs: list[Run]) -> bool:
        """Whether the values that no tuning chose tell the arms of an algorithm apart."""
        keys, arms = sorted(self.varied[runs[0].algo]), {}
        for run in runs:
            told = (NONE if key in run.searched else self._value(run, key, every=True) for key in keys)
            arms[run.env, fingerprint(run)] = (run.env, *told)
        return len({*arms.values()}) == len(arms)

    def _usual(self, runs: list[Run]) -> dict[str, str]:
        """Of each setting that varies the value that most arms have, if some arm has all of these."""
        arms = {(run.env, fingerprint(run)): run for run in runs}.values()
        keys, usual = self.varied[runs[0].algo], {}
        for key in keys if len(keys) > 1 else ():
            other_class = f"{key.rpartition('.')[0]}._target_" in keys  # which lacks the key, and is not silent on it
            silent = [self._value(run, key) for run in arms if key not in run.settings and not other_class]
            (value, most), *others = Counter(self._value(run, key) for run in arms).most_common(2)
            if not silent and others and others[0][1] == most:
                return {}
            usual[key] = silent[0] if silent else value
        return usual if any(all(self._value(run, k) == v for k, v in usual.items()) for run in arms) else {}

    def _value(self, run: Run, key: str, every: bool = False) -> str:
        if not every and key in run.searched and run.algo in self.silent:
            return NONE
        value = said(run.settings, key)
        return repr(value) if (run.algo, key) in self.exact else text_of(value)

    def of(self, run: Run, more: Collection[str] = (), every: bool = False) -> str:
        """Name of the run's arm; more: settings that it has besides; every: those that a tuning chose, too."""
        usual, keys = self.usual.get(run.algo, {}), self.varied.get(run.algo, set()) | {*more}
        values = {key: self._value(run, key, every) for key in sorted(keys)}
        told = {key: value for key, value in values.items() if value not in (usual.get(key), NONE)}
        return " ".join([run.algo, *(f"{key.removeprefix('algo.')}={value}" for key, value in told.items())])

    def of_unfinished(self, others: list[Run], by_arm: Mapping[str, list[Run]]) -> list[str]:
        """Names of the arms of runs that are not finished, beside those of runs that are.

        One with the settings of a finished run has the name of its arm; another also names the settings in which it
        differs from runs of its algorithm, so that it never shares the name of an arm that it is not of.
        """
        done = {fingerprint(run): name for name, runs in by_arm.items() for run in runs}
        everyone = [*others, *(run for runs in by_arm.values() for run in runs)]
        apart = {}
        for algo in {run.algo for run in others}:
            same = [run for run in everyone if run.algo == algo]
            apart[algo] = set(differing_in(same)) - implied(same) - consequences(same)
        brief = [self.of(run, apart[run.algo]) for run in others]
        taken = {name for name, count in Counter(brief).items() if count > 1} | by_arm.keys()
        return [
            done.get(fingerprint(run)) or (self.of(run, apart[run.algo], every=True) if name in taken else name)
            for run, name in zip(others, brief, strict=True)
        ]

    def unnamed(self, runs: list[Run]) -> list[str]:
        """Remarks on settings of the tested term that differ only between environments, so that no name shows them."""
        shared = set.intersection(*(set(training_settings(run)) for run in runs))
        remarks = []
        for algo, named in self.varied.items():
            algo_runs = [run for run in runs if run.algo == algo]
            differing = [key for key in differing_in(algo_runs) if not key.startswith("env.")]  # those make the task
            for key in [key for key in differing if key not in shared | named | consequences(algo_runs)]:
                values = {f"{self._value(run, key, every=True)} on {run.env}": None for run in algo_runs}
                remarks.append(f"{algo}: {key} is {', '.join(values)}")
        return remarks


def _alike(runs: list[Run]) -> set[tuple[str, str]]:
    """Settings of an algorithm of which `text_of` is the same for two values, as for 2 and 2.0: (algorithm, key)."""
    found = set()
    for algo in {run.algo for run in runs}:
        same = [run for run in runs if run.algo == algo]
        for key in differing_in(same):
            values = [said(run.settings, key) for run in same]
            if len({*map(text_of, values)}) < len({*map(repr, values)}):
                found.add((algo, key))
    return found


def text_of(value: Any) -> str:
    """A value as names show it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(text_of, value))}]"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
