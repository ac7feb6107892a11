"""What runs on the machines of a Ray cluster: a job, and the keeper of jobs whose sweep has left."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlexp.errors import UserError
from rlexp.sweep.launchers.base import Result, execute, note
from rlexp.sweep.launchers.worker import WorkerSignal, prepare, stop_on_file
from rlexp.sweep.plan import Planned

NAMESPACE = "rlexp"  # of keepers' names on the cluster


def on_worker(
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    folder: str,
    threads: int,
    stop: Path,
    kept: bool = False,
) -> JobReturn | None:
    """Run one job in a Ray worker, possibly on another machine; None if it was stopped.

    kept: the sweep has left; the file `stop` alone stops the job. Otherwise Ray interrupts it, always with SIGINT, and
    the file holds the sweep's signal.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch is not imported yet, except by earlier jobs of this sweep
    os.chdir(folder)
    if kept and stop.exists():
        return None
    prepare(config)
    stopping = stop_on_file(stop) if kept else WorkerSignal(stop)
    with contextlib.suppress(SystemExit, KeyboardInterrupt), stopping:
        return execute(context, task_function, config)
    return None


def result_of(ray: Any, call: Any) -> Result:
    """Result of a job that has ended, None if it was stopped, or Ray's exception if its process or machine died."""
    try:
        return ray.get(call)
    except ray.exceptions.TaskCancelledError:
        return None
    except ray.exceptions.RayError as error:
        return error


class Keeper:
    """Owner of the jobs of a sweep that has left: a detached actor, which ends with the last of them.

    Ray ends a task with the process that submitted it, also if the task still waits for a core. So it is the keeper, on
    the cluster, that submits the jobs.
    """

    def __init__(self, folder: str) -> None:
        os.chdir(folder)

    def start(
        self,
        jobs: Sequence[Planned],
        context: HydraContext,
        task_function: TaskFunction,
        resources: dict[str, Any],
        threads: int,
        stop: Path,
    ) -> None:
        """Submit the jobs; the caller may leave once this returns."""
        import ray

        self.jobs, self.stop = jobs, stop
        remote: Any = ray.remote(on_worker).options(**resources)
        shared = ray.put(context)
        folder = os.getcwd()
        self.calls = {
            remote.remote(shared, task_function, job.config, folder, threads, stop, True): index
            for index, job in enumerate(jobs)
        }
        self.pending = list(self.calls)
        ray.get_runtime_context().current_actor.watch.remote()

    def indices_left(self) -> list[int]:
        """Places of the jobs that have not ended."""
        return [self.calls[call] for call in self.pending]

    def watch(self) -> None:
        """Record jobs whose process died, until all have ended; then exit."""
        import ray

        while self.pending:
            ended, pending = ray.wait(self.pending, timeout=1.0)
            for call in ended:
                with contextlib.suppress(OSError, UserError):  # the others go on
                    note(self.jobs[self.calls[call]], result_of(ray, call), alone=True)
            self.pending = pending
        self.stop.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other keepers' files are there
            self.stop.parent.rmdir()
        ray.actor.exit_actor()
