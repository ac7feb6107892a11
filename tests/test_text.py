"""What is printed is harmless: to a terminal that cannot show it, and where nobody reads any more."""

import io
import os

import pytest

from rlexp.text import SanitizedStream, natural, sanitize

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31mred\u202e"


def test_control_characters_are_left_out_and_ends_of_lines_kept():
    assert sanitize(f"a\tb\n{EVIL}c") == "a\tb\n]0;owned[2J31mredc"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "? ?5"), ("latin-1", "? ä5"), ("utf-8", "– ä5")])
def test_a_terminal_shows_what_it_can(encoding, shown):
    raw = io.BytesIO()
    stream = SanitizedStream(io.TextIOWrapper(raw, encoding=encoding))
    print("– ä5", file=stream, flush=True)
    assert raw.getvalue().decode(encoding) == f"{shown}\n"


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as file:
        stream = SanitizedStream(file)
        for _ in range(3):
            print("x" * 100_000, file=stream, flush=True)


def test_numbers_in_names_are_in_order():
    ordered = ["a-9", "a-12", "a=-1", "a=1e-4", "a=0.05", "a=0.1", "a=9", "a=10", "x2", "x10"]
    assert sorted({*ordered}, key=natural) == ordered
