"""Interruptible calls: environments that hang, and compilation once the run is to stop.

Python code can be interrupted anywhere, as in an environment that blocks for ever. A library call that does not return
to Python cannot, unless it runs in a separate process (`env.vectorization=async`).
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from rlexp.errors import EnvironmentFault
from rlexp.signals import Interrupted, StopSignal

P = ParamSpec("P")
R = TypeVar("R")

TICK = 0.5  # seconds between checks
PATIENCE = 5.0  # seconds that a call may still take once the run is to stop


class _Over(BaseException):
    """Ends a call. Not an Exception, so that an environment that catches those does not catch it."""

    def __init__(self, ending: Exception) -> None:
        super().__init__(str(ending))
        self.ending = ending


class Watch:
    """Makes calls of environments and interrupts those that hang; in the main thread only, where signals arrive.

    timeout: seconds that a call may take, or None; name: of the environment, for the error message.
    """

    def __init__(self, timeout: float | None = None, name: str = "") -> None:
        self.timeout, self.name = timeout, name
        self.calls = 0  # started
        self.inside = False
        self.patience = PATIENCE
        self.stop: StopSignal | None = None
        self.ending: tuple[int, Exception] | None = None  # the call to end, and the exception to raise
        self.lost = False  # interrupted where nothing can be raised

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call under watch; EnvironmentFault if it timed out, Interrupted if the run is to stop meanwhile."""
        self.calls += 1
        self.inside = True
        try:
            return function(*args, **kwargs)
        except _Over as over:
            raise over.ending from None
        finally:
            self.inside = False

    def call_or_stop(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call without a time limit, abandoned at once (Interrupted) when the run is to stop.

        Only where nothing has been trained since the last checkpoint.
        """
        timeout, self.timeout, self.patience = self.timeout, None, 0.0
        try:
            self.raise_if_stopped()
            return self.call(function, *args, **kwargs)
        except Interrupted as stop:
            raise Interrupted(stop.signum) from None  # saved, as nothing has been trained since
        finally:
            self.timeout, self.patience = timeout, PATIENCE

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if a signal has been received."""
        if self.stop is not None:
            self.stop.raise_if_stopped()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """While entered, calls are watched."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
            yield
            return
        over = threading.Event()
        before, hook = signal.signal(signal.SIGALRM, self._end), sys.unraisablehook

        def unraised(what: Any) -> None:  # in a destructor or a weak reference's callback: compilers have many
            if isinstance(what.exc_value, _Over):
                self.lost = True
            else:
                hook(what)

        sys.unraisablehook = unraised
        thread = threading.Thread(target=self._look, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
            sys.unraisablehook = hook

    def _look(self, over: threading.Event) -> None:
        # seconds, less those for which this process and its environments were suspended, as by Ctrl-Z
        now, looked = 0.0, time.monotonic()
        seen, since = 0, now
        asked: float | None = None  # when the stop was first seen
        again = since  # earliest time of the next interrupt: abandoned calls need time to clean up
        while not over.wait(TICK):
            passed = time.monotonic() - looked
            looked += passed
            now += min(passed, 4 * TICK)
            if self.calls != seen:
                seen, since = self.calls, now
            signum = None if self.stop is None else self.stop.received
            asked = None if signum is None else asked or now
            ending: Exception | None = None
            if self.timeout is not None and now - since > self.timeout:
                ending = EnvironmentFault(
                    f"env.timeout={self.timeout:g}: a call of {self.name} did not return within this many seconds"
                )
            elif signum is not None and asked is not None and now - max(since, asked) >= self.patience:
                ending = Interrupted(signum, saved=False)
            if ending is not None and self.inside and (now >= again or self.lost):
                self.lost = False
                again = now + (0 if self.patience else PATIENCE)
                self.ending = (seen, ending)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def _end(self, signum: int, frame: FrameType | None) -> None:
        if self.ending is not None and self.inside and self.ending[0] == self.calls:
            (_, ending), self.ending = self.ending, None
            raise _Over(ending)
