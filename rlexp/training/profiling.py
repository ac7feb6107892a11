"""profile=true: a trace of a few of the run's updates, and a table of where their time goes."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from rlexp.files import storage_errors, write_atomically
from rlexp.training.acting import Slot
from rlexp.training.timing import ACTING, ENVIRONMENT, UPDATE, WITH_ENVIRONMENT
from rlexp.training.trainer import Trainer

log = logging.getLogger(__name__)

WARM_UP = 5  # updates before the trace: graphs are compiled in the second and verified until the fifth
UPDATES = 3
ROWS = 60  # of the table
ADVANTAGES, OBSERVE = "advantages", "observe"
LABELS = (ENVIRONMENT, ACTING, WITH_ENVIRONMENT, ADVANTAGES, OBSERVE, UPDATE)  # in the trace and the table


class Profiled:
    """Makes one update per call; after a warm-up, one call makes and traces several and logs where the trace is.

    Args:
        trainer: makes the updates.
        folder: of the run.
    """

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder / "profile"
        self.before: int | None = None  # updates left before the trace; negative: it is done

    def __call__(self) -> None:
        """Make an update."""
        if self.before is None:
            self.before = self._updates_before()
        if self.before == 0:
            self._trace()
        else:
            self.trainer.iterate()
        self.before -= 1

    def _updates_before(self) -> int:
        left = int(min(self.trainer.num_updates, self.trainer.pause_at)) - self.trainer.update_number
        if left >= WARM_UP + UPDATES:
            return WARM_UP
        log.info("profile=true: %d updates left, needs %d; nothing is traced", left, WARM_UP + UPDATES)
        return -1

    def _trace(self) -> None:
        trainer, stop = self.trainer, self.trainer.watch.stop
        activities = [ProfilerActivity.CPU]
        if trainer.learner.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        made = 0
        trace = profile(activities=activities)
        with _labelled(trainer):
            with _silent():
                trace.start()
            try:
                for _ in range(UPDATES):
                    if stop is None or stop.received is None:
                        trainer.iterate()
                        made += 1
            finally:
                with _silent():
                    trace.stop()
        if not made:
            return
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "trace.json"
        with storage_errors(path):
            trace.export_chrome_trace(str(path))
        write_atomically(self.folder / "table.txt", _table(trace, made).encode())
        log.info("profile: %d updates in %s (view in ui.perfetto.dev or chrome://tracing) and table.txt", made, path)


def _table(trace: Any, updates: int) -> str:
    """Milliseconds per update by label, then operations."""
    averages = trace.key_averages()
    on_device = any(getattr(row, "self_device_time_total", 0) for row in averages)
    spent = {row.key: row.cpu_time_total / 1e3 / updates for row in averages if row.key in LABELS}
    lines = [f"milliseconds per update on the host, mean of {updates}; slowed down by tracing", ""]
    lines += [f"{label:22} {spent[label]:10.2f}" for label in LABELS if label in spent]
    by = "self_device_time_total" if on_device else "self_cpu_time_total"
    return "\n".join([*lines, "", averages.table(sort_by=by, row_limit=ROWS)])


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence standard error while entered: torch's profiler writes there when it starts and stops."""
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


@contextlib.contextmanager
def _labelled(trainer: Trainer) -> Iterator[None]:
    """Label the parts of an update in a trace while entered."""
    watch, bind = trainer.collector.watch, trainer.learner.acting

    def acting(slots: list[Slot]) -> list[Callable[[], Any]]:
        return [_named(trainer.acting, act) for act in bind(slots)]

    with contextlib.ExitStack() as stack:
        _replace(trainer.learner, "acting", acting, stack)
        for label, owner, name in (
            (ADVANTAGES, trainer, "targets"),
            (OBSERVE, trainer.algo, "observe"),
            (UPDATE, trainer.learner, "update"),
            (ENVIRONMENT, watch, "call"),  # not the environments, whose attributes are part of checkpoints
        ):
            _replace(owner, name, _named(label, getattr(owner, name)), stack)
        yield


def _named(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def named(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return named


def _replace(owner: Any, name: str, new: Any, stack: contextlib.ExitStack) -> None:
    """Set an instance attribute until the stack closes."""
    if name in vars(owner):
        stack.callback(setattr, owner, name, vars(owner)[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, new)
