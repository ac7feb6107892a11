"""What is printed breaks nothing: not the terminal, nor the run whose terminal cannot show it or has gone."""

import io
import os
import signal
import subprocess
import sys

import pytest
from helpers import jobs, status

from rlexp import evaluate
from rlexp.run.record import RunRecord
from rlexp.study import __main__ as study
from rlexp.text import SanitizedStream, sanitize

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


# Disks ---------------------------------------------------------------------------------------------------------------

FEW = ("tuned=none", "progress=none", "compile=false", "study=s", "network.torso.hidden=[64,64]")
FEW += ("env.num_envs=2", "algo.rollout_steps=32", "checkpoint_every=64", "log_every=64", "total_steps=1e6")


@pytest.fixture
def small(tmp_path):
    """A file system of a fifth of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("words", [(), ("-m",)])
def test_a_full_disk_is_told_in_one_line_and_what_was_saved_is_kept(cli, small, words):
    result = cli(*words, *FEW, f"outputs={small}")
    assert result.code == 1
    line = next(line for line in (result.err + result.out).splitlines() if "cannot be written" in line)
    assert "(No space left on device); free some space or set outputs=<folder> to a writable folder" in line
    assert "Traceback" not in result.err
    (job,) = [path for path in small.glob("s/*") if path.is_dir()]
    assert (job / "checkpoint.pt").exists()


def test_a_file_that_may_grow_no_more_is_told(cli):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        result = cli(*FEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert result.code == 1
    assert "cannot be written (File too large)" in result.err


def test_a_read_only_file_system_is_told(cli, small):
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    result = cli(*FEW, f"outputs={small}/out")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "Read-only file system" in result.err


def test_a_folder_that_is_removed_while_its_run_writes_is_told(cli, monkeypatch):
    import shutil

    from rlexp.training.trainer import Trainer

    iterate = Trainer.iterate

    def remove(self):
        if self.update_number == 3:
            shutil.rmtree(self.runs[0].folder)
        iterate(self)

    monkeypatch.setattr(Trainer, "iterate", remove)
    result = cli(*FEW)
    assert result.code == 1
    assert "cannot be written (No such file or directory)" in result.err
    assert result.err.count("\n") == 1
