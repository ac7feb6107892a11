import io
import sys
from types import SimpleNamespace

import pytest

from rlexp.study.__main__ import main


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command line in-process, in an empty folder: cli(*words, answer=None) -> exit code, what it printed.

    An answer is typed on a terminal, or a function that gives it is called; without one standard input is no terminal.
    """
    monkeypatch.chdir(tmp_path)

    class Terminal(io.StringIO):
        def __init__(self, answer):
            super().__init__()
            self.readline = answer if callable(answer) else io.StringIO(answer).readline

        def isatty(self):
            return True

    def call(*words, answer=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO() if answer is None else Terminal(answer))
        code = 0
        try:
            main(list(words))
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return call
