"""What the log says of a job, on the console and in its train.log: start, result, warnings."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlexp.config.schema import population_of
from rlexp.jobs.job import Job
from rlexp.provenance.sources import training_digest
from rlexp.run.declared import otherwise
from rlexp.run.record import RunRecord, diverged_in
from rlexp.training.timing import shares

log = logging.getLogger("rlexp")


@contextlib.contextmanager
def console() -> Iterator[None]:
    """While entered, log lines are printed."""
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """While entered, log lines go to the train.log of a run, but for those of other runs in the batch."""
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.addFilter(lambda line: getattr(line, "folder", folder) == folder)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def log_of(folder: Path) -> logging.LoggerAdapter[logging.Logger]:
    """A logger whose lines go to the train.log of this run only."""
    return logging.LoggerAdapter(log, {"folder": folder})


def log_start(job: Job, record: dict[str, Any], resume: bool) -> None:
    """Log which agents train, and where."""
    log, cfg, now = log_of(job.folder), job.cfg, training_digest()
    if resume and record.get("code") not in (None, now):
        log.warning("rlexp has changed since this run was stopped (%s, now %s); resuming", record["code"], now)
    seeds = job.seeds
    agents = f"seed {cfg.seed}" if len(seeds) == 1 else f"seeds {cfg.seed} to {seeds[-1]} side by side"
    if (population := population_of(cfg)) > 1:
        agents += f", in populations of {population}" if len(seeds) > population else ", one population"
    again = f", launch {record['launches'] + 1}" if record.get("launches") else ""
    log.info("%s %s in %s%s", "resuming" if resume else "training", agents, job.folder, again)


def same_command(words: Sequence[str]) -> str:
    """The command that resumes what one with these words has begun: resume=never would begin anew."""
    return "the same command" + " without resume=never" * ("resume=never" in [word.lstrip("+") for word in words])


def warn_of_declaration(job: Job, record: RunRecord) -> None:
    """Log a warning if the run declares otherwise than the command."""
    if line := otherwise(record.data, job.declared):
        log_of(job.folder).warning("%s", line)


def log_without_effect(job: Job, record: dict[str, Any]) -> None:
    """Log what the command asks for that a run which is done already does not do."""
    cfg, kept = job.cfg, record.get("tags", [])
    if list(cfg.tags) != list(kept):
        log.info("tags=[%s]: it keeps its own, [%s]", ",".join(cfg.tags), ",".join(kept))
    if cfg.profile:
        log.info("profile=true: nothing left to trace; resume=never trains from scratch")
    if cfg.evaluation.every is not None and "evaluation" not in record.get("time", {}):
        log.info("evaluation.every: it was trained without; resume=never trains from scratch")


def log_result(record: RunRecord, folder: Path, note: str) -> None:
    """Log the folder, one line per agent, and the speed."""
    log, result, seeds = log_of(folder), record.data.get("result", {}), record.data["seeds"]
    log.info("%s: %s", note, folder)
    evaluations = result.get("evaluation_return") or [None] * len(seeds)
    diverged = diverged_in(record.data)
    for seed, training, evaluation in zip(seeds, result["training_return"], evaluations, strict=True):
        if seed in diverged:
            log.info("  seed %s: diverged at step %s, and was retired", seed, diverged[seed].get("step"))
            continue
        training = "no finished episode" if training is None else f"{training:.1f}"
        frozen = "" if evaluation is None else f", frozen evaluation {evaluation:.1f}"
        log.info("  seed %s: return of the last 100 training episodes %s%s", seed, training, frozen)
    others = record.data.get("agents_together", len(seeds)) - len(seeds)
    batch = f", batched with {others} agents of other jobs" if others else ""
    time = record.data.get("time", {})
    split, evaluating = time.get("seconds", {}), time.get("evaluation")
    parts = f": {shares(split)}" if split else ""
    apart = f"; {evaluating:.1f} s of evaluation besides" if evaluating else ""
    rate, seconds = result["steps_per_second"], result["seconds"]
    log.info("  %.0f steps/s in all, %.1f s of training%s%s%s", rate, seconds, batch, parts, apart)
