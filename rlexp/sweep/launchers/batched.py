"""Hyperparameters side by side: jobs that differ only in what each agent may have of its own, trained as one."""

import contextlib
import itertools
import json
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.types import HydraContext, TaskFunction
from omegaconf import OmegaConf

from rlexp.config.checks import init_parts
from rlexp.config.identity import flatten, typed_config
from rlexp.errors import CheckpointError, DivergedError
from rlexp.jobs.extend_from import find_extended, is_extending
from rlexp.run.lock import FolderLock
from rlexp.sweep.launchers import joblib
from rlexp.sweep.launchers.base import JobLauncher, Result, execute, require_whole, share_out
from rlexp.sweep.plan import Planned

log = logging.getLogger(__name__)

OF_AN_AGENT = ("seed", "num_seeds", "optimizer.lr", "gae.gamma", "gae.lam")  # and the algorithm's scheduled settings
DIED = "how often the process died"
STEP = "the step that they have come to"
OF_THE_PLACE = ("study", "outputs", "resume", "retry_failed")


class Batched(JobLauncher):
    """Trains jobs whose configs differ in seeds and scalar hyperparameters as one batch of agents.

    Each leaves the folder that it would have left alone.

    Args:
        max_agents: of one batch; more jobs make further batches.
        n_jobs: processes, each of which trains a batch at a time, with its share of the cores; 1: this process does.
    """

    needs_equal_steps = True  # jobs that stand at different steps do not share a batch

    def __init__(self, max_agents: int = 256, n_jobs: int = 1) -> None:
        self.max_agents = require_whole("max_agents", max_agents, least=1)
        self.n_jobs = require_whole("n_jobs", n_jobs)
        self.needs = None if self.n_jobs == 1 else joblib.Joblib.needs

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs, batch by batch."""
        here = self.n_jobs == 1
        processes = 1 if here else joblib.processes_of(self.n_jobs)
        agents = sum(len(job.job.seeds) for job in jobs)
        batches = split(jobs, min(self.max_agents, math.ceil(agents / processes)))
        print(explain(batches), flush=True)
        run = partial(run_batch, self.hydra_context, self.task_function, self.max_agents)
        results: dict[Path, Result] = {}
        for own in map(run, batches) if here else self._in_pool(run, batches, min(processes, len(batches))):
            results |= own or {}
        return [results.get(job.job.folder) for job in jobs]

    def _in_pool(self, run: Callable[..., Any], batches: list[list[Planned]], processes: int) -> list[Any]:
        jobs = [job for batch in batches for job in batch]
        place = itertools.count(1)

        def ended(index: int, own: dict[Path, Result]) -> None:
            for job in batches[index]:
                self.ended(job, next(place), len(jobs), own.get(job.job.folder))

        threads = share_out(joblib.cores(), processes, None, jobs)
        return joblib.run_in_pool(run, batches, jobs[0].config, processes, threads, ended)


def run_batch(
    context: HydraContext, task_function: TaskFunction, max_agents: int, batch: Sequence[Planned]
) -> dict[Path, Result]:
    """Train a batch, and one by one those of its jobs that must be; returns what came of the latter."""
    if len(batch) == 1:
        return {batch[0].job.folder: execute(context, task_function, batch[0].config)}
    results: dict[Path, Result] = {}
    for part in _train(batch, max_agents):
        results |= run_batch(context, task_function, max_agents, part)
    return results


def _train(batch: Sequence[Planned], max_agents: int) -> list[list[Planned]]:
    """Train a batch; returns what has to be run again, and with whom."""
    from rlexp.execute import console, should_resume, train  # which imports this module, to register it

    with contextlib.ExitStack() as stack:
        held = [job for job in batch if _locked(job, stack) and job.is_left(retry_failed=True, mine=True)]
        stack.enter_context(console())
        try:
            if held:
                resume = [should_resume(job.job) for job in held]
                train([job.job for job in held], resume=all(resume))
            return []
        except DivergedError as error:
            log.warning("%s", error)
            return split([job for job in held if job.job.folder not in error.runs], max_agents)
        except Exception as error:  # of whichever job it is: alone each tells for itself
            log.warning("the batch stopped (%s: %s); its jobs run one by one", type(error).__name__, error)
            return [[job] for job in held]


def _locked(job: Planned, stack: contextlib.ExitStack) -> bool:
    """Take a job's folder for as long as the stack lasts; whether it could be had."""
    job.job.folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(job.job.folder)
    if lock.acquire():
        stack.callback(lock.release)
        return True
    return False


# Which jobs share a batch --------------------------------------------------------------------------------------------


def split(jobs: Sequence[Planned], max_agents: int) -> list[list[Planned]]:
    """Jobs that can be trained side by side, together; at most so many agents in one batch, unless one job has more.

    One whose process died twice is alone: it may be the one that drags its neighbours along.
    """
    groups: dict[str, list[Planned]] = {}
    for job in jobs:
        key = json.dumps(_alike(job), sort_keys=True, default=str)
        groups.setdefault(key, []).append(job)
    batches = []
    for group in groups.values():
        batch: list[Planned] = []
        for job in group:
            if batch and sum(len(other.job.seeds) for other in (*batch, job)) > max_agents:
                batches.append(batch)
                batch = []
            batch.append(job)
        batches.append(batch)
    return batches


def common_settings(job: Planned) -> dict[str, Any]:
    """What all jobs of a batch must have alike, as dotted keys."""
    from rlexp import build  # torch, which --help need not wait for

    algo = build.build_algorithm(job.job.cfg)
    own = {*OF_AN_AGENT, *(f"algo.{name}" for name in algo.scheduled())}
    if not build.supports_agent_lrs(job.job.cfg):
        own.remove("optimizer.lr")
    settings = flatten(typed_config(cast(dict[str, Any], OmegaConf.to_container(job.job.cfg, resolve=True))))
    settings |= {f"algo.{name}": value for name, value in algo.shared().items()}  # with what it makes of its settings
    if "optimizer" not in init_parts(job.job.cfg):  # which may have made another number of steps elsewhere
        settings["init_from"] = settings.get("init_from") is not None
    return {key: value for key, value in settings.items() if key not in (*own, *OF_THE_PLACE)}


def _alike(job: Planned) -> dict[str, Any]:
    """What jobs of a batch must have alike: settings, and where they stand."""
    apart = {DIED: job.name} if job.deaths_before() else {}
    return common_settings(job) | {STEP: _update_of(job)} | apart


def _update_of(job: Planned) -> int:
    """At which update the job's checkpoint stands; 0: it starts anew."""
    from rlexp.run import checkpoint  # torch, which --help need not wait for

    path = job.job.folder / "checkpoint.pt"
    if not path.is_file() and is_extending(job.job.cfg):
        path = find_extended(job.job.cfg, job.job.settings).checkpoint_path
    if not path.is_file():
        return 0
    try:
        return int(checkpoint.load(path)["trainer"]["update_number"])
    except CheckpointError:
        return -1 - zlib.crc32(str(path).encode())  # by itself, where it is told


def explain(batches: Sequence[Sequence[Planned]]) -> str:
    """Which jobs share a batch, in what they differ there, and why others are apart."""
    lines = []
    for batch in batches:
        agents = sum(len(job.job.seeds) for job in batch)
        varied = _differing([flatten(job.job.settings) for job in batch])
        what = f": {', '.join(varied)} differ" if varied else ""
        lines.append(
            f"{len(batch)} jobs ({agents} agents) side by side{what}" if len(batch) > 1 else f"alone: {batch[0].name}"
        )
    if len(batches) > 1:
        each = [_alike(batch[0]) for batch in batches]
        apart = [key for key in _differing(each) if all(key in own for own in each) or key == DIED]
        full = f"no more than {max(sum(len(job.job.seeds) for job in batch) for batch in batches)} agents in one"
        why = f"{', '.join(apart)} must be the same within one" if apart else f"{full} (max_agents, n_jobs)"
        lines.append(f"{len(batches)} batches: {why}")
        lines += _could_be_scheduled(batches[0][0], apart)
    return "\n".join(lines)


def _could_be_scheduled(job: Planned, apart: Sequence[str]) -> list[str]:
    """What an author may do for jobs that differ in a coefficient of theirs to share a batch."""
    target = str(job.job.cfg.algo.get("_target_"))
    settings = flatten(job.job.settings)
    plain = [key for key in apart if key.startswith("algo.") and type(settings.get(key)) is float]
    if not plain or target.startswith("rlexp."):
        return []
    names = ", ".join(plain)
    what = f"{names} {'is a plain number' if len(plain) == 1 else 'are plain numbers'} of {target}"
    return [f"{what}: annotated as rlexp.algos.schedules.Scheduled, jobs that differ there share a batch"]


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    keys = sorted({key for own in settings for key in own})
    return [key for key in keys if len({repr(own.get(key)) for own in settings}) > 1]
