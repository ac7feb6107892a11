"""Progress display: a bar on a terminal, log lines elsewhere."""

import logging
import math
import sys
import time
from typing import Literal, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rlexp.training.timing import WARM_UP

log = logging.getLogger(__name__)


class ProgressDisplay:
    """Shows steps, remaining time, steps per second and the mean return.

    Args:
        mode: "bar", "lines", "none", or "auto": a bar if standard output is a terminal.
        every: seconds between log lines.
    """

    def __init__(self, mode: Literal["auto", "bar", "lines", "none"], every: float = 5.0) -> None:
        if mode == "auto":
            mode = "bar" if sys.stdout.isatty() else "lines"
        self.mode, self.every = mode, every
        self.bar: Progress | None = None
        self.start(0, 0)

    def start(self, total: int, first: int) -> Self:
        """Reset the counters. total: rows of the whole run, per agent; first: rows of earlier launches."""
        self.total, self.first, self.updates = total, first, 0
        self.began = self.last = time.monotonic()
        return self

    def __enter__(self) -> Self:
        """Show the bar, if any."""
        if self.mode == "bar":
            self.bar = Progress(
                BarColumn(bar_width=16),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("{task.fields[rate]:,.0f} steps/s"),
                TextColumn("return {task.fields[score]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=Console(file=getattr(sys.stdout, "for_bars", sys.stdout)),
            )
            self.task = self.bar.add_task("training", total=self.total, completed=self.first, rate=0.0, score="-")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: int, rate: float, score: float, final: bool = False) -> None:
        """Show rows so far per agent, steps per second over all agents, and mean return; the final call always."""
        shown = "-" if math.isnan(score) else f"{score:.1f}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, rate=rate, score=shown)
            return
        now = time.monotonic()
        if self.updates < WARM_UP:
            self.updates, self.first, self.began = self.updates + 1, step, now
        if self.mode != "lines" or (now - self.last < self.every and not final):
            return
        self.last = now
        made = step - self.first
        left = f", {(self.total - step) * (now - self.began) / made:.0f} s left" if made else ""
        log.info("%s/%s steps, %s steps/s, return %s%s", step, self.total, f"{rate:.0f}", shown, left)
