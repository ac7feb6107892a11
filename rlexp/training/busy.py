"""Detects a busy machine, on which fewer threads are faster, from the run's share of CPU time."""

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)

TASKS = Path("/proc/self/task")  # Linux only; elsewhere nothing is reported
EVERY = 5.0  # seconds between checks
ENOUGH = 0.75  # share below which the machine is reported as busy


class ProcessorShare:
    """Logs one line if runnable threads have to wait for a CPU.

    The share is CPU time / (CPU time + time spent waiting to run): 1 on an idle machine, even while threads sleep or
    wait for environments.

    Args:
        threads: of torch; nothing is reported for one thread, as there cannot be fewer.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.reported = threads < 2
        self.restart()

    def restart(self) -> None:
        """Start measuring from now, e.g. after compilation."""
        self.checked = time.monotonic()
        self.before = {} if self.reported else thread_times()

    def check(self) -> None:
        """Measure the share if `EVERY` seconds have passed, and log once if it is too low."""
        now = time.monotonic()
        if self.reported or now - self.checked < EVERY:
            return
        after = thread_times()
        ran, waited = (sum(after[t][i] - self.before[t][i] for t in after if t in self.before) for i in (0, 1))
        self.before, self.checked = after, now
        if ran and ran / (ran + waited) < ENOUGH:
            self.reported = True
            log.info(
                "the machine is busy: this run gets %.0f %% of the CPU time that its %d threads request; "
                "torch_threads=1 is several times faster on a busy machine (rerun this command with it to resume)",
                100 * ran / (ran + waited),
                self.threads,
            )


def thread_times() -> dict[str, tuple[int, int]]:
    """Nanoseconds spent running and waiting to run, by thread of this process; empty where unavailable."""
    found = {}
    for path in TASKS.glob("*/schedstat"):
        try:
            ran, waited, _ = path.read_text().split()
        except (OSError, ValueError):  # the thread has ended
            continue
        found[path.parent.name] = (int(ran), int(waited))
    return found
