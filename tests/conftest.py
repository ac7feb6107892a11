import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import rlexp.train
from rlexp.compiling.compile import Graph


def pytest_sessionstart(session):
    """What users keep in a checkout, such as the front page's example, would be found beside what tests make."""
    root = session.config.rootpath
    if (root / "conf" / "local").exists():
        pytest.exit("conf/local: the tests would read it; move it out of this checkout for as long", returncode=1)
    if kept := [name for name in ("their_pkg", "conf/algo/calm.yaml") if (root / name).exists()]:
        pytest.exit(f"{' and '.join(kept)}: the tests make their own; move yours out of this checkout", returncode=1)
    for number in (signal.SIGINT, signal.SIGHUP):  # nohup and a shell's & have them ignored, here and in all processes
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before -m "not slow" chooses
def pytest_collection_modifyitems(items):
    """Of a test marked few(n), n cases are for every change, evenly spaced over all; the others are slow."""
    cases = {}
    for item in items:
        if item.get_closest_marker("few"):
            cases.setdefault((item.path, item.originalname), []).append(item)
    for each in cases.values():
        count = each[0].get_closest_marker("few").args[0]
        kept = {index * len(each) // count for index in range(count)}
        for index, item in enumerate(each):
            if index not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def own_breakpoints(monkeypatch):
    """Ray, once it has run in this process, leaves its debugger in the environment for all that follows."""
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command line without the three seconds of imports: cli(words) -> exit code, what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)

    def call(*words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["rlexp.train", *words])
        code = 0
        try:
            rlexp.train.main()
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def traced(monkeypatch):
    """Graphs as they are traced, run node by node: what compiling is about but the compiler."""
    monkeypatch.setattr(Graph, "is_built", True)
    monkeypatch.setattr(Graph, "load", lambda self: setattr(self, "run", torch.no_grad()(lambda x: self.traced(*x))))
