"""Text output: sanitized against untrusted content, safe against closed pipes; numbers, hints and error lines."""

import contextlib
import difflib
import errno
import math
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

# All control characters except tab and newline: terminal escapes and bidirectional overrides
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def sanitize(text: str) -> str:
    """Strip control characters, so that a terminal shows text and executes nothing."""
    return CONTROL.sub("", text)


def sanitize_csv_cell(value: Any) -> Any:
    """Quote a csv cell that a spreadsheet would read as a formula."""
    begins = isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@")
    return f"'{value}" if begins and len(value) > 1 else value


def sanitize_markdown(text: str) -> str:
    """Markdown with html and links escaped."""
    return re.sub(r"\]\(", r"]\\(", re.sub(r"<(?=[A-Za-z/!?])", "&lt;", sanitize(text)))


class SanitizedStream:
    """A standard stream that writes sanitized text in its encoding, and survives a closed pipe.

    Output after the reader has exited, as with `head`, is dropped; training continues.

    Args:
        stream: the wrapped stream.
        raw: keep control characters.
    """

    def __init__(self, stream: Any, raw: bool = False) -> None:
        self.stream, self.raw = stream, raw

    @property
    def for_bars(self) -> "SanitizedStream":
        """The same stream for progress bars, which need control characters."""
        return SanitizedStream(self.stream, raw=True)

    def __getattr__(self, name: str) -> Any:
        """Other attributes of the wrapped stream."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write; returns len(text), sanitized or not."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        shown = (text if self.raw else sanitize(text)).encode(encoding, "replace").decode(encoding)
        with self._broken_pipe_ignored():
            self.stream.write(shown)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush."""
        with self._broken_pipe_ignored():
            self.stream.flush()

    @contextlib.contextmanager
    def _broken_pipe_ignored(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # a closed pipe, a closed terminal
                raise
            with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


@contextlib.contextmanager
def sanitized_output() -> Iterator[None]:
    """While entered, stdout and stderr are sanitized."""
    before = sys.stdout, sys.stderr
    if not isinstance(sys.stdout, SanitizedStream):
        sys.stdout, sys.stderr = SanitizedStream(sys.stdout), SanitizedStream(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """'Type: message' of an exception, or a text, in one line of at most `limit` characters."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:limit]


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar known name, ignoring case; None if none reaches the cutoff."""
    by_lower = {each.lower(): each for each in sorted(map(str, known), reverse=True)}  # Adam before adam
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' to append to a message; empty if no public name is similar."""
    found = closest(name, (each for each in known if not str(each).startswith("_")))
    return f"; did you mean {found}?" if found else ""


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Hint for an unknown name: the most similar known one, or all of them."""
    names = sorted(known)
    found = closest(name, names, cutoff=0.55)
    return f"did you mean {prefix}{found}?" if found else f"known: {', '.join(names)}"


def number(x: float | None, digits: int = 4) -> str:
    """Format with N significant digits, thousands in full; a dash for None or NaN."""
    if x is None or math.isnan(x):
        return "–"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.{digits}g}"


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines of a table, its columns two spaces apart; those in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(n) if k in right else cell.ljust(n) for k, (cell, n) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def natural(name: str) -> tuple[list[tuple[float, str]], str]:
    """Sort key for natural order: coef=5 before coef=10, 0.05 before 0.1."""
    parts = re.split(r"((?:(?<==)-)?\d+(?:\.\d+)?(?:e-?\d+)?)", name)
    return [(float(part), "") if i % 2 else (math.inf, part) for i, part in enumerate(parts)], name


def with_article(noun: str) -> str:
    """Prefix a noun with "a" or "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
