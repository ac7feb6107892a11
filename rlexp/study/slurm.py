"""Asks Slurm which jobs it still has. Marks may come from an untrusted folder: only numbers and names reach squeue."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable

from rlexp.run.queued import Queued, user

TIMEOUT = 30.0  # seconds for Slurm to answer
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT")
GONE = ""  # in place of a state
ID = re.compile(r"([0-9]{1,10})(_[0-9]{1,10})?")  # 12, or 12_3 in an array
MOST = 2**31 - 1  # a greater number would be another job to squeue
CLUSTERS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(,[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def states_of(marks: Iterable[Queued]) -> dict[Queued, str]:
    """State of each job that waits or runs; GONE if Slurm no longer has it. Without those that Slurm cannot tell of.

    It cannot if squeue is missing or fails, if the job was given to another cluster than the one that answers here, or
    if the job is not shown and another user's, as Slurm may hide it.
    """
    asked: dict[tuple[str | None, str | None], list[Queued]] = {}
    for mark in marks:
        if mark.queue == "slurm" and number_of(mark) and (not mark.clusters or CLUSTERS.fullmatch(mark.clusters)):
            asked.setdefault((mark.clusters, mark.controller), []).append(mark)
    if not asked or shutil.which("squeue") is None:
        return {}
    here = cluster_name() if any(controller and not clusters for clusters, controller in asked) else None
    found: dict[Queued, str] = {}
    for (clusters, controller), some in asked.items():
        if controller and not clusters and controller != here:
            continue
        states = _ask_each(sorted({number_of(mark) for mark in some}), clusters)
        for mark in some:
            shown = states.get(number_of(mark))
            if shown is None:
                continue
            if mark.id in shown:
                found[mark] = GONE if shown[mark.id] in OVER else shown[mark.id]
            elif mark.user == user() and (clusters or controller):  # else perhaps it is another cluster that answers
                found[mark] = GONE
    return found


def number_of(mark: Queued) -> str:
    """The number of a mark's job, or of its array; empty if it is none of Slurm's."""
    match = ID.fullmatch(mark.id)
    return match[1] if match and 0 < int(match[1]) <= MOST else ""


def cluster_name() -> str | None:
    """Name of the cluster that answers here; None if it cannot be asked for."""
    answer = _call("scontrol", "show", "config")
    match = None if answer is None else re.search(r"^ClusterName\s*=\s*(\S+)", answer.stdout, re.MULTILINE)
    return match[1] if match else None


def _ask_each(numbers: list[str], clusters: str | None) -> dict[str, dict[str, str]]:
    """As `_ask`, each of several clusters apart: a job that one does not know may be another's."""
    answers = [_ask(numbers, cluster) for cluster in (clusters.split(",") if clusters else [None])]
    found = {}
    for number in numbers:
        shown = {id: state for answer in answers for id, state in answer.get(number, {}).items()}
        shown = {id: state for id, state in shown.items() if id.partition("_")[0] == number}
        if shown or all(number in answer for answer in answers):
            found[number] = shown
    return found


def _ask(numbers: list[str], clusters: str | None) -> dict[str, dict[str, str]]:
    """States of the jobs that are shown, by number asked for and id; without numbers it cannot tell of."""
    # --array: a line for each job of an array, also while they wait
    options = ["--noheader", "--array", "--format=%i %T", *([f"--clusters={clusters}"] if clusters else [])]
    answer = _call("squeue", *options, f"--jobs={','.join(numbers)}")
    if answer is None:
        return {}
    if answer.returncode != 0:
        invalid = [line for line in answer.stderr.splitlines() if "Invalid job id" in line]
        others = [line for line in answer.stderr.splitlines() if "error" in line and line not in invalid]
        if not invalid or others or answer.stdout.strip():
            return {}
        if len(numbers) == 1:  # it has left the queue
            return {numbers[0]: {}}
        return {number: shown for each in numbers for number, shown in _ask([each], clusters).items()}
    lines = [line.split() for line in answer.stdout.splitlines()]
    shown = {words[0]: words[1] for words in lines if len(words) == 2}
    if "error" in answer.stderr:  # it may not have told all
        return {number: shown for number in numbers if any(id.partition("_")[0] == number for id in shown)}
    return dict.fromkeys(numbers, shown)


def _call(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Answer of one of Slurm's commands, whatever its user has set for its output; None if there is none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SLURM_CLUSTERS"))}
    try:
        return subprocess.run(
            command, env=kept, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
