"""What is printed while a run trains."""

import math
import time

from rlexp.run.progress import ProgressDisplay


def test_the_time_left_does_not_count_the_updates_in_which_graphs_are_compiled(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = ProgressDisplay("lines").start(1000, 400)
    with caplog.at_level("INFO", "rlexp"), display:
        for step, seconds, score in ((410, 40, math.nan), (420, 80, 1.5), (430, 80.5, 2), (520, 90, 3)):
            now[0] = seconds
            display.update(step, 10.0, score)
    assert [line.getMessage() for line in caplog.records] == [
        "410/1000 steps, 10 steps/s, return -",
        "420/1000 steps, 10 steps/s, return 1.5",
        "520/1000 steps, 10 steps/s, return 3.0, 48 s left",  # 100 steps in 10 s; 480 to go
    ]
