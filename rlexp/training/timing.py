"""Where the seconds of training go: environment, acting, update, compiling, and the rest."""

import time
from collections.abc import Mapping

ACTING, WITH_ENVIRONMENT, UPDATE, REST = "acting", "acting and environment", "update", "rest"  # what laps are called
ENVIRONMENT, COMPILING = "environment", "compiling"  # measured within them
WARM_UP = 2  # updates before graphs are compiled or while: their time tells nothing about how long the others take


class Clock:
    """Divides the time of one update among what is done in it, a lap each.

    Nothing is waited for here. On a GPU the host runs ahead: what it has not waited for by the end of a lap is the next
    one's, so that the update, which ends with a wait for its metrics, has its kernels.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}  # of what is measured within laps, as they were last seen
        self.start()

    def start(self) -> None:
        """An update begins."""
        self.began = self.last = time.perf_counter()
        self.split: dict[str, float] = {}  # seconds, by part

    def lap(self, part: str, **within: float) -> None:
        """The time since the last lap was of this part.

        within: seconds so far of all that was measured within laps, by part; what has been added is theirs.
        """
        now = time.perf_counter()
        own = now - self.last
        for name, total in within.items():
            spent = total - self.totals.get(name, 0.0)
            self.totals[name] = total
            own -= spent
            if spent:
                self.split[name] = self.split.get(name, 0.0) + spent
        self.split[part] = self.split.get(part, 0.0) + own
        self.last = now

    @property
    def seconds(self) -> float:
        """Of the update, up to its last lap."""
        return self.last - self.began


def shares(seconds: Mapping[str, float]) -> str:
    """Parts of a time in percent, the largest first: update 60 %, acting 30 %, rest 10 %."""
    whole = sum(seconds.values()) or 1.0
    by_size = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{part} {100 * spent / whole:.0f} %" for part, spent in by_size)
