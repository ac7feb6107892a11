"""Names of arms: the algorithm and the settings that vary, as in `apo anchor_coef=1`."""

from typing import Any

from rlexp.compare.fairness import differing_in, fingerprint, said, training_settings
from rlexp.study.runs import Run


def names_of(others: list[Run], by_arm: dict[str, list[Run]], varied: dict[str, set[str]]) -> list[str]:
    """Names of the arms of runs that are not finished.

    One with the settings of a finished run has the name of its arm; another also names the settings in which it differs
    from runs of its algorithm, so that it never shares the name of an arm that it is not of.
    """
    done = {fingerprint(run): name for name, runs in by_arm.items() for run in runs}
    everyone = [*others, *(run for runs in by_arm.values() for run in runs)]
    apart = {
        algo: set(differing_in([run for run in everyone if run.algo == algo])) for algo in {r.algo for r in others}
    }
    return [done.get(fingerprint(r)) or name_of(r, varied.get(r.algo, set()) | apart[r.algo]) for r in others]


def name_of(run: Run, keys: set[str]) -> str:
    """Name of the run's arm: the algorithm and the settings that vary, as in `apo anchor_coef=1`."""

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return f"[{','.join(map(text, value))}]"
        return f"{value:.12g}" if isinstance(value, float) else str(value)

    pairs = [f"{key.removeprefix('algo.')}={text(said(run.settings, key))}" for key in sorted(keys)]
    return " ".join([run.algo, *pairs])


def remark_unnamed(runs: list[Run], varied: dict[str, set[str]], remarks: list[str]) -> None:
    """Remark on settings of the tested term that differ only between environments, so that no arm's name shows them."""
    shared = set.intersection(*(set(training_settings(run)) for run in runs))
    for algo, named in varied.items():
        algo_runs = [run for run in runs if run.algo == algo]
        differing = [key for key in differing_in(algo_runs) if not key.startswith("env.")]  # those make the task
        for key in [key for key in differing if key not in shared | named]:
            values = {f"{run.settings.get(key, '—')} on {run.env}": None for run in algo_runs}
            remarks.append(f"{algo}: {key} is {', '.join(values)}")
