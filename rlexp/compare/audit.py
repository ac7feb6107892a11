"""Finds what a comparison has to leave out: unfinished runs, incomplete curves, jobs that have not started."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.config.overrides import key_of, naming
from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError
from rlexp.provenance.code_state import digests_of, sources_of
from rlexp.study.runs import Run, StudyError, read_curves, superseded_in
from rlexp.study.status import planned

PER_SEED = ("seed", "num_seeds")  # differ between runs of one arm
MOST_NAMED = 5  # jobs, seeds or folders named in one remark
RUN_FILES = ("metrics.csv", "checkpoint.pt", "evaluation.json")  # left by a job that started, if run.json is gone


# Runs ----------------------------------------------------------------------------------------------------------------


def finished(runs: Iterable[Run], remarks: list[str]) -> list[Run]:
    """Runs that are done and have complete curves, which are read here; appends remarks on the others."""
    done = []
    tuning = 0
    for run in runs:
        remarks += [f"{run.folder}: {complaint}" for complaint in run.complaints]
        if run.superseded:
            remarks.append(f"{run.folder}: left out, as the tuning has since found a better one")
        elif any(seed >= TUNING_SEED for seed in run.record.get("seeds", [])):
            tuning += 1
        elif run.status != "done":
            error = run.record.get("error")
            remarks.append(f"{run.folder}: left out, its status is {run.status}" + (f" ({error})" if error else ""))
        elif flaw := _read(run):
            remarks.append(f"{run.folder}: left out, {flaw}")
        else:
            done.append(run)
    extended = {run.record.get("extends", {}).get("config_hash") for run in done} - {None}
    longest = [run for run in done if run.record.get("config_hash") not in extended]
    if less := len(done) - len(longest):
        remarks.append(f"{less} run{'s are' if less > 1 else ' is'} left out, as longer ones here extend them")
    if tuning:
        remarks.append(
            f"{tuning} runs on tuning seeds ({TUNING_SEED} and up) are left out: they selected what is compared"
        )
    return longest


def _read(run: Run) -> str | None:
    """Read a run's curves; returns what is wrong with them, if anything."""
    try:
        read_curves(run)
    except StudyError as error:
        return str(error)
    flaw = curve_flaw(run)
    return None if flaw is None else f"as metrics.csv {flaw}; rerun it with resume=never"


def curve_flaw(run: Run) -> str | None:
    """How metrics.csv of a finished run differs from what training wrote; None: it is complete, as far as is known.

    Older runs did not record the number of rows: theirs must have rising steps and the right last step.
    """
    result = run.record.get("result", {})
    for k, seed in enumerate(run.record.get("seeds") or sorted(run.curves)):
        if seed not in run.curves:
            return f"has no row of seed {seed}"
        steps = run.curves[seed].steps
        rows, last = _integer(result.get("rows"), k), _integer(result.get("steps"), k)
        moves = np.diff(steps)
        # an update that consists only of resets repeats the step
        if (moves < 0).any() or ((moves == 0).any() and rows != len(steps)):
            return f"has steps of seed {seed} twice, as if two processes wrote it at once"
        if rows is not None and rows != len(steps):
            return f"has {len(steps)} rows of seed {seed} instead of {rows}"
        if last is not None and last != steps[-1]:
            return f"ends at step {steps[-1]:.0f} of seed {seed} instead of {last}"
    return None


def _integer(values: Any, k: int) -> int | None:
    """Entry k of a per-seed list in run.json; None if it is not an integer or missing."""
    known = isinstance(values, list) and k < len(values) and isinstance(values[k], int)
    return values[k] if known else None


def code_remarks(runs: Collection[Run]) -> list[str]:
    """Remarks on differences in code and package versions between the runs."""
    remarks = []
    commits = {run.record.get("commit") for run in runs}
    if len(commits) > 1:
        known = ", ".join(sorted(str(commit)[:10] for commit in commits))
        remarks.append(f"the runs are from {len(commits)} commits: {known}")
    codes = {str(code) for run in runs if (code := run.record.get("code"))}
    if len(codes) > 1:
        remarks.append(f"rlexp's training code differs between the runs: {', '.join(sorted(codes))}")
    dirty = sum(bool(run.record.get("dirty")) for run in runs)
    if dirty:
        remarks.append(f"{dirty} of {len(runs)} runs had uncommitted changes in the code")
    for package in ("torch", "gymnasium", "numpy"):
        versions = {run.record.get("versions", {}).get(package) for run in runs}
        if len(versions) > 1:
            remarks.append(f"the runs used several versions of {package}: {', '.join(sorted(map(str, versions)))}")
    return remarks


def _code_of(run: Run) -> dict[str, set[str]]:
    """Digests of each file of the run's code; several for a file edited before the run was resumed."""
    found: dict[str, set[str]] = {}
    earlier = [digests_of(code) for code in run.record.get("made_by", [])]
    for digests in (sources_of(run.record), *earlier):
        for file, digest in digests.items():
            found.setdefault(file, set()).add(str(digest))
    return found


def code_differences(runs: Mapping[int, Run]) -> list[str]:
    """Files that differ between runs: one line per file, with the seeds that ran each version.

    Args:
        runs: by seed; those that did not record their code are skipped.
    """
    codes = {seed: _code_of(run) for seed, run in runs.items() if sources_of(run.record)}
    files = sorted({file for code in codes.values() for file in code})
    versions = {file: {seed: code.get(file, {"none"}) for seed, code in codes.items()} for file in files}
    return [
        _describe_versions(file, digests, "in seed")
        for file, digests in versions.items()
        if len(set().union(*digests.values())) > 1
    ]


def code_between(arms: Mapping[str, Iterable[Run]]) -> list[str]:
    """Files that differ between the arms that have them; files of a single arm are the tested term.

    Args:
        arms: runs by arm name.
    """
    versions: dict[str, dict[str, set[str]]] = {}  # file -> arm -> digests
    for name, runs in arms.items():
        for run in runs:
            for file, digests in _code_of(run).items():
                versions.setdefault(file, {}).setdefault(name, set()).update(digests)
    return [
        _describe_versions(file, digests, "in")
        for file, digests in sorted(versions.items())
        if len(set(map(frozenset, digests.values()))) > 1
    ]


def _describe_versions(file: str, digests: Mapping[Any, set[str]], where: str) -> str:
    """A file, its digests, and the seeds or arms that have each."""
    versions: dict[str, list[Any]] = {}
    for name, found in digests.items():
        for digest in sorted(found):
            versions.setdefault(digest, []).append(name)
    return f"{file} is " + ", ".join(f"{digest} {where} {abbreviate(names)}" for digest, names in versions.items())


def abbreviate(names: Sequence[Any]) -> str:
    """The first few of some seeds, arms or folders."""
    return ", ".join(map(str, names[:MOST_NAMED])) + (", ..." if len(names) > MOST_NAMED else "")


# Planned jobs --------------------------------------------------------------------------------------------------------


def missing_jobs(paths: Iterable[str | Path], runs: Iterable[Run]) -> list[str]:
    """Remarks on jobs planned by a sweep.json in or below the paths that have no finished run.

    Args:
        paths: of studies.
        runs: all runs there, as returned by `study.find_runs`.
    """
    done = {run.folder.resolve(): run.status == "done" for run in runs}
    remarks: list[str] = []
    plans: dict[Path, dict[str, Path]] = {}  # sweep.json -> name -> folder
    for path in map(Path, paths):
        try:
            jobs = planned(path)
        except ConfigError as error:
            remarks.append(f"cannot tell which jobs are missing: {error}")
            continue
        for folder, (plan, name) in jobs.items():
            plans.setdefault(plan.resolve(), {}).setdefault(name, folder)
    for plan, folders in plans.items():
        dropped = superseded_in(plan.parent)
        arms = {name: arm for name, arm in _arms(plan).items() if arm is not None and name not in dropped}
        missing = [name for name in arms if folders[name].resolve() not in done]
        gone = [name for name in missing if any((folders[name] / file).exists() for file in RUN_FILES)]
        waiting = [name for name in missing if name not in gone]
        sweep = next(iter(folders.values())).parent
        of = f"of {len(arms)} planned jobs"
        if waiting:
            remarks.append(f"{sweep}: {len(waiting)} {of} have not started: {_list_jobs(waiting)}")
        if gone:
            remarks.append(f"{sweep}: {len(gone)} {of} are left out, as their run.json is gone: {_list_jobs(gone)}")
        by_arm: dict[str, list[bool]] = {}  # whether each job is done
        for name, arm in arms.items():
            by_arm.setdefault(arm, []).append(done.get(folders[name].resolve(), False))
        absent = [f"{arm} ({len(jobs)})" for arm, jobs in by_arm.items() if not any(jobs)]
        if absent:
            remarks.append(f"{sweep}: {len(absent)} of {len(by_arm)} arms have no finished job: {'; '.join(absent)}")
    return remarks


def _list_jobs(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _arms(plan: Path) -> dict[str, str | None]:
    """The arm of each planned job: its overrides without the seed; None for a tuning trial."""
    jobs = json.loads(plan.read_text(encoding="utf-8"))["jobs"]
    arms: dict[str, str | None] = {}
    for name in jobs:
        job = jobs[name] if isinstance(jobs, dict) else None
        overrides = job.get("overrides") if isinstance(job, dict) else None
        if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
            arms[name] = name  # sweep.json was edited
            continue
        seeds = [override.partition("=")[2] for override in overrides if key_of(override) == "seed"]
        trial = any(seed.isdecimal() and int(seed) >= TUNING_SEED for seed in seeds)
        settings = [override for override in naming(overrides) if key_of(override) not in PER_SEED]
        arms[name] = None if trial else " ".join(settings) or "default"
    return arms
