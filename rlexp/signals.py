"""Stopping a run cleanly: SIGTERM, Ctrl-C, a terminal that closes, and signals by which a cluster announces an end."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Self

TAKEN = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
ONCE = 1.0  # seconds within which signals count as one: a terminal's Ctrl-C reaches a sweep and its jobs alike


class Interrupted(Exception):
    """A signal asked the run to stop; it has been saved, unless it hung."""

    def __init__(self, signum: int, saved: bool = True) -> None:
        hung = "" if saved else " while an environment did not answer, and not saved since its last checkpoint"
        super().__init__(f"interrupted by {signal.Signals(signum).name}{hung}")
        self.signum, self.saved = signum, saved


class Paused(Exception):
    """The run has come to the step at which it was to pause; it has been saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"paused at {step} steps")
        self.step = step


class StopSignal:
    """While entered, signals ask the loop to stop after the current update; a later second one stops at once.

    SIGTERM, SIGINT and SIGHUP, and SIGUSR1 and SIGUSR2 too. If somebody else waited for one of the last two, as
    submitit does to put its job back into a cluster's queue, it is handed on once all is saved: see `hand_on`. One
    entered within another knows what that one has received.

    Args:
        signums: those that are taken.
    """

    def __init__(self, signums: Sequence[int] = (*STOPPING, *TAKEN)) -> None:
        self.signums = signums
        self.own: int | None = None
        self.is_request = False  # the first came another way than as a signal to this process
        self.received_at = 0.0
        self.outer: StopSignal | None = None

    @property
    def received(self) -> int | None:
        """The first signal; None before there was one."""
        return self.own if self.outer is None else self.outer.received

    def heed(self) -> None:
        """Stop here, if it has been asked for.

        Raises:
            Interrupted: by which signal.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> Self:
        """Take over the handlers, in the main thread; elsewhere signals cannot be had."""
        self.previous: dict[int, Any] = {}
        try:
            for signum in self.signums:
                if signum in STOPPING and signal.getsignal(signum) == signal.SIG_IGN:
                    continue  # as nohup has it
                self.previous[signum] = signal.signal(signum, self.receive)
        except ValueError:
            return self
        self.outer = _owner(self.previous.get(signal.SIGTERM))
        return self

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """Take a signal, or without a frame a request that came another way."""
        if self.outer is not None:
            self.outer.receive(signum, frame)
        elif self.own is None:
            self.own, self.is_request, self.received_at = signum, frame is None, time.monotonic()
        elif time.monotonic() - self.received_at > ONCE:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        """Give the handlers back."""
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)


class Ended(KeyboardInterrupt):
    """A signal ends the command; as no `Exception`, it is caught by nobody on its way."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """While entered, SIGTERM, SIGINT and SIGHUP end what has nothing to save, wherever it is.

    Raises:
        Ended: by which signal.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        raise Ended(signum)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: signals are for others
        for signum in STOPPING:
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, end)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _owner(handler: Any) -> StopSignal | None:
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, StopSignal) else None


def hand_on(signum: int) -> None:
    """Let whoever else waits for this announcement have it, now that the run is saved; a request was not for them."""
    outer = _owner(signal.getsignal(signal.SIGTERM))
    if signum in TAKEN and callable(signal.getsignal(signum)) and not (outer is not None and outer.is_request):
        os.kill(os.getpid(), signum)


def _ignore_announcements() -> None:
    # environments in processes of their own are forked, and must not put the job into the queue in its name
    for signum in TAKEN:
        signal.signal(signum, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ignore_announcements)
