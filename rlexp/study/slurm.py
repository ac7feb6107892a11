"""Asks Slurm which jobs it still has. Ids may come from an untrusted folder: only numbers are passed to squeue."""

import re
import shutil
import subprocess
from collections.abc import Iterable

TIMEOUT = 30.0  # seconds for Slurm to answer
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT")


def states_of(ids: Iterable[str]) -> dict[str, str] | None:
    """State of each job that waits or runs, by its id (12, or 12_3 in an array); None if Slurm cannot be asked."""
    arrays = sorted({id.partition("_")[0] for id in ids if re.fullmatch(r"[0-9]+(_[0-9]+)?", id)})
    if not arrays:
        return {}
    if shutil.which("squeue") is None:
        return None
    # --array: a line for each job of an array, also while they wait
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:  # a single job that has left the queue is an error
        return {} if "Invalid job id" in answer.stderr else None
    found = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if len(line.split()) > 1)
    return {id: state.strip() for id, state in found.items() if state.strip() not in OVER}
