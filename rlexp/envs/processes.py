"""Environments in subprocesses that end with the run, and whose errors are reported."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from rlexp.envs.checks import Checked
from rlexp.signals import STOPPING

PATIENCE = 5.0  # seconds for subprocesses to close their environments
DYING = 2.0  # seconds within which a dead subprocess has an exit code


def _work(index: int, make: Callable[[], gym.Env[Any, Any]], *rest: Any) -> None:
    """Worker loop of a subprocess: ignores the signals that stop the run, and exits when the run does."""
    for signum in STOPPING:  # terminals and schedulers send them to all processes of a run
        signal.signal(signum, signal.SIG_IGN)
    run = multiprocessing.parent_process()

    def follow() -> None:
        if run is not None:
            run.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    # checked, which makes any error text and is cheap compared with inter-process communication
    _async_worker(index, lambda: Checked(make()), *rest)


class ProcessVectorEnv(AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv with reliable shutdown and error reports; `makers` make the environments."""

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        self._alive(super().__init__, makers, worker=_work, autoreset_mode=AutoresetMode.NEXT_STEP)

    def reset(self, **kwargs: Any) -> Any:
        """Start new episodes."""
        return self._alive(super().reset, **kwargs)

    def step(self, actions: Any) -> Any:
        """One step of all environments."""
        return self._alive(super().step, actions)

    def _alive(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call; if a subprocess died, raise an error with the exit codes of those that did."""
        try:
            return function(*args, **kwargs)
        except (EOFError, ConnectionError, queue.Empty) as error:
            deadline = time.monotonic() + DYING
            while not (dead := [p for p in self.processes if p.exitcode is not None]) and time.monotonic() < deadline:
                time.sleep(0.01)
            codes = ", ".join(f"{process.name} exited with {process.exitcode}" for process in dead)
            raise RuntimeError(f"an environment subprocess died ({codes or 'for unknown reasons'})") from error

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the first error of an environment, with its traceback as a note."""
        if all(successes):
            return
        *_, raised, trace = self._alive(self.error_queue.get, timeout=PATIENCE)
        self._state = AsyncState.DEFAULT
        raised.add_note(f"In the environment's subprocess:\n{trace}")
        raise raised

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments if their subprocesses are idle and respond in time; end all subprocesses."""
        deadline = time.monotonic() + (PATIENCE if timeout is None else timeout)
        pipes = [pipe for pipe in self.parent_pipes if pipe is not None and not pipe.closed]
        if self._state == AsyncState.DEFAULT and not terminate:
            for pipe in pipes:
                with contextlib.suppress(EOFError, OSError):  # already dead
                    pipe.send(("close", None))
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        for process in self.processes:
            if process.is_alive():
                process.kill()
        for pipe in pipes:
            pipe.close()
        for process in self.processes:
            process.join()
