"""What code prints, and where it would stop, while it is traced: its values are placeholders then."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any


class _Ear:
    """A stream that notes that it is written to."""

    def __init__(self, stream: Any, heard: threading.Event) -> None:
        self.stream, self.heard = stream, heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.heard.set()
        return self.stream.write(text)


@contextlib.contextmanager
def listening(heard: threading.Event) -> Iterator[None]:
    """While entered, it is noted that something is printed, or a breakpoint met, which is passed over.

    Who stopped there would see placeholders, and a breakpoint that is left would leave the graph, too.
    """
    before, sys.breakpointhook = sys.breakpointhook, lambda *_, **__: heard.set()
    try:
        with contextlib.redirect_stdout(_Ear(sys.stdout, heard)):
            yield
    finally:
        sys.breakpointhook = before
