"""Stopping a run cleanly on SIGTERM and Ctrl-C."""

import signal
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A signal asked the run to stop; it has been saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignal:
    """While entered, SIGTERM and SIGINT ask the loop to stop after the current update; a second one stops at once."""

    def __enter__(self) -> "StopSignal":
        """Take over the handlers, in the main thread; elsewhere signals cannot be had."""
        self.received: int | None = None
        self.previous: dict[int, Any] = {}
        try:
            for signum in (signal.SIGTERM, signal.SIGINT):
                self.previous[signum] = signal.signal(signum, self._receive)
        except ValueError:
            pass
        return self

    def _receive(self, signum: int, _: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signum

    def __exit__(self, *_: object) -> None:
        """Give the handlers back."""
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
