"""Disks that are full, read-only or gone: told in one line, and what was saved is kept."""

import signal
import subprocess

import pytest

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
