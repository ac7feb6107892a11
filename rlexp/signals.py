"""Graceful stops: SIGTERM, Ctrl-C, a closed terminal, and a cluster's advance warnings (SIGUSR1, SIGUSR2)."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Self

from rlexp.torchrun import rank

FORWARDED = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
TOLD = b"\nstopping as soon as it is saved; Ctrl-C again stops at once, back to the last checkpoint\n"
DEBOUNCE = 1.0  # seconds within which signals count as one: Ctrl-C reaches a sweep and its jobs


class Interrupted(Exception):
    """A signal stopped the run; it has been saved unless an environment hung."""

    def __init__(self, signum: int, saved: bool = True, because: str = " while an environment did not answer") -> None:
        hung = "" if saved else f"{because}, and not saved since its last checkpoint"
        super().__init__(f"interrupted by {signal.Signals(signum).name}{hung}")
        self.signum, self.saved = signum, saved


class Paused(Exception):
    """The run has reached stop_at; it has been saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"paused at {step} steps")
        self.step = step


class StopSignal:
    """While entered, a signal stops the loop after the current update; a later second one stops at once.

    Handles SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2. If the last two had a handler, as submitit's to requeue its
    job, they are forwarded to it once all is saved: see `forward_signal`. A nested StopSignal shares the outer one's
    state.

    Args:
        signums: the signals handled.
    """

    def __init__(self, signums: Sequence[int] = (*STOPPING, *FORWARDED)) -> None:
        self.signums = signums
        self.signum: int | None = None
        self.is_request = False  # the first did not arrive as a signal to this process
        self.received_at = 0.0
        self.outer: StopSignal | None = None

    @property
    def received(self) -> int | None:
        """The first signal received; None: none yet."""
        return self.signum if self.outer is None else self.outer.received

    def raise_if_stopped(self) -> None:
        """Stop here if a signal has been received.

        Raises:
            Interrupted: names the signal.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> Self:
        """Install the handlers; does nothing outside the main thread."""
        self.previous: dict[int, Any] = {}
        try:
            for signum in self.signums:
                if signum in STOPPING and signal.getsignal(signum) == signal.SIG_IGN:
                    continue  # as set by nohup
                self.previous[signum] = signal.signal(signum, self.receive)
        except ValueError:
            return self
        self.outer = _owner(self.previous.get(signal.SIGTERM))
        return self

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """Handle a signal, or, without a frame, a stop request from elsewhere."""
        if self.outer is not None:
            self.outer.receive(signum, frame)
        elif self.signum is None:
            self.signum, self.is_request, self.received_at = signum, frame is None, time.monotonic()
            if signum == signal.SIGINT and not self.is_request and rank() == 0:
                os.write(2, TOLD)  # a handler may not print: the line that it interrupts may be half written
        elif time.monotonic() - self.received_at > DEBOUNCE:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        """Restore the handlers."""
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)


class Ended(KeyboardInterrupt):
    """A signal ends the command. Not an `Exception`, so that no handler on the way catches it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """While entered, SIGTERM, SIGINT and SIGHUP wait: they are delivered at the end. Only for what takes a moment."""
    received: list[int] = []
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        for signum in STOPPING:
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum in received[:1]:
            signal.raise_signal(signum)


@contextlib.contextmanager
def end_on_signal() -> Iterator[None]:
    """While entered, SIGTERM, SIGINT and SIGHUP end the command at once: it has nothing to save.

    Raises:
        Ended: names the signal.
    """
    received: list[int] = []

    def end(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        raise Ended(signum)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        for signum in STOPPING:
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, end)
    try:
        yield
    except Exception as error:
        if received:  # native code, as of matplotlib, may replace what a handler raises by an error of its own
            raise Ended(received[0]) from error
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _owner(handler: Any) -> StopSignal | None:
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, StopSignal) else None


def forward_signal(signum: int) -> None:
    """Pass SIGUSR1 or SIGUSR2 on to its previous handler, now that the run is saved; stop requests are not signals."""
    outer = _owner(signal.getsignal(signal.SIGTERM))
    if signum in FORWARDED and callable(signal.getsignal(signum)) and not (outer is not None and outer.is_request):
        os.kill(os.getpid(), signum)


def _ignore_forwarded() -> None:
    # forked environment processes must not requeue the job
    for signum in FORWARDED:
        signal.signal(signum, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ignore_forwarded)
