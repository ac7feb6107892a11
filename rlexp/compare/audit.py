"""Finds what a comparison has to leave out: unfinished runs, incomplete curves, jobs that have not started."""

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.config.identity import key_of, naming
from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError
from rlexp.provenance.code_state import digests_of, sources_of
from rlexp.run.record import as_record
from rlexp.study.runs import Run, StudyError, read_curves, run_of, superseded_in
from rlexp.study.status import PlannedJob, planned, read_job_status

PER_SEED = ("seed", "num_seeds")  # differ between runs of one arm
MOST_NAMED = 5  # jobs, seeds or folders named in one remark
RUN_FILES = ("metrics.csv", "checkpoint.pt", "evaluation.json")  # left by a job that started, if run.json is gone


def finished(runs: Iterable[Run], remarks: list[str]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Runs that are done and have complete curves, which are read here, and the others; appends remarks on these.

    The others come with their status, or "unreadable"; without those that are not part of the comparison: on tuning
    seeds, superseded, or extended by a run that is.
    """
    done: list[Run] = []
    others: list[tuple[Run, str]] = []
    tuning = 0
    for run in runs:
        remarks += [f"{run.folder}: {complaint}" for complaint in run.complaints]
        if run.superseded:
            remarks.append(f"{run.folder}: left out, as the tuning has since found a better one")
        elif any(seed >= TUNING_SEED for seed in run.record.get("seeds", [])):
            tuning += 1
        elif run.status in ("waiting", "unreadable"):  # `missing_jobs` remarks on it
            others.append((run, run.status))
        elif run.status != "done":
            status = read_job_status(run.folder).status
            others.append((run, status))
            error = run.record.get("error")
            remarks.append(f"{run.folder}: left out, its status is {status}" + (f" ({error})" if error else ""))
        elif flaw := _read(run):
            others.append((run, "unreadable"))
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
    return longest, others


def diverged(run: Run) -> set[int]:
    """Seeds of a run that diverged; older versions named only the first, in the error of the run."""
    seeds = {int(seed) for seed in run.record.get("diverged", {}) if re.fullmatch(r"\d+", str(seed))}
    named = re.match(r"DivergedError: update \d+: .* of seed (\d+) is ", run.record.get("error", ""))
    return seeds | ({int(named[1])} if named and run.status == "failed" else set())


def _read(run: Run) -> str | None:
    """Read a run's curves; returns what is wrong with them, if anything."""
    try:
        read_curves(run)
    except StudyError as error:
        return str(error)
    flaw = curve_flaw(run)
    return flaw and f"as metrics.csv {flaw}; rerun it with resume=never"


def curve_flaw(run: Run) -> str | None:
    """How metrics.csv of a finished run differs from what training wrote; None: it is complete, as far as is known.

    Older runs did not record the number of rows: theirs must have rising steps and the right last step.
    """
    result = run.record.get("result", {})
    for k, seed in enumerate(run.record.get("seeds") or sorted(run.curves)):
        if seed in diverged(run):
            continue
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
    return values[k] if isinstance(values, list) and k < len(values) and isinstance(values[k], int) else None


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
    if changed := [run for run in runs if run.record.get("live", {}).get("changes")]:
        named = abbreviate([run.folder.name for run in changed])
        remarks.append(f"{len(changed)} of {len(runs)} runs were changed by hand while they went (live.csv): {named}")
    dirty = sum(bool(run.record.get("dirty")) for run in runs)
    if dirty:
        remarks.append(f"{dirty} of {len(runs)} runs had uncommitted changes in the code")
    for package in ("torch", "gymnasium", "numpy"):
        versions = {run.record.get("versions", {}).get(package) for run in runs}
        if len(versions) > 1:
            remarks.append(f"the runs used several versions of {package}: {', '.join(sorted(map(str, versions)))}")
    return remarks


def code_differences(groups: Mapping[Any, Iterable[Run]], seeds: bool = False) -> list[str]:
    """Files that differ between groups of runs: one line per file, with the groups that have each version.

    Groups are arms, where files of a single one are the tested term, or `seeds`, which have all files in common.
    """
    codes: dict[Any, dict[str, set[str]]] = {name: {} for name in groups}  # file -> digests
    for name, runs in groups.items():
        for run in runs:
            earlier = [digests_of(code) for code in run.record.get("made_by", [])]  # edited before it was resumed
            for digests in (sources_of(run.record), *earlier):
                for file, digest in digests.items():
                    codes[name].setdefault(file, set()).add(str(digest))
    lines = []
    for file in sorted({file for code in codes.values() for file in code}):
        lacking: set[str] = {"none"} if seeds else set()
        held = {name: code.get(file, lacking) for name, code in codes.items() if code}  # older runs recorded no code
        versions: dict[str, list[Any]] = {}
        for name, found in held.items():
            for digest in sorted(found):
                versions.setdefault(digest, []).append(name)
        different: Collection[Any] = versions if seeds else {frozenset(found) for found in held.values() if found}
        if len(different) > 1:
            where = "in seed" if seeds else "in"
            named = [f"{digest} {where} {abbreviate(names)}" for digest, names in versions.items()]
            lines.append(f"{file} is {', '.join(named)}")
    return lines


def abbreviate(names: Sequence[Any]) -> str:
    """The first few of some seeds, arms or folders."""
    return ", ".join(map(str, names[:MOST_NAMED])) + (", ..." if len(names) > MOST_NAMED else "")


def missing_jobs(paths: Iterable[str | Path], runs: Iterable[Run]) -> list[str]:
    """Remarks on jobs planned by a sweep.json in or below the paths that have no finished run; runs: all there."""
    done = {run.folder.resolve(): run.status == "done" for run in runs}
    remarks: list[str] = []
    plans: dict[Path, dict[str, PlannedJob]] = {}
    for path in map(Path, paths):
        try:
            for job in planned(path).values():
                plans.setdefault(job.plan.resolve(), {}).setdefault(job.name, job)
        except ConfigError as error:
            remarks.append(f"cannot tell which jobs are missing: {error}")
    for jobs in plans.values():
        sweep = next(iter(jobs.values())).plan.parent
        dropped = superseded_in(sweep)
        arms = {name: arm for name, job in jobs.items() if name not in dropped and (arm := _arm(job)) is not None}
        missing = [name for name in arms if jobs[name].folder.resolve() not in done]
        gone = [name for name in missing if any((jobs[name].folder / file).exists() for file in RUN_FILES)]
        waiting = [name for name in missing if name not in gone]
        for names, what in ((waiting, "have not started"), (gone, "are left out, as their run.json is gone")):
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            if names:
                listed = ", ".join(names[:MOST_NAMED])
                remarks.append(f"{sweep}: {len(names)} of {len(arms)} planned jobs {what}: {listed}{more}")
        by_arm: dict[str, list[bool]] = {}  # whether each job is done
        for name, arm in arms.items():
            by_arm.setdefault(arm, []).append(done.get(jobs[name].folder.resolve(), False))
        absent = [f"{arm} ({len(ended)})" for arm, ended in by_arm.items() if not any(ended)]
        if absent:
            remarks.append(f"{sweep}: {len(absent)} of {len(by_arm)} arms have no finished job: {'; '.join(absent)}")
    return remarks


def waiting_jobs(paths: Iterable[str | Path], runs: Iterable[Run]) -> list[Run]:
    """Jobs that a sweep.json in or below the paths plans and that have no run.json, as runs; runs: all there.

    Their status is waiting, or unreadable where run.json is gone. Left out are those planned by older versions, and
    those whose entry was edited.
    """
    there = {run.folder.resolve() for run in runs}
    found: dict[Path, Run] = {}
    for path in map(Path, paths):
        try:
            for job in planned(path).values():
                if job.folder.resolve() not in there and "config" in job.entry:
                    gone = any((job.folder / file).exists() for file in RUN_FILES)
                    entry = job.entry | {"status": "unreadable" if gone else "waiting"}
                    with contextlib.suppress(StudyError, ValueError, RecursionError):
                        found[job.folder.resolve()] = run_of(job.folder, as_record(entry))
        except ConfigError:  # `missing_jobs` tells that a plan is damaged
            continue
    return [run for run in found.values() if not run.superseded]


def _arm(job: PlannedJob) -> str | None:
    """The arm of a planned job: its overrides without the seed; None for a tuning trial."""
    if not isinstance(job.overrides, list) or not all(isinstance(override, str) for override in job.overrides):
        return job.name  # sweep.json was edited
    seeds = [override.partition("=")[2] for override in job.overrides if key_of(override) == "seed"]
    if any(seed.isdecimal() and int(seed) >= TUNING_SEED for seed in seeds):
        return None
    settings = [override for override in naming(job.overrides) if key_of(override) not in PER_SEED]
    return " ".join(settings) or "default"
