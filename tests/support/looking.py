"""Comparisons on disk and in memory, run again and again: what looks.json makes of them."""

import json
import shutil

import numpy as np
import pytest
from runs import write_run
from scored import comparison

from rlexp.compare import __main__ as compare
from rlexp.compare import verdict
from rlexp.compare.look_book import LookBooks
from rlexp.compare.question import Question


def scores(n, shift=0.0):
    return np.linspace(-4.5, 4.5, n) + shift


def judge(folder, *tasks, book=None, margin=None):
    margins = {} if margin is None else {t.env: margin for t in tasks}
    book = book or LookBooks(folder)
    return verdict.judge(comparison(*tasks), "ppo", Question("evaluation", margins, margins), book), book


def looks_at(book, env="E"):
    """Those at an environment, of the only study."""
    (looks,) = book.of(env)
    return looks


def words(judgement):
    return [r.verdict.word for r in judgement.primary]


def write_looks(folder, planned=(), taken=(), env="E", **more):
    folder.mkdir(exist_ok=True, parents=True)
    entry = {"planned": [*planned], "taken": [*taken]}
    (folder / "looks.json").write_text(json.dumps({"envs": {env: entry}} | more))


def held(folder):
    return json.loads((folder / "looks.json").read_text())


def study(folder, n=5, level=160.0, **more):
    for algo, start in (("ppo", 100.0), ("apo", level)):
        shutil.rmtree(folder / algo, ignore_errors=True)
        write_run(folder / algo, algo, seeds=range(n), level=start, **more)
    return str(folder)


def run(capsys, *settings):
    """What the command prints, in one line."""
    compare.main([*settings, *([] if "plan=true" in settings else ["figures=false"])])
    return " ".join(capsys.readouterr().out.split())


def refused(capsys, *settings):
    with pytest.raises(SystemExit) as end:
        compare.main([*settings])
    said = capsys.readouterr()
    assert end.value.code == 1
    assert said.err.startswith("rlexp.compare: ")
    assert said.err.count("\n") == 1
    return said.err


def arms(folder, shift=9.0, n=6, **more):
    """ppo and apo, whose seeds score 10 times their number, apo's higher by a shift."""
    for algo, level in (("ppo", 100.0), ("apo", 100.0 + shift)):
        shutil.rmtree(folder / algo, ignore_errors=True)
        write_run(folder / algo, algo, seeds=range(n), level=level, **more)
    return str(folder)


def levels_of(judgement):
    return {(r.env, r.arm, r.measure): r.against.alpha for r in judgement.results if r.compared}
