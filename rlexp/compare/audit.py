"""What a comparison cannot use or lacks, each by name: runs that have not ended, curves not whole, jobs not begun."""

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

PER_SEED = ("seed", "num_seeds")  # differ from run to run and make no arm
NAMED = 5  # jobs, seeds or arms that a remark names
KEPT = ("metrics.csv", "checkpoint.pt", "evaluation.json")  # show that a job had begun whose run.json is gone


# Runs ----------------------------------------------------------------------------------------------------------------


def finished(runs: Iterable[Run], remarks: list[str]) -> list[Run]:
    """Those that are done and whose curves, which are read here, are whole; what is said of the others is added."""
    done = []
    tuning = 0
    for run in runs:
        remarks += [f"{run.folder}: {complaint}" for complaint in run.complaints]
        if run.superseded:
            remarks.append(f"{run.folder}: left out, as the tuning has found a better one since")
        elif any(seed >= TUNING_SEED for seed in run.record.get("seeds", [])):
            tuning += 1
        elif run.status != "done":
            error = run.record.get("error")
            remarks.append(f"{run.folder}: left out, it is {run.status}" + (f" ({error})" if error else ""))
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
            f"{tuning} runs on tuning seeds ({TUNING_SEED} and up) are left out: they chose what is compared"
        )
    return longest


def _read(run: Run) -> str | None:
    """Read a run's curves; what is wrong with them."""
    try:
        read_curves(run)
    except StudyError as error:
        return str(error)
    flaw = curve_flaw(run)
    return None if flaw is None else f"as metrics.csv {flaw}; make the run anew with resume=never"


def curve_flaw(run: Run) -> str | None:
    """In what metrics.csv of a run that is done is not what its training wrote; None: it is whole, as far as is known.

    Runs made before the number of rows was recorded are judged by their last step, and by steps that rise.
    """
    result = run.record.get("result", {})
    for k, seed in enumerate(run.record.get("seeds") or sorted(run.curves)):
        if seed not in run.curves:
            return f"holds no row of seed {seed}"
        steps = run.curves[seed].steps
        rows, last = _whole(result.get("rows"), k), _whole(result.get("steps"), k)
        moves = np.diff(steps)
        # an update of nothing but resets leaves its seed at the same step
        if (moves < 0).any() or ((moves == 0).any() and rows != len(steps)):
            return f"holds steps of seed {seed} twice, as two processes at once would write them"
        if rows is not None and rows != len(steps):
            return f"holds {len(steps)} rows of seed {seed} instead of {rows}"
        if last is not None and last != steps[-1]:
            return f"ends at step {steps[-1]:.0f} of seed {seed} instead of {last}"
    return None


def _whole(values: Any, k: int) -> int | None:
    """One of the numbers that run.json holds, one a seed; None where it has none."""
    known = isinstance(values, list) and k < len(values) and isinstance(values[k], int)
    return values[k] if known else None


def code_remarks(runs: Collection[Run]) -> list[str]:
    """In what code and versions the runs differ."""
    remarks = []
    commits = {run.record.get("commit") for run in runs}
    if len(commits) > 1:
        known = ", ".join(sorted(str(commit)[:10] for commit in commits))
        remarks.append(f"the runs are of {len(commits)} commits: {known}")
    codes = {str(code) for run in runs if (code := run.record.get("code"))}
    if len(codes) > 1:
        remarks.append(f"the code of rlexp that trains is not the same in all runs: {', '.join(sorted(codes))}")
    dirty = sum(bool(run.record.get("dirty")) for run in runs)
    if dirty:
        remarks.append(f"{dirty} of {len(runs)} runs were made with uncommitted changes in the code")
    for package in ("torch", "gymnasium", "numpy"):
        versions = {run.record.get("versions", {}).get(package) for run in runs}
        if len(versions) > 1:
            remarks.append(f"the runs are of several versions of {package}: {', '.join(sorted(map(str, versions)))}")
    return remarks


def _code_of(run: Run) -> dict[str, set[str]]:
    """Digests of each file that the run's config names; several where it went on with other code."""
    found: dict[str, set[str]] = {}
    earlier = [digests_of(own) for own in run.record.get("made_by", [])]
    for own in (sources_of(run.record), *earlier):
        for file, digest in own.items():
            found.setdefault(file, set()).add(str(digest))
    return found


def code_differences(runs: Mapping[int, Run]) -> list[str]:
    """Files that are not the same in all runs that say of what code they are: file, and which seeds are of which.

    Args:
        runs: by seed.
    """
    codes = {seed: _code_of(run) for seed, run in runs.items() if sources_of(run.record)}
    files = sorted({file for code in codes.values() for file in code})
    versions = {file: {seed: code.get(file, {"none"}) for seed, code in codes.items()} for file in files}
    return [_told(file, own, "of seed") for file, own in versions.items() if len(set().union(*own.values())) > 1]


def code_between(arms: Mapping[str, Iterable[Run]]) -> list[str]:
    """Files that are not the same in all arms that have them, as what one arm alone has is what is tested.

    Args:
        arms: runs by the name of the arm.
    """
    versions: dict[str, dict[str, set[str]]] = {}  # file -> arm -> digests
    for name, runs in arms.items():
        for run in runs:
            for file, digests in _code_of(run).items():
                versions.setdefault(file, {}).setdefault(name, set()).update(digests)
    return [
        _told(file, own, "in") for file, own in sorted(versions.items()) if len(set(map(frozenset, own.values()))) > 1
    ]


def _told(file: str, digests: Mapping[Any, set[str]], where: str) -> str:
    """A file, and who has which version of it."""
    versions: dict[str, list[Any]] = {}
    for who, own in digests.items():
        for digest in sorted(own):
            versions.setdefault(digest, []).append(who)
    return f"{file} is " + ", ".join(f"{digest} {where} {few(own)}" for digest, own in versions.items())


def few(names: Sequence[Any]) -> str:
    """The first of some seeds, arms or folders."""
    return ", ".join(map(str, names[:NAMED])) + (", ..." if len(names) > NAMED else "")


# Jobs that were planned ----------------------------------------------------------------------------------------------


def missing_jobs(paths: Iterable[str | Path], runs: Iterable[Run]) -> list[str]:
    """What is said of jobs that a sweep.json in or below the paths plans, and of which there is no run, or none done.

    Args:
        paths: of studies.
        runs: all that are there, as `study.find_runs` gives them.
    """
    done = {run.folder.resolve(): run.status == "done" for run in runs}
    remarks: list[str] = []
    plans: dict[Path, dict[str, Path]] = {}  # sweep.json -> name -> folder
    for path in map(Path, paths):
        try:
            jobs = planned(path)
        except ConfigError as error:
            remarks.append(f"which jobs are missing is not known: {error}")
            continue
        for folder, (plan, name) in jobs.items():
            plans.setdefault(plan.resolve(), {}).setdefault(name, folder)
    for plan, folders in plans.items():
        dropped = superseded_in(plan.parent)
        arms = {name: arm for name, arm in _arms(plan).items() if arm is not None and name not in dropped}
        missing = [name for name in arms if folders[name].resolve() not in done]
        gone = [name for name in missing if any((folders[name] / file).exists() for file in KEPT)]
        waiting = [name for name in missing if name not in gone]
        sweep = next(iter(folders.values())).parent
        of = f"of {len(arms)} planned jobs"
        if waiting:
            remarks.append(f"{sweep}: {len(waiting)} {of} have not begun: {_named(waiting)}")
        if gone:
            remarks.append(f"{sweep}: {len(gone)} {of} are left out, as their run.json is gone: {_named(gone)}")
        by_arm: dict[str, list[bool]] = {}  # whether each job is done
        for name, arm in arms.items():
            by_arm.setdefault(arm, []).append(done.get(folders[name].resolve(), False))
        absent = [f"{arm} ({len(jobs)})" for arm, jobs in by_arm.items() if not any(jobs)]
        if absent:
            remarks.append(
                f"{sweep}: {len(absent)} of {len(by_arm)} arms have no job that is done: {'; '.join(absent)}"
            )
    return remarks


def _named(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _arms(plan: Path) -> dict[str, str | None]:
    """The arm of each planned job, by its overrides without the seed; None: a trial of a tuning, which is of none."""
    jobs = json.loads(plan.read_text(encoding="utf-8"))["jobs"]
    arms: dict[str, str | None] = {}
    for name in jobs:
        job = jobs[name] if isinstance(jobs, dict) else None
        words = job.get("overrides") if isinstance(job, dict) else None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            arms[name] = name  # not as it was written
            continue
        seeds = [word.partition("=")[2] for word in words if key_of(word) == "seed"]
        trial = any(seed.isdecimal() and int(seed) >= TUNING_SEED for seed in seeds)
        own = [word for word in naming(words) if key_of(word) not in PER_SEED]
        arms[name] = None if trial else " ".join(own) or "default"
    return arms
