"""Splits training time into environment, acting, update, compiling and the rest."""

import time
from collections.abc import Mapping

ACTING, WITH_ENVIRONMENT, UPDATE, REST = "acting", "acting and environment", "update", "rest"  # names of laps
ENVIRONMENT, COMPILING = "environment", "compiling"  # measured within them
WARM_UP = 2  # updates up to and including compilation, whose time is not representative


class Clock:
    """Splits the time of one update into laps.

    Never synchronises. On a GPU the host runs ahead: kernels unfinished at the end of a lap count towards the next, so
    that the update lap, which ends with a transfer of its metrics, includes its kernels.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}  # last totals of what is measured within laps
        self.start()

    def start(self) -> None:
        """An update begins."""
        self.began = self.last = time.perf_counter()
        self.split: dict[str, float] = {}  # seconds, by part

    def lap(self, part: str, **within: float) -> None:
        """Assign the time since the last lap to a part.

        within: total seconds measured within laps so far, by part; increases are assigned to those parts instead.
        """
        now = time.perf_counter()
        rest = now - self.last
        for name, total in within.items():
            spent = total - self.totals.get(name, 0.0)
            self.totals[name] = total
            rest -= spent
            if spent:
                self.split[name] = self.split.get(name, 0.0) + spent
        self.split[part] = self.split.get(part, 0.0) + rest
        self.last = now

    @property
    def seconds(self) -> float:
        """Of the update, up to its last lap."""
        return self.last - self.began


def shares(seconds: Mapping[str, float]) -> str:
    """Shares of parts in percent, largest first: update 60 %, acting 30 %, rest 10 %."""
    whole = sum(seconds.values()) or 1.0
    by_size = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{part} {100 * spent / whole:.0f} %" for part, spent in by_size)
