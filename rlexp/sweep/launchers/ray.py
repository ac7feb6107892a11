"""The Ray launcher: runs jobs on this machine, or on a cluster by its address."""

import contextlib
import os
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rlexp.errors import ConfigError
from rlexp.run.queued import Queued
from rlexp.sweep.launchers.base import JobLauncher, Result, require_flag, require_whole
from rlexp.sweep.launchers.keeper import NAMESPACE, Keeper, on_worker, result_of
from rlexp.sweep.launchers.worker import stoppable
from rlexp.sweep.plan import Planned
from rlexp.sweep.queue import NotSubmittedError, leave, told
from rlexp.text import one_line

ANSWER = 30.0  # seconds for a keeper to answer
ID = re.compile(r"rlexp-[0-9a-f]{8}_[0-9]{1,9}")  # a keeper's name, and the job's place


class Ray(JobLauncher):
    """Runs jobs on a Ray cluster, whose machines share the file system. The settings: conf/hydra/launcher/ray.yaml.

    A job whose machine is lost resumes from its checkpoint on another.
    """

    needs = ("ray", "ray")

    def __init__(
        self,
        address: str | None = None,
        wait: bool = True,
        cpus_per_job: int = 1,
        gpus_per_job: float = 0,
        max_retries: int = 1,
    ) -> None:
        self.address, self.wait = address, require_flag("wait", wait)
        if not wait and address in (None, "", "local"):
            raise ConfigError(
                "hydra.launcher.wait=false: without hydra.launcher.address the Ray cluster ends with this command: "
                "start one with ray start --head, and add hydra.launcher.address=auto"
            )
        self.cpus_per_job = require_whole("cpus_per_job", cpus_per_job, least=1)
        require_whole("max_retries", max_retries, least=-1)
        self.resources = {"num_cpus": cpus_per_job, "num_gpus": gpus_per_job, "max_retries": max_retries}

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs, or with wait=false leave them on the cluster."""
        with self._connected() as ray:
            if self.wait:
                return self.collect(jobs, self._run(ray, jobs))
            self._leave(ray, jobs)
            return [None] * len(jobs)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """While entered, this process is a driver of the cluster."""
        import ray

        settings: dict[str, Any] = {"address": self.address, "log_to_driver": False, "logging_level": "error"}
        if not self.address:
            settings |= {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
        try:
            ray.init(**settings)
        except ConnectionError as error:
            what = f"hydra.launcher.address={self.address}: cannot connect to a Ray cluster"
            token = "; it wants a token: RAY_AUTH_MODE=token" if "AuthToken" in str(error.__cause__) else ""
            raise ConfigError(f"{what}: {one_line(str(error))}{token}") from None
        try:
            yield ray
        finally:
            ray.shutdown()

    def _leave(self, ray: Any, jobs: Sequence[Planned]) -> None:
        """Leave the jobs to a keeper on the cluster."""
        name = f"rlexp-{uuid.uuid4().hex[:8]}"
        stop = (jobs[0].study / ".ray" / f"{name}.stop").absolute()

        def submit(mine: Sequence[Planned]) -> list[str]:
            stop.parent.mkdir(parents=True, exist_ok=True)
            options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
            keeper = ray.remote(Keeper).options(**options, max_concurrency=2).remote(os.getcwd())
            kept = (self.hydra_context, self.task_function, self.resources, self.cpus_per_job, stop)
            try:
                ray.get(keeper.start.remote(list(mine), *kept))
            except BaseException as error:
                ray.kill(keeper)  # and with it the jobs
                if isinstance(error, Exception):
                    raise NotSubmittedError(f"hydra/launcher: could not start any job ({one_line(error)})") from error
                raise
            return [f"{name}_{index}" for index in range(len(mine))]

        here = ray.get_runtime_context().gcs_address
        mine = leave("ray", jobs, submit, lambda index: f"{name}_{index}", controller=here)
        if mine:
            where = f"{len(mine)} jobs are on the Ray cluster {here}, kept by {name}"
            print(told(where, mine, "", f"touch {os.path.relpath(stop)}"), flush=True)

    def still_queued(self, marks: Collection[Queued]) -> Mapping[Queued, bool]:
        """Whether the cluster still has each job; without those of other clusters, or where it does not answer."""
        if not self.address:
            return {}
        found: dict[Queued, bool] = {}
        with contextlib.suppress(ConfigError), self._connected() as ray:
            here = ray.get_runtime_context().gcs_address
            own = [mark for mark in marks if mark.queue == "ray" and mark.controller == here and ID.fullmatch(mark.id)]
            for name in {mark.id.rpartition("_")[0] for mark in own}:
                left = _indices_left(ray, name)
                if left is not None:
                    kept = [mark for mark in own if mark.id.rpartition("_")[0] == name]
                    found |= {mark: int(mark.id.rpartition("_")[2]) in left for mark in kept}
        return found

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
                    yield from ((calls[call], result_of(ray, call)) for call in ended)


def _indices_left(ray: Any, name: str) -> list[int] | None:
    """Places of a keeper's jobs that have not ended; none if it is gone, and its jobs with it. None if unknown."""
    try:
        return list(ray.get(ray.get_actor(name, namespace=NAMESPACE).indices_left.remote(), timeout=ANSWER))
    except (ValueError, ray.exceptions.ActorDiedError):
        return []
    except (TimeoutError, ray.exceptions.RayError):  # of another moment perhaps: a machine cannot be reached
        return None
