"""Output that no text can break: not a stranger's, in a terminal or a table, nor one for a reader that has gone."""

import contextlib
import errno
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

# All control characters but tabs and ends of lines: those of a terminal's commands, and of bidirectional text
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text that a terminal shows and does not obey: control characters are left out."""
    return CONTROL.sub("", text)


def harmless_cell(value: Any) -> Any:
    """A cell of a csv file that no spreadsheet takes for a formula: of a text that begins like one, as text."""
    begins = isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@")
    return f"'{value}" if begins and len(value) > 1 else value


def harmless_markdown(text: str) -> str:
    """Markdown without html or links, which whoever shows it might follow."""
    return re.sub(r"\]\(", r"]\\(", re.sub(r"<(?=[A-Za-z/!?])", "&lt;", harmless(text)))


class HarmlessStream:
    """A standard stream as it is, but that it writes harmless text, in characters that it knows, to whoever is left.

    What is written after its reader has gone, as `head` does, is nobody's; training goes on.

    Args:
        stream: the one that writes.
        raw: control characters are written, too.
    """

    def __init__(self, stream: Any, raw: bool = False) -> None:
        self.stream, self.raw = stream, raw

    @property
    def for_bars(self) -> "HarmlessStream":
        """The same for progress bars, which command the terminal."""
        return HarmlessStream(self.stream, raw=True)

    def __getattr__(self, name: str) -> Any:
        """Whatever else a stream has."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write; returns the length of the text, as if all had been written."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        shown = (text if self.raw else harmless(text)).encode(encoding, "replace").decode(encoding)
        with self._patience():
            self.stream.write(shown)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write them one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush."""
        with self._patience():
            self.stream.flush()

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # a pipe without a reader, a terminal that was closed
                raise
            with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


@contextlib.contextmanager
def harmless_output() -> Iterator[None]:
    """While entered, standard output and error are harmless streams."""
    before = sys.stdout, sys.stderr
    if not isinstance(sys.stdout, HarmlessStream):
        sys.stdout, sys.stderr = HarmlessStream(sys.stdout), HarmlessStream(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def number(x: float | None, digits: int = 4) -> str:
    """So many figures, whole thousands in full; a dash for nothing."""
    if x is None or math.isnan(x):
        return "–"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.{digits}g}"


def span(low: float, high: float) -> str:
    """An interval in brackets, with a space before; nothing where there is none."""
    return "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"


def with_article(noun: str) -> str:
    """A noun with "a" or "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
