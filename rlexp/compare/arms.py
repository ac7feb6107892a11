"""Groups runs into environments and arms."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.compare.audit import code_remarks, diverged, finished
from rlexp.compare.fairness import (
    differing_in,
    fingerprint,
    population_remarks,
    require_one_code,
    require_one_term,
    said,
)
from rlexp.compare.naming import Names
from rlexp.compare.reference_scores import limits_of, scores_of, unusual_arguments
from rlexp.compare.samples import Sample, samples_of
from rlexp.compare.variants import name_variants
from rlexp.study.runs import Run, StudyError, searched_in
from rlexp.text import natural

STEPS_TOLERANCE = 0.01  # relative; smaller differences in steps are not remarked on
NEVER = "never ran"  # why an arm lacks a seed that only others have
# why a seed has no score yet, which it gets when it is trained on
STILL_COMING = ("running", "queued", "waiting", "interrupted", "killed")


@dataclass
class Task:
    """One environment: its arms, and reference points for its scores."""

    env: str
    arms: dict[str, list[Sample]]  # by name, all seeds trained with one config; by seed
    differing: dict[str, dict[str, Any]]  # key -> arm -> value
    threshold: float | None
    bounds: tuple[float, float] | None  # mean returns of no skill and of mastery
    limits: tuple[float | None, float | None] | None = None  # lowest and highest possible return of an episode
    # arm -> seed -> why it is not among the arm's samples, though it, or another arm's, was run or planned: diverged,
    # failed, killed, interrupted, running, waiting, unreadable, no episode, never ran. Also of arms without any sample
    absent: dict[str, dict[int, str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)  # of arms by name, see `fingerprint`
    runs: dict[str, dict[int, Path]] = field(default_factory=dict)  # arm -> absent seed -> folder of its run, if any

    def id_of(self, arm: str) -> str:
        """What stays the same when other arms, of which names depend, come or go."""
        return self.ids.get(arm, arm)

    @property
    def samples(self) -> list[Sample]:
        """Those of all arms."""
        return [sample for samples in self.arms.values() for sample in samples]

    @property
    def has_populations(self) -> bool:
        """Whether some of them are populations."""
        return any(sample.members for sample in self.samples)


@dataclass
class Comparison:
    """Environments, each with the arms that were run on it, and remarks on the runs."""

    tasks: list[Task]
    remarks: list[str]
    pending: list[Task] = field(default_factory=list)  # environments of which no run has finished, without a sample
    studies: list[Path] = field(default_factory=list)  # folders that hold those of the runs, whatever compare was given

    @property
    def all_tasks(self) -> list[Task]:
        """Environments, also those of which no run has finished."""
        return [*self.tasks, *self.pending]

    @property
    def has_populations(self) -> bool:
        """Whether some samples are populations."""
        return any(task.has_populations for task in self.tasks)

    @property
    def arm_names(self) -> list[str]:
        """Names of all arms with a score, that of diverged seeds included, in natural order."""
        lost = {name for task in self.tasks for name, why in task.absent.items() if "diverged" in why.values()}
        return sorted({name for task in self.tasks for name in task.arms} | lost, key=natural)


def compare_runs(
    runs: Iterable[Run], allow: Collection[str] = (), threshold: float | None = None, known: Iterable[str] = ()
) -> Comparison:
    """Group finished runs into arms and read their curves; a StudyError if they cannot be compared.

    Args:
        runs: as returned by `study.find_runs`, and by `audit.waiting_jobs`.
        allow: keys that may differ besides the tested term; "code": seeds and arms may differ in code; "all".
        threshold: for steps to threshold and retention; default: each environment's.
        known: remarks to include.
    """
    remarks, runs = list(known), list(runs)
    searched = {study: searched_in(study) for study in {run.folder.parent for run in runs}}
    for run in runs:
        run.searched = searched[run.folder.parent].get(run.folder.name, frozenset()) & run.settings.keys()
    done, others = finished(runs, remarks)
    if not done:
        raise StudyError("no run has finished with complete curves: nothing to compare; " + "; ".join(remarks))
    alone = name_variants([*done, *(run for run, _ in others)], allow)
    by_env = {env: [run for run in done if run.env == env] for env in sorted({run.env for run in done})}
    for env, env_runs in by_env.items():
        require_one_term(env, env_runs, allow, alone.get(env, ""))
        remarks += [f"{env}: {line}" for line in population_remarks(env_runs)]
    names = Names(by_env, [run for run, _ in others])
    remarks += names.unnamed(done)
    tasks = []
    for env, env_runs in by_env.items():
        unusable = [(run, status) for run, status in others if run.env == env]
        tasks.append(_task(env, env_runs, unusable, names, threshold, remarks))
    pending = [task for task in tasks if not task.arms]
    for env in sorted({run.env for run, _ in others} - by_env.keys()):
        unusable = [(run, status) for run, status in others if run.env == env]
        named = names.of_unfinished([run for run, _ in unusable], {})
        (absent, folders), ids = _absent({}, {}, unusable, named), _ids({}, unusable, named)
        pending.append(Task(env, {}, {}, None, None, absent=absent, ids=ids, runs=folders))
    tasks = [task for task in tasks if task.arms]
    for task in tasks:
        runs_of = {name: {sample.seed: sample.run for sample in samples} for name, samples in task.arms.items()}
        require_one_code(task.env, runs_of, allow, remarks)
    if not tasks:
        raise StudyError("no seed has finished a training episode; train longer; " + "; ".join(remarks))
    return Comparison(tasks, remarks + code_remarks(done), pending, _studies(done))


def _studies(runs: list[Run]) -> list[Path]:
    """Folders of the runs' folders, links resolved; relative if they are below this one."""
    here, parents = Path.cwd().resolve(), sorted({run.folder.resolve().parent for run in runs})
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in parents]


def _task(
    env: str,
    runs: list[Run],
    others: list[tuple[Run, str]],
    names: Names,
    threshold: float | None,
    remarks: list[str],
) -> Task:
    by_arm: dict[str, list[Run]] = {}
    for run in sorted(runs, key=_started):
        by_arm.setdefault(names.of(run), []).append(run)
    found = {name: samples_of(f"{env}, {name}", arm_runs, remarks) for name, arm_runs in by_arm.items()}
    arms = {name: found[name] for name in sorted(found, key=natural) if found[name]}
    sizes = {name: arm_runs[0].population for name, arm_runs in by_arm.items()}
    for name, samples in arms.items():
        every = {sample.seed for other in arms if sizes[other] == sizes[name] for sample in arms[other]}
        scored = {sample.seed for sample in samples} | {seed for run in by_arm[name] for seed in diverged(run)}
        if missing := sorted(every - scored):
            remarks.append(f"{env}, {name}: lacks seeds {', '.join(map(str, missing))}, which other arms have")
    steps = {name: float(np.mean([sample.curve.steps[-1] for sample in samples])) for name, samples in arms.items()}
    if steps and min(steps.values()) < (1 - STEPS_TOLERANCE) * max(steps.values()):
        counts = ", ".join(f"{name} {count:,.0f}" for name, count in steps.items())
        unit = "seed or population" if max(sizes.values()) > 1 else "seed"
        remarks.append(
            f"{env}: the arms differ in the number of environment steps per {unit}: {counts}; total_steps counts rows, "
            f"and every reset takes one"
        )
    if len({repr(run.evaluated_with) for run in runs if run.evaluations}) > 1:
        remarks.append(
            f"{env}: runs were evaluated with different settings; rerun rlexp.evaluate on each, with the same "
            f"episodes=, deterministic= and max_steps="
        )
    settings = runs[0].settings
    known = scores_of(settings)
    bounds = settings.get("env.bounds") or (known and known[:2])
    if known and not settings.get("env.bounds") and (arguments := unusual_arguments(settings)):
        what = (
            f"no skill is {known[0]:g} and mastery {known[1]:g} by default, and {', '.join(arguments)} may change that"
        )
        remarks.append(f"{env}: {what}; set env.bounds")
    thresholds = (threshold, settings.get("env.threshold"), known and known[2])
    threshold = next((each for each in thresholds if each is not None), None)
    if threshold is not None and threshold <= (bounds[0] if bounds else 0):
        why = f"its threshold {threshold:g} is not above {'the return of no skill' if bounds else '0'}"
        remarks.append(f"{env}: no retention, as {why}" + ("" if bounds else "; set env.bounds"))
    apart = {key: _values(key, arms, runs) for key in differing_in(runs)}
    limits = next((run.declared.limits for run in runs if run.declared and run.declared.limits), limits_of(settings))
    bounds = (float(bounds[0]), float(bounds[1])) if bounds else None
    named = names.of_unfinished([run for run, _ in others], by_arm)
    (absent, folders), ids = _absent(arms, by_arm, others, named), _ids(by_arm, others, named)
    return Task(env, arms, apart, threshold, bounds, limits, absent, ids, folders)


def _values(key: str, arms: Mapping[str, list[Sample]], runs: Iterable[Run]) -> dict[str, Any]:
    """The value of a setting in each arm."""
    algos = {run.algo for run in runs if key in run.settings}
    firsts = {name: samples[0].run for name, samples in arms.items()}
    own = key.startswith("algo.")  # of an objective, which others may lack
    return {name: said(run.settings, key, has=not own or run.algo in algos) for name, run in firsts.items()}


def _started(run: Run) -> str:
    return str(run.record.get("started", ""))


def _absent(
    arms: dict[str, list[Sample]],
    by_arm: dict[str, list[Run]],
    others: list[tuple[Run, str]],
    names: list[str],
) -> tuple[dict[str, dict[int, str]], dict[str, dict[int, Path]]]:
    """`Task.absent`, `Task.runs`. by_arm: finished runs; others: the rest, with their status; names: of their arms."""
    known = [(name, run, "no episode") for name, arm_runs in by_arm.items() for run in arm_runs]
    known += [(name, run, status) for name, (run, status) in zip(names, others, strict=True)]
    sizes = {name: run.population for name, run, _ in known}
    lost: list[tuple[str, Run, int, str]] = [
        (name, run, seed, "diverged" if diverged(run).issuperset(members) else why)
        for name, run, why in known
        for seed, members in run.populations.items()
    ]
    reasons: dict[str, dict[int, str]] = {name: {} for name in arms}
    folders: dict[str, dict[int, Path]] = {}
    for name, run, seed, reason in sorted(lost, key=lambda entry: _started(entry[1])):  # the last started counts
        reasons.setdefault(name, {})[seed] = reason
        folders.setdefault(name, {})[seed] = run.folder
    held = {name: {sample.seed for sample in arms.get(name, ())} for name in reasons}
    every: dict[int, set[int]] = {}  # by population size: seeds name populations of one size alike
    for name in reasons:
        every.setdefault(sizes[name], set()).update(held[name], reasons[name])
    absent = {
        name: {seed: reasons[name].get(seed, NEVER) for seed in sorted(every[sizes[name]]) if seed not in held[name]}
        for name in sorted(reasons, key=natural)
    }
    return {name: seeds for name, seeds in absent.items() if seeds}, folders


def _ids(by_arm: dict[str, list[Run]], others: list[tuple[Run, str]], names: list[str]) -> dict[str, str]:
    """See `Task.ids`; a finished run's counts."""
    waiting = {name: fingerprint(run) for name, (run, _) in zip(names, others, strict=True)}
    return waiting | {name: fingerprint(runs[0]) for name, runs in by_arm.items()}
