"""One process a folder, whatever becomes of it, also on file systems without locks, which are simulated here."""

import errno
import fcntl
import os
import platform
import signal
import threading
import time

import pytest
from process import LOCKLESS, child, without_locks

from rlexp.run.lock import BusyError, FolderLock, has_locks, holder, is_held, probe


@pytest.fixture(params=["locks", *LOCKLESS])
def kind(request, monkeypatch):
    """Of a file system: with locks, or the error that one without them gives."""
    if request.param != "locks":
        monkeypatch.setattr(fcntl, "flock", without_locks(request.param))
    return request.param


@pytest.mark.few(1)
def test_a_lock_dies_with_its_process(tmp_path, kind):
    assert not is_held(tmp_path)
    process, line = child("print(lock.acquire(), flush=True); time.sleep(60)", tmp_path, kind)
    try:
        assert line == "True\n"
        assert is_held(tmp_path)
        with pytest.raises(BusyError) as caught:
            FolderLock(tmp_path).__enter__()
        who = f"process {process.pid} on {platform.node()}"
        said = f"{tmp_path}: {who} is using it; wait for it to finish, or stop it"
        gone = "" if kind == "locks" else f"; if it is gone, remove {tmp_path}/.lock"
        assert str(caught.value) == said + gone
        assert is_held(tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / ".lock").is_file()
    assert not is_held(tmp_path)
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.few(1)
def test_a_killed_process_leaves_its_lock_to_one_of_many(tmp_path, kind):
    process, _ = child("lock.acquire(); print(flush=True); time.sleep(60)", tmp_path, kind)
    process.kill()
    process.communicate()
    code = "print(lock.acquire(), flush=True); time.sleep(60)"
    others = [child(code, tmp_path, kind) for _ in range(2)]
    assert sorted(line for _, line in others) == ["False\n", "True\n"]
    for other, _ in others:
        other.kill()
        other.communicate()


def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_process(tmp_path, kind):
    code = "lock.acquire()\npid = os.fork()\nif pid: print(pid, flush=True)\ntime.sleep(60)"
    process, line = child(code, tmp_path, kind)
    worker = int(line)
    try:
        assert is_held(tmp_path)
        process.kill()
        process.wait()
        deadline = time.time() + 10  # it may not have been given the processor yet
        while is_held(tmp_path):
            assert time.time() < deadline
            time.sleep(0.05)
        os.kill(worker, 0)  # is alive
    finally:
        os.kill(worker, signal.SIGKILL)
        process.communicate()


def test_a_forked_child_gives_nothing_back_and_its_end_is_not_that_of_the_lock(tmp_path, kind):
    code = "lock.acquire()\npid = os.fork()\nif pid == 0: lock.release(); os._exit(lock.acquire())\n"
    code += "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True); time.sleep(60)"
    process, line = child(code, tmp_path, kind)
    try:
        assert line == "0\n"  # which could not have it
        assert is_held(tmp_path)
        assert holder(tmp_path / ".lock") == f"process {process.pid} on {platform.node()}"
    finally:
        process.kill()
        process.communicate()


def test_a_lock_is_seen_by_its_own_process_and_given_back(tmp_path, kind):
    with FolderLock(tmp_path) as lock:
        assert is_held(tmp_path)
        assert lock.acquire()  # has it already
        assert not FolderLock(tmp_path).acquire()
        assert holder(tmp_path / ".lock") == f"process {os.getpid()} on {platform.node()}"
    assert not is_held(tmp_path)
    assert not list(tmp_path.iterdir())
    lock.release()  # once more does no harm
    assert lock.acquire()
    lock.release()


def test_who_probes_a_lock_for_an_instant_does_not_keep_it_from_a_run(tmp_path):
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_held(tmp_path)  # two may look at once
        timer = threading.Timer(0.2, fcntl.flock, (file, fcntl.LOCK_UN))
        timer.start()
        lock = FolderLock(tmp_path)
        assert lock.acquire()
        timer.join()
        lock.release()


def test_a_lock_on_a_folder_made_anew_is_that_of_the_new_one(tmp_path, kind):
    old = FolderLock(tmp_path)
    assert old.acquire()
    threading.Timer(0.2, lambda: ((tmp_path / ".lock").unlink(), old.release())).start()
    new = FolderLock(tmp_path)
    assert new.acquire()
    assert is_held(tmp_path)
    new.release()


def test_a_lock_whose_folder_has_gone_or_is_another_process_s_by_now_is_given_back_without_a_word(tmp_path, kind):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    assert lock.acquire()
    (folder / ".lock").unlink()
    process, line = child("print(lock.acquire(), flush=True); time.sleep(60)", folder, kind)
    try:
        lock.release()
        assert line == "True\n"
        assert is_held(folder)
    finally:
        process.kill()
        process.communicate()
    assert lock.acquire()
    (folder / ".lock").unlink()
    folder.rmdir()
    lock.release()


def test_a_lock_of_another_host_is_told_where_nobody_can_know_whether_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", without_locks("ENOTSUP"))
    (tmp_path / ".lock").write_text("123\nelsewhere\n")
    assert probe(tmp_path) is True
    with pytest.raises(BusyError, match=r"process 123 on elsewhere is using it.*; if it is gone, remove .*/\.lock"):
        FolderLock(tmp_path).__enter__()


def test_whether_a_file_system_has_locks_is_tried_and_leaves_nothing(tmp_path, kind):
    assert has_locks(tmp_path) is (kind == "locks")
    assert not list(tmp_path.iterdir())
    if kind != "locks":
        with pytest.raises(OSError, match=os.strerror(getattr(errno, kind))):
            fcntl.flock(0, fcntl.LOCK_EX)


def test_who_waits_says_for_whom_and_gets_it_at_last(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rlexp.run.lock.SILENCE", 0.5)
    process, _ = child("lock.acquire(); print(1, flush=True); time.sleep(2.5)", tmp_path)
    lock = FolderLock(tmp_path)
    lock.wait()
    told = capsys.readouterr().out
    assert told == f"waiting for process {process.pid} on {platform.node()}, which is using {tmp_path}\n"
    lock.release()
    process.communicate()
