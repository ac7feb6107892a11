"""Whether a run gets the processor time that its threads ask for: on a busy machine fewer threads are faster."""

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)

TASKS = Path("/proc/self/task")  # Linux; elsewhere nothing is noticed
EVERY = 5.0  # seconds between looks
ENOUGH = 0.75  # share below which it is said


class ProcessorShare:
    """Says once, in one line, that threads which could run have to wait for a processor.

    The share is CPU time over CPU time and time spent ready to run: 1 on a machine of one's own, also where threads
    sleep or wait for environments.

    Args:
        threads: of torch; one alone cannot be fewer, and nothing is said.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.told = threads < 2
        self.restart()

    def restart(self) -> None:
        """Forget what was before, as the time in which graphs were compiled."""
        self.looked = time.monotonic()
        self.before = {} if self.told else thread_times()

    def look(self) -> None:
        """Look, if it is time to, and say what is to be said."""
        now = time.monotonic()
        if self.told or now - self.looked < EVERY:
            return
        after = thread_times()
        ran, waited = (sum(after[t][i] - self.before[t][i] for t in after if t in self.before) for i in (0, 1))
        self.before, self.looked = after, now
        if ran and ran / (ran + waited) < ENOUGH:
            self.told = True
            log.info(
                "the machine is busy: this run gets %.0f %% of the processor time that its %d threads ask for; "
                "torch_threads=1 is several times faster beside others (the same command with it goes on)",
                100 * ran / (ran + waited),
                self.threads,
            )


def thread_times() -> dict[str, tuple[int, int]]:
    """By thread of this process, nanoseconds that it ran and that it waited to run; none where that cannot be known."""
    found = {}
    for path in TASKS.glob("*/schedstat"):
        try:
            ran, waited, _ = path.read_text().split()
        except (OSError, ValueError):  # the thread has ended
            continue
        found[path.parent.name] = (int(ran), int(waited))
    return found
