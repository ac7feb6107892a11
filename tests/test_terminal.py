"""What is printed breaks nothing: not the terminal, nor the run whose terminal cannot show it or has gone."""

import os
import subprocess
import sys

import pytest
from helpers import jobs, status

from rlexp import evaluate
from rlexp.run.record import RunRecord
from rlexp.study import __main__ as study

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31mred\u202e"


def test_what_a_strangers_record_says_does_not_reach_the_terminal(tmp_path, capsys):
    folder = tmp_path / "s" / f"job{EVIL}-12345678"
    folder.mkdir(parents=True)
    RunRecord(folder).update(status="failed", error=f"{EVIL}boom", traceback=EVIL, host=EVIL, seeds=[0], config={})
    study.main(["status", str(tmp_path / "s"), "traceback=true"])
    with pytest.raises(SystemExit):
        evaluate.main([f"run={folder}"])
    printed = capsys.readouterr()
    assert "boom" in printed.out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(printed.out + printed.err)


@pytest.mark.slow
def test_a_sweep_whose_reader_goes_away_ends_as_it_would(tmp_path):
    words = ["-m", "study=s", "tuned=none", "seed=0,1", "total_steps=256", "env.num_envs=2", "algo.rollout_steps=32"]
    words += ["evaluation.episodes=0", "compile=false"]
    command = [sys.executable, "-m", "rlexp.train", *words]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read().decode()
    assert (process.returncode, told) == (0, "")
    assert [status(job) for job in jobs(tmp_path)] == ["done", "done"]
