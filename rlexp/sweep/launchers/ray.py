"""The Ray launcher: runs jobs on this machine, or on a cluster by its address."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlexp.errors import ConfigError
from rlexp.sweep.launchers.base import JobLauncher, Result, execute, require_whole
from rlexp.sweep.launchers.worker import WorkerSignal, prepare, stoppable
from rlexp.sweep.plan import Planned
from rlexp.text import one_line


def on_worker(
    context: HydraContext, task_function: TaskFunction, config: DictConfig, folder: str, threads: int, stop: Path
) -> JobReturn | None:
    """Run one job in a Ray worker, possibly on another machine; None if it was stopped."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch is not imported yet, except by earlier jobs of this sweep
    os.chdir(folder)
    prepare(config)
    # WorkerSignal: Ray interrupts jobs with SIGINT only, whatever stopped the sweep
    with contextlib.suppress(SystemExit, KeyboardInterrupt), WorkerSignal(stop):
        return execute(context, task_function, config)
    return None


class Ray(JobLauncher):
    """Runs jobs on a Ray cluster, whose machines share the file system. The settings: conf/hydra/launcher/ray.yaml.

    A job whose machine is lost resumes from its checkpoint on another.
    """

    needs = ("ray", "ray")

    def __init__(
        self, address: str | None = None, cpus_per_job: int = 1, gpus_per_job: float = 0, max_retries: int = 1
    ) -> None:
        self.address = address
        self.cpus_per_job = require_whole("cpus_per_job", cpus_per_job, least=1)
        require_whole("max_retries", max_retries, least=-1)
        self.resources = {"num_cpus": cpus_per_job, "num_gpus": gpus_per_job, "max_retries": max_retries}

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs."""
        import ray

        settings: dict[str, Any] = {"address": self.address, "log_to_driver": False, "logging_level": "error"}
        if not self.address:
            settings |= {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
        try:
            ray.init(**settings)
        except ConnectionError as error:
            what = f"hydra.launcher.address={self.address}: cannot connect to a Ray cluster"
            raise ConfigError(f"{what}: {one_line(str(error))}") from None
        try:
            return self.collect(jobs, self._run(ray, jobs))
        finally:
            ray.shutdown()

    def _run(self, ray: Any, jobs: Sequence[Planned]) -> Iterator[tuple[int, Result]]:
        remote = ray.remote(on_worker).options(**self.resources)
        context = ray.put(self.hydra_context)
        shared = jobs[0].folder.parent.absolute()
        shared.mkdir(parents=True, exist_ok=True)
        with stoppable(shared) as stop:
            calls = {
                remote.remote(context, self.task_function, job.config, os.getcwd(), self.cpus_per_job, stop.path): index
                for index, job in enumerate(jobs)
            }
            pending, cancelled = list(calls), False
            while pending:
                ended, pending = ray.wait(pending, timeout=1.0)
                if stop.received is not None and not cancelled:
                    cancelled = True
                    for call in pending:  # interrupts running jobs, which save themselves
                        ray.cancel(call)
                if not cancelled:
                    yield from ((calls[call], _result_of(ray, call)) for call in ended)


def _result_of(ray: Any, call: Any) -> Result:
    try:
        return ray.get(call)
    except ray.exceptions.TaskCancelledError:
        return None
    except ray.exceptions.RayError as error:  # its process or machine died
        return error
