"""Jobs trained in their locked folders, and what ends them."""

import contextlib
import gc
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rlexp.errors import CheckpointError, DivergedError, EnvironmentFault, UserError
from rlexp.files import write_atomically
from rlexp.jobs.extend_from import extended, is_extending
from rlexp.jobs.job import Job
from rlexp.provenance.patches import keep_patches
from rlexp.provenance.sources import training_digest
from rlexp.run.lock import FolderLock
from rlexp.run.record import RunRecord
from rlexp.run.trust import require_no_links
from rlexp.signals import Interrupted, Paused, hand_on
from rlexp.training.timing import shares
from rlexp.user_code import chain, was_quit
from rlexp.watch import Watch

if TYPE_CHECKING:
    from rlexp.run.writer import RunWriter
    from rlexp.training.trainer import Trainer

log = logging.getLogger("rlexp")


def log_to(folder: Path | None) -> logging.Handler:
    """Send the run's log lines to train.log in its folder, or without one to standard output."""
    handler: logging.Handler
    if folder is None:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
        handler.addFilter(lambda line: getattr(line, "folder", folder) == folder)  # not what is of a run beside it
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("rlexp").addHandler(handler)
    return handler


def write_config(job: Job) -> None:
    """Leave the resolved config and the overrides in .hydra/, and what is not committed of the code."""
    target = job.folder / ".hydra"
    target.mkdir(exist_ok=True)
    write_atomically(target / "config.yaml", OmegaConf.to_yaml(job.cfg, resolve=True).encode())
    write_atomically(target / "overrides.yaml", OmegaConf.to_yaml(job.overrides).encode())
    keep_patches(job.settings, job.folder, RunRecord(job.folder).data.get("launches", 0) + 1)


def log_of(folder: Path) -> logging.LoggerAdapter[logging.Logger]:
    """The log of one run, whose lines are not those of runs beside it."""
    return logging.LoggerAdapter(logging.getLogger("rlexp"), {"folder": folder})


def tell_result(record: RunRecord, folder: Path, note: str) -> None:
    """One line for each agent, and where it lies."""
    result: dict[str, Any] = record.data.get("result", {})
    log = log_of(folder)
    log.info("%s: %s", note, folder)
    evaluations = result.get("evaluation_return") or [None] * len(record.data["seeds"])
    for seed, training, evaluation in zip(record.data["seeds"], result["training_return"], evaluations, strict=True):
        training = "no finished episode" if training is None else f"{training:.1f}"
        frozen = "" if evaluation is None else f", frozen evaluation {evaluation:.1f}"
        log.info("  seed %s: return of the last 100 training episodes %s%s", seed, training, frozen)
    agents = record.data.get("agents_together", len(record.data["seeds"]))
    others = agents - len(record.data["seeds"])
    beside = f", beside {others} agents of other jobs" if others else ""
    split = record.data.get("time", {}).get("seconds", {})
    parts = f": {shares(split)}" if split else ""
    rate, seconds = result["steps_per_second"], result["seconds"]
    log.info("  %.0f steps/s in all, %.1f s of training%s%s", rate, seconds, beside, parts)


def should_resume(job: Job) -> bool:
    """Whether the job's folder holds a run to go on with, or there is one that it extends.

    Raises:
        CheckpointError: resume=must, and there is none.
        ConfigError: resume=extend, and there is none.
    """
    found = (job.folder / "checkpoint.pt").is_file()
    if job.cfg.resume == "must" and not found:
        raise CheckpointError(f"resume=must: there is no checkpoint in {job.folder}; use resume=auto to start the run")
    if is_extending(job.cfg) and not found:
        found = extended(job.cfg, job.settings) is not None  # which refuses otherwise
    return found and job.cfg.resume != "never"


def run(job: Job) -> None:
    """Run one job in its folder, or say that it is done already.

    Raises:
        UserError: it cannot be run.
        Exception: whatever ended it; its folder says what.
    """
    from rlexp import build, debug  # torch, which --help and a misspelt word need not wait for

    if job.cfg.debug:
        leave_no_trace(job.folder)
        debug.run(job)
        return
    build.check(job.cfg)
    with FolderLock(job.folder):
        record = RunRecord(job.folder)
        job.check_same(record)
        job.check_code(record)
        if record.status == "done" and job.cfg.resume != "never":
            tell_result(record, job.folder, "already done")
            if job.cfg.profile:
                log.info("profile=true: nothing is left to trace; resume=never makes the run anew")
            return
        if record.status == "failed" and job.in_sweep and not job.cfg.retry_failed:
            log.info("failed meanwhile: %s", job.folder)
            return
        train([job], should_resume(job))


def leave_no_trace(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that never started."""
    with contextlib.suppress(OSError):  # not empty: it is needed
        folder.rmdir()
        folder.parent.rmdir()


def make_trainer(jobs: Sequence[Job], watch: Watch | None = None) -> "tuple[Trainer, list[RunWriter]]":
    """What trains the jobs' agents side by side, and what records each job.

    Raises:
        ConfigError: a setting that cannot be.
    """
    from rlexp import build  # torch
    from rlexp.run.progress import ProgressDisplay
    from rlexp.run.writer import RunWriter

    firsts = itertools.accumulate((len(job.seeds) for job in jobs), initial=0)
    writers = [
        RunWriter(job.folder, job.settings, job.seeds, first, job.choices)
        for job, first in zip(jobs, firsts, strict=False)
    ]
    display = ProgressDisplay(jobs[0].cfg.progress)
    return build.build_trainer([job.cfg for job in jobs], writers, display, watch), writers


def train(jobs: Sequence[Job], go_on: bool) -> None:
    """Train jobs side by side in their folders, which the caller has locked; `go_on`: from their checkpoints.

    Raises:
        SystemExit: a signal stopped them; they are saved.
        TrustError: a link in one of the folders leads elsewhere; nothing is written.
        Exception: whatever ended them; the folders of those that it befell say what.
    """
    from rlexp.jobs import extend, inherit
    from rlexp.training.profiling import Profiled

    for job in jobs:
        require_no_links(job.folder.rglob("*"))
    writers: list[RunWriter] = []
    trainer: Trainer | None = None
    watch = Watch(OmegaConf.select(jobs[0].cfg, "env.timeout"), str(OmegaConf.select(jobs[0].cfg, "env.id")))
    handlers = []
    if not gc.get_freeze_count():
        # What is there before the first job need not be looked through at the end of each, which takes a quarter of a
        # second. Once only: what the job before left to be collected, as its config, would be frozen, and stay.
        gc.freeze()
    try:
        with no_exit(), watch.on():
            trainer, writers = make_trainer(jobs, watch)
            taken = extend.takeovers(trainer, jobs, writers)
            if not go_on:
                inherit.begin(trainer, jobs, writers)
        for job, own, takeover in zip(jobs, writers, taken, strict=True):
            write_config(job)
            handlers.append(log_to(job.folder))
            if takeover is not None:
                takeover.write(own)
            note_other_code(job.folder, go_on)
            before = RunRecord(job.folder).data.get("launches", 0)
            again = f", launch {before + 1}" if before else ""
            what = "resuming" if go_on else "training"
            log_of(job.folder).info("%s %s in %s%s", what, _agents(job.cfg), job.folder, again)
            for line in takeover.lines if takeover else [] if go_on else inherit.told(own.record.data, job.overrides):
                log_of(job.folder).info("%s", line)
        log.info("%s", trainer.describe_how())
        with no_exit(), watch.on():
            trainer.run(go_on, Profiled(trainer, writers[0].folder) if jobs[0].cfg.profile else None)
        for own in writers:
            tell_result(own.record, own.folder, "done")
    except (Interrupted, Paused) as stop:
        paused = {"paused_at": stop.step} if isinstance(stop, Paused) else {}
        for own in writers:
            own.record.update(status="interrupted", error=str(stop), **paused)
        saved = "" if isinstance(stop, Interrupted) and not stop.saved else ": saved"
        how = "; the same command goes on from there" if isinstance(stop, Interrupted) else ""
        log.info("%s%s%s", stop, saved, how)
        if isinstance(stop, Interrupted):
            hand_on(stop.signum)
            sys.exit(128 + stop.signum)
    except BaseException as error:
        note_failure(jobs, writers, error)
        for one in chain(error):
            clear_frames(one.__traceback__)  # whoever keeps the error would keep the trainer
        raise
    finally:
        for handler in handlers:
            logging.getLogger("rlexp").removeHandler(handler)
            handler.close()
        del trainer
        gc.collect()  # the next job of a sweep may need the memory


class ExitError(Exception):
    """An environment, or whatever else was called, that would have ended the process."""


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """While entered, `sys.exit` is an error like others: a job may end, but not the process with the jobs to come."""
    try:
        yield
    except SystemExit as error:
        raise ExitError(f"sys.exit({error.code!r}) was called while the run was at work") from error


def note_other_code(folder: Path, go_on: bool) -> None:
    """Say if a run goes on with other code of rlexp than it was made by."""
    made_by, now = RunRecord(folder).data.get("code"), training_digest()
    if go_on and made_by not in (None, now):
        log_of(folder).warning("rlexp has changed since this run was stopped (%s, now %s); it goes on", made_by, now)


def note_failure(jobs: Sequence[Job], writers: Sequence["RunWriter"], error: BaseException) -> None:
    """Leave what ended the jobs in their folders."""
    asked = isinstance(error, KeyboardInterrupt | SystemExit) or (was_quit(error) and not jobs[0].in_sweep)
    for index, job in enumerate(jobs):
        record = writers[index].record if writers else RunRecord(job.folder)
        begun = record.status == "running"
        guilty = job.folder in error.runs if isinstance(error, DivergedError) else len(jobs) == 1
        theirs = not isinstance(error, UserError) or isinstance(error, EnvironmentFault)  # of code that was run
        if isinstance(error, CheckpointError) or not (begun or job.in_sweep or theirs):
            continue  # nothing has been run: what is there stays as it is
        if guilty and not asked:
            own = error.of(job.folder) if isinstance(error, DivergedError) else error
            with contextlib.suppress(OSError):  # of a full disk the first error is the one to tell
                record.fail(own, job.settings, job.seeds)
        elif begun:
            record.update(status="interrupted", error=f"stopped with those beside it: {error}" if len(jobs) > 1 else "")


def _agents(cfg: DictConfig) -> str:
    last = cfg.seed + cfg.num_seeds - 1
    return f"seed {cfg.seed}" if cfg.num_seeds == 1 else f"seeds {cfg.seed} to {last} side by side"


@contextlib.contextmanager
def console() -> Iterator[None]:
    """While entered, what runs say is printed."""
    root = logging.getLogger("rlexp")
    root.setLevel(logging.INFO)
    root.propagate = False
    handler = log_to(None)
    try:
        yield
    finally:
        root.removeHandler(handler)
