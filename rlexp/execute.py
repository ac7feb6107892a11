"""Runs jobs: trains them in their locked folders, and records how they end."""

import contextlib
import gc
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from rlexp.errors import CheckpointError, DivergedError, EnvironmentFault, LoggerError, UserError
from rlexp.files import write_atomically
from rlexp.jobs.extend_from import find_extended, is_extending
from rlexp.jobs.job import Job
from rlexp.jobs.log import (
    log_file,
    log_of,
    log_result,
    log_start,
    log_without_effect,
    same_command,
    warn_of_declaration,
)
from rlexp.provenance.patches import keep_patches
from rlexp.run.declared import declare
from rlexp.run.lock import FolderLock
from rlexp.run.record import RunRecord
from rlexp.run.trust import require_no_links
from rlexp.signals import Interrupted, Paused, forward_signal
from rlexp.user_code import chain, was_quit
from rlexp.watch import Watch

if TYPE_CHECKING:
    from rlexp.jobs.extend import Extension
    from rlexp.loggers.make import Loggers
    from rlexp.run.writer import RunWriter
    from rlexp.training.ranks import Ranks
    from rlexp.training.trainer import Trainer

log = logging.getLogger("rlexp")


def should_resume(job: Job) -> bool:
    """Whether there is a run to resume in the job's folder, or one to extend.

    Raises CheckpointError for resume=must and ConfigError for resume=extend, if there is none.
    """
    found = (job.folder / "checkpoint.pt").is_file()
    if job.cfg.resume == "must" and not found:
        raise CheckpointError(f"resume=must: there is no checkpoint in {job.folder}; use resume=auto to start the run")
    if is_extending(job.cfg) and not found:
        found = find_extended(job.cfg, job.settings) is not None  # raises if there is none
    return found and job.cfg.resume != "never"


def train_job(job: Job, ranks: "Ranks | None" = None) -> None:
    """Train one job in its folder, or log that it is done already; ranks: processes that train it together.

    Raises UserError if it cannot be trained, and whatever ended the run, which its folder records.
    """
    from rlexp import build, debug  # imports torch, which --help and a misspelt key need not wait for

    if job.cfg.debug and ranks is None:
        remove_if_empty(job.folder)
        debug.run(job)
        return
    build.check(job.cfg, 1 if ranks is None else ranks.size)
    if ranks is not None and not ranks.first:
        follow(job, ranks)
        return
    with FolderLock(job.folder):
        record = RunRecord(job.folder)
        job.check_same(record)
        job.check_code(record)
        if record.status == "done" and job.cfg.resume != "never":
            if ranks is not None:
                ranks.tell(None)
            log_result(record, job.folder, "already done")
            warn_of_declaration(job, record)
            log_without_effect(job, record.data)
        elif record.status == "failed" and job.in_sweep and not job.cfg.retry_failed:
            log.info("failed in the meantime: %s", job.folder)
        else:
            resume = should_resume(job)
            if ranks is not None:
                ranks.tell(resume)
            train_jobs([job], resume, ranks)


def remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that never started."""
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()
        folder.parent.rmdir()


def follow(job: Job, ranks: "Ranks") -> None:
    """Train a job together with the first rank, which decides whether and from where, and which alone writes.

    Raises SystemExit if a signal stopped the run, and whatever ended it.
    """
    from rlexp import build
    from rlexp.run.progress import ProgressDisplay
    from rlexp.training.recorder import NoRecorder

    resume = ranks.tell(None)
    if resume is None:  # it is done already
        return
    watch = _watch(job)
    try:
        with exit_as_error(), watch.on():
            record, display = NoRecorder(job.folder, job.seeds), ProgressDisplay("none")
            trainer = build.build_trainer([job.cfg], [record], display, watch, ranks=ranks)
            if not resume and job.cfg.get("init_from") is not None:
                trainer.begin_together()
            trainer.train(resume)
    except Paused:
        pass
    except Interrupted as stop:
        sys.exit(128 + stop.signum)


def _watch(job: Job) -> Watch:
    """What watches the job's environments."""
    return Watch(OmegaConf.select(job.cfg, "env.timeout"), str(OmegaConf.select(job.cfg, "env.id")))


def make_trainer(
    jobs: Sequence[Job], watch: Watch | None = None, ranks: "Ranks | None" = None
) -> "tuple[Trainer, list[RunWriter]]":
    """The trainer of the jobs' agents, and one writer per job."""
    from rlexp import build  # imports torch
    from rlexp.run.live import LiveFiles
    from rlexp.run.progress import ProgressDisplay
    from rlexp.run.video import require_encoder
    from rlexp.run.writer import RunWriter

    firsts = itertools.accumulate((len(job.seeds) for job in jobs), initial=0)
    each = zip(jobs, firsts, strict=False)
    writers = [RunWriter(job.folder, job.settings, job.seeds, first, job.choices, _loggers(job)) for job, first in each]
    cfgs = [job.cfg for job in jobs]
    if (every := cfgs[0].evaluation.video_every) is not None:
        require_encoder(f"evaluation.video_every={every}")
    store = LiveFiles(jobs[0].folder)
    return build.build_trainer(cfgs, writers, ProgressDisplay(cfgs[0].progress), watch, store, ranks), writers


def _loggers(job: Job) -> "Loggers":
    """The loggers of a job, and what they are told of it."""
    from rlexp import parts
    from rlexp.loggers.base import Subject
    from rlexp.loggers.make import Loggers

    cfg, config = job.cfg, job.settings | {"seeds": job.seeds}
    subject = Subject(cfg.study, job.folder.name, job.folder, Path(cfg.outputs), config, tuple(cfg.tags))
    return Loggers(parts.build_loggers(cfg), subject)


def train_jobs(jobs: Sequence[Job], resume: bool, ranks: "Ranks | None" = None) -> None:
    """Train a batch of jobs in their folders, which the caller has locked; `resume`: from their checkpoints.

    ranks: processes that train it together, of which this is the first.

    Raises:
        SystemExit: a signal stopped the runs; they are saved.
        TrustError: one of the folders holds a symbolic link; nothing is written.
        Exception: whatever ended the runs; recorded in the folders of those that failed.
    """
    from rlexp.jobs import extend, inherit
    from rlexp.training.profiling import Profiled

    for job in jobs:
        require_no_links(job.folder.rglob("*"))
    writers: list[RunWriter] = []
    trainer: Trainer | None = None
    watch = _watch(jobs[0])
    logs = contextlib.ExitStack()
    if not gc.get_freeze_count():
        # Objects from before the first job need not be scanned at the end of each, which takes a quarter of a second.
        # Once only: garbage of an earlier job, such as its config, would be frozen and never freed.
        gc.freeze()
    try:
        with exit_as_error(), watch.on():
            trainer, writers = make_trainer(jobs, watch, ranks)
            extensions = extend.read_extensions(trainer, jobs, writers)
            if not resume:
                inherit.begin(trainer, jobs, writers)
                if jobs[0].cfg.get("init_from") is not None:
                    trainer.begin_together()
        for job, writer, extension in zip(jobs, writers, extensions, strict=True):
            logs.enter_context(log_file(job.folder))
            _record_start(job, writer, extension, resume)
        log.info("%s", trainer.describe_how())
        with exit_as_error(), watch.on():
            trainer.train(resume, Profiled(trainer, writers[0].folder) if jobs[0].cfg.profile else None)
        for writer in writers:
            log_result(writer.record, writer.folder, "done")
    except Paused as stop:
        for writer in writers:
            writer.record.update(status="interrupted", error=str(stop), paused_at=stop.step)
        log.info("%s: saved", stop)
    except Interrupted as stop:
        for writer in writers:
            writer.record.update(status="interrupted", error=str(stop))
        again = same_command(jobs[0].overrides)
        log.info("%s%s; %s resumes from there", stop, ": saved" if stop.saved else "", again)
        forward_signal(stop.signum)
        sys.exit(128 + stop.signum)
    except BaseException as error:
        record_failure(jobs, writers, error)
        for one in chain(error):
            clear_frames(one.__traceback__)  # a reference to the error would keep the trainer alive
        raise
    finally:
        logs.close()
        del trainer
        gc.collect()  # the next job of a sweep may need the memory


def _record_start(job: Job, writer: "RunWriter", extension: "Extension | None", resume: bool) -> None:
    """Write to a job's folder what it starts from, and log it."""
    from rlexp.jobs import inherit

    _write_settings(job, writer.record)
    lines = [] if resume else inherit.log_lines(writer.record.data, job.overrides)
    if extension is not None:
        extension.write(writer)
        lines = extension.lines
    log_start(job, writer.record.data, resume)
    for line in lines:
        log_of(job.folder).info("%s", line)
    declare(writer.record, job.declared)
    warn_of_declaration(job, writer.record)


class ExitError(Exception):
    """User code called sys.exit."""


@contextlib.contextmanager
def exit_as_error() -> Iterator[None]:
    """While entered, `sys.exit` raises ExitError: it ends the job, not the process with the jobs after it."""
    try:
        yield
    except SystemExit as error:
        raise ExitError(f"sys.exit({error.code!r}) was called during the run") from error


def _write_settings(job: Job, record: RunRecord) -> None:
    """Write the resolved config and the overrides to .hydra/, and patches of uncommitted code."""
    folder, target = job.folder, job.folder / ".hydra"
    target.mkdir(exist_ok=True)
    write_atomically(target / "config.yaml", OmegaConf.to_yaml(job.cfg, resolve=True).encode())
    write_atomically(target / "overrides.yaml", OmegaConf.to_yaml(job.overrides).encode())
    keep_patches(job.settings, folder, record.data.get("launches", 0) + 1)


def record_failure(jobs: Sequence[Job], writers: Sequence["RunWriter"], error: BaseException) -> None:
    """Record in the jobs' folders what ended them."""
    asked = isinstance(error, KeyboardInterrupt | SystemExit) or (was_quit(error) and not jobs[0].in_sweep)
    for index, job in enumerate(jobs):
        record = writers[index].record if writers else RunRecord(job.folder)
        started = record.status == "running" and record.data.get("pid") == os.getpid()  # by this launch
        guilty = job.folder in error.runs if isinstance(error, DivergedError) else len(jobs) == 1
        at_run_time = not isinstance(error, UserError) or isinstance(error, EnvironmentFault)
        is_recorded = (job.in_sweep or at_run_time) and not isinstance(error, CheckpointError | LoggerError)
        if not (started or is_recorded):
            continue  # nothing has run: leave the folder as it is
        if guilty and not asked:
            run_error = error.for_run(job.folder) if isinstance(error, DivergedError) else error
            with contextlib.suppress(OSError):  # disk full: the first error is the one to report
                declare(record, job.declared)
                record.fail(run_error, job.settings, job.seeds)
        elif started:
            record.update(status="interrupted", error=f"stopped with its batch: {error}" if len(jobs) > 1 else "")
