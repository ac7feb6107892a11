"""Detects prints and breakpoints in code that is being traced, where values are placeholders."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any


class _WriteDetector:
    """A stream that sets an event when it is written to."""

    def __init__(self, stream: Any, printed: threading.Event) -> None:
        self.stream, self.printed = stream, printed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.printed.set()
        return self.stream.write(text)


@contextlib.contextmanager
def detecting_prints(printed: threading.Event) -> Iterator[None]:
    """Set the event if something is printed or a breakpoint is hit while entered; breakpoints are skipped.

    A debugger would show placeholders, and quitting it would abort tracing.
    """
    before, sys.breakpointhook = sys.breakpointhook, lambda *_, **__: printed.set()
    try:
        with contextlib.redirect_stdout(_WriteDetector(sys.stdout, printed)):
            yield
    finally:
        sys.breakpointhook = before
