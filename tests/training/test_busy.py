"""A run that gets less of the processor than its threads ask for says so, once; one that gets it is silent."""

import itertools
import logging
import os
import threading
import time

import numpy as np
import pytest
from helpers import train

from rlexp.training import busy
from rlexp.training.busy import ProcessorShare, thread_times


@pytest.fixture
def shares(monkeypatch, caplog):
    """Of threads that ran and waited for so many nanoseconds, what is said: shares(threads, looks) -> lines."""
    caplog.set_level(logging.INFO, logger="rlexp")
    now = [0.0]
    monkeypatch.setattr(busy.time, "monotonic", lambda: now[0])

    def after(threads, looks):
        seen = iter([{}, *looks])
        monkeypatch.setattr(busy, "thread_times", lambda: next(seen))
        watch = ProcessorShare(threads)
        watch.before = {"1": (0, 0), "2": (0, 0)}
        for _ in looks:
            now[0] += busy.EVERY
            watch.check()
        return [record.getMessage() for record in caplog.records]

    return after


def test_threads_that_wait_are_told_once_with_the_way_out(shares):
    said = shares(2, [{"1": (60, 40), "2": (60, 40)}, {"1": (70, 90), "2": (70, 90)}])
    assert len(said) == 1
    assert "this run gets 60 % of the CPU time that its 2 threads request; torch_threads=1" in said[0]


def test_threads_that_need_not_wait_are_not_told_nor_one_that_is_alone(shares):
    assert shares(2, [{"1": (80, 20), "2": (80, 20)}]) == []  # four fifths
    assert shares(2, [{"1": (10, 0)}]) == []  # the other sleeps, or has ended
    assert shares(1, []) == []


def test_looks_are_some_seconds_apart(shares, monkeypatch):
    watch = ProcessorShare(2)
    monkeypatch.setattr(busy, "thread_times", lambda: pytest.fail("too soon"))
    watch.check()


def test_a_run_looks_and_says_so_once(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="rlexp")
    monkeypatch.setattr(busy, "EVERY", 0.0)
    clock = itertools.count(1)
    monkeypatch.setattr(busy, "thread_times", lambda: {"1": (60 * next(clock), 40 * next(clock))})
    train(tmp_path, "total_steps=320", "env.num_envs=2", "algo.rollout_steps=32", "torch_threads=2")
    assert sum("the machine is busy" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.skipif(not thread_times(), reason="threads' times cannot be read on this system")
def test_the_kernel_tells_who_waits():
    cores = os.cpu_count()
    began, before = time.monotonic(), thread_times()

    def work():
        x = np.ones((200, 200))
        while time.monotonic() - began < 1.0:
            x @ x  # without the interpreter's lock

    threads = [threading.Thread(target=work) for _ in range(3 * cores)]
    for thread in threads:
        thread.start()
    time.sleep(0.9)
    after = thread_times()
    for thread in threads:
        thread.join()
    new = [after[key] for key in after if key not in before]
    assert sum(waited for _, waited in new) > sum(ran for ran, _ in new)  # three for each core: two of them wait
