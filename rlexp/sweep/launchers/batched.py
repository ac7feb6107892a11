"""The batched launcher: trains jobs that differ only in per-agent settings as one batch of agents."""

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
from rlexp.config.identity import differing, flatten, typed_config
from rlexp.errors import CheckpointError, DivergedError
from rlexp.jobs.extend_from import find_extended, is_extending
from rlexp.run.lock import FolderLock
from rlexp.sweep.launchers import joblib
from rlexp.sweep.launchers.base import JobLauncher, Result, execute, require_whole, threads_per_process
from rlexp.sweep.plan import Planned

log = logging.getLogger(__name__)

PER_AGENT = ("seed", "num_seeds", "optimizer.lr", "gae.gamma", "gae.lam")  # and the algorithm's scheduled settings
DEATHS = "the number of process deaths"
UPDATE = "the update reached"
NOT_TRAINING = ("study", "outputs", "resume", "retry_failed")  # settings that do not affect training


class Batched(JobLauncher):
    """Trains jobs that differ only in seeds and scalar hyperparameters as one batch of agents.

    Each job leaves the same folder as if it had run alone.

    Args:
        max_agents: per batch; more agents make further batches.
        n_jobs: processes, each training one batch at a time on its share of the cores; 1: this process.
    """

    needs_equal_steps = True  # jobs at different updates cannot share a batch

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
        for found in map(run, batches) if here else self._in_pool(run, batches, min(processes, len(batches))):
            results |= found or {}
        return [results.get(job.job.folder) for job in jobs]

    def _in_pool(self, run: Callable[..., Any], batches: list[list[Planned]], processes: int) -> list[Any]:
        jobs = [job for batch in batches for job in batch]
        positions = itertools.count(1)

        def on_end(index: int, found: dict[Path, Result]) -> None:
            for job in batches[index]:
                self.print_end(job, next(positions), len(jobs), found.get(job.job.folder))

        threads = threads_per_process(joblib.cores(), processes, None, jobs)
        return joblib.run_in_pool(run, batches, jobs[0].config, processes, threads, on_end)


def run_batch(
    context: HydraContext, task_function: TaskFunction, max_agents: int, batch: Sequence[Planned]
) -> dict[Path, Result]:
    """Train a batch, splitting it where a job fails; returns the results of jobs that ran alone."""
    if len(batch) == 1:
        return {batch[0].job.folder: execute(context, task_function, batch[0].config)}
    results: dict[Path, Result] = {}
    for part in _train(batch, max_agents):
        results |= run_batch(context, task_function, max_agents, part)
    return results


def _train(batch: Sequence[Planned], max_agents: int) -> list[list[Planned]]:
    """Train a batch; returns the batches of jobs that have to be run again."""
    from rlexp.execute import console, should_resume, train  # not at the top: it imports this module

    with contextlib.ExitStack() as stack:
        held = [job for job in batch if _lock(job, stack) and job.is_left(retry_failed=True, locked=True)]
        stack.enter_context(console())
        try:
            if held:
                resume = [should_resume(job.job) for job in held]
                train([job.job for job in held], resume=all(resume))
            return []
        except DivergedError as error:
            log.warning("%s", error)
            return split([job for job in held if job.job.folder not in error.runs], max_agents)
        except Exception as error:  # run alone, the job that caused it fails with its own error
            log.warning("the batch stopped (%s: %s); running its jobs one by one", type(error).__name__, error)
            return [[job] for job in held]


def _lock(job: Planned, stack: contextlib.ExitStack) -> bool:
    """Try to lock the job's folder until the stack closes; returns whether it succeeded."""
    job.job.folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(job.job.folder)
    if lock.acquire():
        stack.callback(lock.release)
        return True
    return False


# Which jobs share a batch --------------------------------------------------------------------------------------------


def split(jobs: Sequence[Planned], max_agents: int) -> list[list[Planned]]:
    """Group jobs that can be trained together into batches of at most `max_agents`, unless a single job has more.

    A job whose process died before runs alone: it may be what kills its batch.
    """
    groups: dict[str, list[Planned]] = {}
    for job in jobs:
        key = json.dumps(batch_key(job), sort_keys=True, default=str)
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
    """Settings that all jobs of a batch share, by dotted key."""
    from rlexp import build  # imports torch, which --help does not need

    algo = build.build_algorithm(job.job.cfg)
    per_agent = {*PER_AGENT, *(f"algo.{name}" for name in algo.scheduled())}
    if not build.supports_agent_lrs(job.job.cfg):
        per_agent.remove("optimizer.lr")
    settings = flatten(typed_config(cast(dict[str, Any], OmegaConf.to_container(job.job.cfg, resolve=True))))
    settings |= {f"algo.{name}": value for name, value in algo.shared().items()}  # includes attributes it derives
    if "optimizer" not in init_parts(job.job.cfg):  # else the optimizers may be at different steps
        settings["init_from"] = settings.get("init_from") is not None
    return {key: value for key, value in settings.items() if key not in (*per_agent, *NOT_TRAINING)}


def batch_key(job: Planned) -> dict[str, Any]:
    """Settings that jobs of one batch share."""
    apart = {DEATHS: job.name} if job.deaths_before() else {}
    return common_settings(job) | {UPDATE: _update_number(job)} | apart


def _update_number(job: Planned) -> int:
    """Number of updates in the job's checkpoint; 0 without one."""
    from rlexp.run import checkpoint  # imports torch, which --help does not need

    path = job.job.folder / "checkpoint.pt"
    if not path.is_file() and is_extending(job.job.cfg):
        path = find_extended(job.job.cfg, job.job.settings).checkpoint_path
    if not path.is_file():
        return 0
    try:
        return int(checkpoint.load(path)["trainer"]["update_number"])
    except CheckpointError:
        return -1 - zlib.crc32(str(path).encode())  # unique: it runs alone, where the error is reported


def explain(batches: Sequence[Sequence[Planned]]) -> str:
    """Describe which jobs share a batch, in what they differ, and why there are several batches."""
    lines = []
    for batch in batches:
        agents = sum(len(job.job.seeds) for job in batch)
        varied = differing([flatten(job.job.settings) for job in batch])
        what = f": {', '.join(varied)} differ" if varied else ""
        lines.append(
            f"{len(batch)} jobs ({agents} agents) side by side{what}" if len(batch) > 1 else f"alone: {batch[0].name}"
        )
    if len(batches) > 1:
        keys = [batch_key(batch[0]) for batch in batches]
        apart = [name for name in differing(keys) if all(name in key for key in keys) or name == DEATHS]
        full = f"at most {max(sum(len(job.job.seeds) for job in batch) for batch in batches)} agents in one"
        why = f"{', '.join(apart)} must be the same within one" if apart else f"{full} (max_agents, n_jobs)"
        lines.append(f"{len(batches)} batches: {why}")
        lines += _suggest_scheduled(batches[0][0], apart)
    return "\n".join(lines)


def _suggest_scheduled(job: Planned, apart: Sequence[str]) -> list[str]:
    """How the author of a user's algorithm can let jobs that differ in its coefficients share a batch."""
    target = str(job.job.cfg.algo.get("_target_"))
    settings = flatten(job.job.settings)
    plain = [key for key in apart if key.startswith("algo.") and type(settings.get(key)) is float]
    if not plain or target.startswith("rlexp."):
        return []
    names = ", ".join(plain)
    what = f"{names} {'is a plain number' if len(plain) == 1 else 'are plain numbers'} of {target}"
    return [f"{what}: annotate as rlexp.algos.schedules.Scheduled to let jobs that differ there share a batch"]
