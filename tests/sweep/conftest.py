import pytest
from helpers import SUPPORT
from sweeps import QUICK, TINY


@pytest.fixture
def sweep(cli, monkeypatch):
    """A tiny sweep, in this process."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    return lambda *words: cli(*TINY, *QUICK, *words)
