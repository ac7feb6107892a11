"""The batched launcher: trains jobs that differ only in per-agent settings as one batch of agents."""

import contextlib
import json
import logging
import math
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.types import HydraContext, TaskFunction
from omegaconf import OmegaConf

from rlexp.config.checks import init_parts
from rlexp.config.identity import differing, flatten, typed_config
from rlexp.errors import CheckpointError, DivergedError
from rlexp.execute import should_resume, train_jobs
from rlexp.jobs.extend_from import find_extended, is_extending
from rlexp.jobs.log import console
from rlexp.run.lock import FolderLock
from rlexp.sweep.launchers import joblib
from rlexp.sweep.launchers.base import JobLauncher, Result, execute, require_whole, threads_per_process
from rlexp.sweep.plan import Planned

log = logging.getLogger(__name__)

PER_AGENT = ("seed", "num_seeds", "optimizer.lr", "gae.gamma", "gae.lam")  # and the algorithm's scheduled settings
DEATHS = "the number of process deaths"
UPDATE = "the update reached"
NOT_TRAINING = ("study", "outputs", "resume", "retry_failed", "primary", "margin")  # do not affect training


class Batched(JobLauncher):
    """Trains jobs that differ only in seeds and scalar hyperparameters as one batch of agents.

    Each job leaves the same folder as if it had run alone. The settings: conf/hydra/launcher/batched.yaml.
    """

    needs_equal_steps = True  # jobs at different updates cannot share a batch

    def __init__(self, max_agents: int = 256, n_jobs: int = 1) -> None:
        self.max_agents = require_whole("max_agents", max_agents, least=1)
        self.n_jobs = require_whole("n_jobs", n_jobs)
        self.needs = None if self.n_jobs == 1 else joblib.Joblib.needs

    def launch_jobs(self, jobs: Sequence[Planned]) -> Sequence[Result]:
        """Run all jobs, batch by batch."""
        processes = 1 if self.n_jobs == 1 else joblib.processes_of(self.n_jobs)
        agents = sum(len(job.seeds) for job in jobs)
        batches = split(jobs, min(self.max_agents, math.ceil(agents / processes)))
        print(explain(batches), flush=True)
        run = partial(run_batch, self.hydra_context, self.task_function, self.max_agents)
        if self.n_jobs == 1:
            results: dict[Path, Result] = {}
            for batch in batches:
                results |= run(batch)
            return [results.get(job.folder) for job in jobs]
        index = {job.folder: place for place, job in enumerate(jobs)}
        processes = min(processes, len(batches))
        threads = threads_per_process(joblib.cores(), processes, None, jobs)
        found = joblib.run_in_pool(run, batches, jobs[0].config, processes, threads)
        ended = ((job.folder, done) for batch, done in found for job in batches[batch])
        return self.collect(jobs, ((index[folder], done.get(folder)) for folder, done in ended))


def run_batch(
    context: HydraContext, task_function: TaskFunction, max_agents: int, batch: Sequence[Planned]
) -> dict[Path, Result]:
    """Train a batch, splitting it where a job fails; returns the results of jobs that ran alone."""
    if len(batch) == 1:
        return {batch[0].folder: execute(context, task_function, batch[0].config)}
    results: dict[Path, Result] = {}
    for part in _train(batch, max_agents):
        results |= run_batch(context, task_function, max_agents, part)
    return results


def _train(batch: Sequence[Planned], max_agents: int) -> list[list[Planned]]:
    """Train a batch; returns the batches of jobs that have to be run again."""
    with contextlib.ExitStack() as stack:
        held = []
        for job in batch:
            job.folder.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(job.folder)
            if lock.acquire():
                stack.callback(lock.release)
                held += [job] if job.is_left(retry_failed=True, locked=True) else []
        stack.enter_context(console())
        try:
            if held:
                resume = [should_resume(job) for job in held]
                train_jobs(held, resume=all(resume))
            return []
        except DivergedError as error:
            log.warning("%s", error)
            return split([job for job in held if job.folder not in error.runs], max_agents)
        except Exception as error:  # run alone, the job that caused it fails with its own error
            log.warning("the batch stopped (%s: %s); running its jobs one by one", type(error).__name__, error)
            return [[job] for job in held]


# Which jobs share a batch --------------------------------------------------------------------------------------------


def split(jobs: Sequence[Planned], max_agents: int) -> list[list[Planned]]:
    """Group jobs that can be trained together into batches of at most `max_agents`, unless a single job has more.

    A job whose process died twice since its last checkpoint runs alone: it may be what kills its batch.
    """
    groups: dict[str, list[list[Planned]]] = {}  # batches by what their jobs share
    for job in jobs:
        batches = groups.setdefault(json.dumps(batch_key(job), sort_keys=True, default=str), [[]])
        if batches[-1] and sum(len(other.seeds) for other in (*batches[-1], job)) > max_agents:
            batches.append([])
        batches[-1].append(job)
    return [batch for batches in groups.values() for batch in batches]


def batch_key(job: Planned) -> dict[str, Any]:
    """What jobs of one batch share: settings by dotted key, the update that they have reached."""
    from rlexp import parts  # imports torch, which --help does not need

    algo = parts.build_algorithm(job.cfg)
    per_agent = {*PER_AGENT, *map(algo.key, algo.scheduled())}
    if not parts.supports_agent_lrs(job.cfg):
        per_agent.remove("optimizer.lr")
    settings = flatten(typed_config(cast(dict[str, Any], OmegaConf.to_container(job.cfg, resolve=True))))
    settings |= {algo.key(name): value for name, value in algo.shared().items()}  # includes attributes it derives
    if "optimizer" not in init_parts(job.cfg):  # else the optimizers may be at different steps
        settings["init_from"] = settings.get("init_from") is not None
    shared = {key: value for key, value in settings.items() if key not in (*per_agent, *NOT_TRAINING)}
    alone = ({DEATHS: job.name} if job.deaths else {}) | ({"live": job.name} if job.cfg.live else {})
    return shared | {UPDATE: _update_number(job)} | alone


def _update_number(job: Planned) -> int:
    """Number of updates in the job's checkpoint; 0 without one."""
    from rlexp.run import checkpoint  # imports torch, which --help does not need

    path = job.folder / "checkpoint.pt"
    if not path.is_file() and is_extending(job.cfg):
        path = find_extended(job.cfg, job.settings).checkpoint_path
    if not path.is_file():
        return 0
    try:
        return int(checkpoint.load(path)["trainer"]["update_number"])
    except CheckpointError:
        return -1 - zlib.crc32(str(path).encode())  # unique: it runs alone, where the error is reported


def explain(batches: Sequence[Sequence[Planned]]) -> str:
    """Describe which jobs share a batch, in what they differ, and why there are several batches."""
    lines = []
    agents = [sum(len(job.seeds) for job in batch) for batch in batches]
    for batch, count in zip(batches, agents, strict=True):
        varied = differing([flatten(job.settings) for job in batch])
        what = f": {', '.join(varied)} differ" if varied else ""
        together = f"{len(batch)} jobs ({count} agents) side by side{what}"
        lines.append(together if len(batch) > 1 else f"alone: {batch[0].name}")
    if len(batches) > 1:
        keys = [batch_key(batch[0]) for batch in batches]
        apart = [name for name in differing(keys) if all(name in key for key in keys) or name == DEATHS]
        full = f"at most {max(agents)} agents in one (max_agents, n_jobs)"
        why = f"{', '.join(apart)} must be the same within one" if apart else full
        lines += [f"{len(batches)} batches: {why}", *_suggest_scheduled(batches[0][0], apart)]
    return "\n".join(lines)


def _suggest_scheduled(job: Planned, apart: Sequence[str]) -> list[str]:
    """How the author of a user's algorithm can let jobs that differ in its coefficients share a batch."""
    target = str(job.cfg.algo.get("_target_"))
    settings = flatten(job.settings)
    plain = [key for key in apart if key.startswith("algo.") and type(settings.get(key)) is float]
    if not plain or target.startswith("rlexp."):
        return []
    what = f"{', '.join(plain)} {'is a plain number' if len(plain) == 1 else 'are plain numbers'} of {target}"
    return [f"{what}: annotate as rlexp.algos.schedules.Scheduled to let jobs that differ there share a batch"]
