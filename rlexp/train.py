"""Train agents: python -m rlexp.train [algo=...] [env=...] [key=value ...]; -m: several jobs; --help: all keys."""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlexp.cli import WANTS_TRACEBACK, end_with, report_errors
from rlexp.config import CONF_DIR, register_schema
from rlexp.errors import CheckpointError, DivergedError, EnvironmentFault, UserError
from rlexp.explained import help_text
from rlexp.jobs import Job, settings_of
from rlexp.lock import FolderLock
from rlexp.longest import extended, is_extending
from rlexp.patches import keep_patches
from rlexp.replaced import without_inherited
from rlexp.run_folder import (
    RunRecord,
    key_of,
    names_an_environment,
    register_resolvers,
    write_atomically,
)
from rlexp.search_path import group_choices, require_unshadowed
from rlexp.signals import Interrupted, Paused, hand_on
from rlexp.sources import training_digest
from rlexp.sweep.plugins import register_plugins
from rlexp.timing import shares
from rlexp.trust import require_no_links
from rlexp.tuned import check_tuned, untuned
from rlexp.watch import Watch
from rlexp.whose import chain, was_quit

if TYPE_CHECKING:
    from rlexp.trainer import Trainer

log = logging.getLogger("rlexp")

register_schema()
register_resolvers(settings_of)
register_plugins()


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
    from rlexp import debugging, parts  # torch, which --help and a misspelt word need not wait for

    if job.cfg.debug:
        leave_no_trace(job.folder)
        debugging.run(job)
        return
    parts.check(job.cfg)
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


def train(jobs: Sequence[Job], go_on: bool) -> None:
    """Train jobs side by side in their folders, which the caller has locked; `go_on`: from their checkpoints.

    Raises:
        SystemExit: a signal stopped them; they are saved.
        TrustError: a link in one of the folders leads elsewhere; nothing is written.
        Exception: whatever ended them; the folders of those that it befell say what.
    """
    from rlexp import extend, inherit, parts

    for job in jobs:
        require_no_links(job.folder.rglob("*"))
    trainer: Trainer | None = None
    watch = Watch(OmegaConf.select(jobs[0].cfg, "env.timeout"), str(OmegaConf.select(jobs[0].cfg, "env.id")))
    handlers = []
    if not gc.get_freeze_count():
        # What is there before the first job need not be looked through at the end of each, which takes a quarter of a
        # second. Once only: what the job before left to be collected, as its config, would be frozen, and stay.
        gc.freeze()
    try:
        with no_exit(), watch.on():
            trainer = parts.build_trainer(jobs, watch)
            taken = extend.takeovers(trainer, jobs)
            if not go_on:
                inherit.begin(trainer, jobs)
        for job, own, takeover in zip(jobs, trainer.runs, taken, strict=True):
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
        log.info("%s", trainer.told_how())
        with no_exit(), watch.on():
            trainer.run(go_on)
        for own in trainer.runs:
            tell_result(own.record, own.folder, "done")
    except (Interrupted, Paused) as stop:
        assert trainer is not None
        paused = {"paused_at": stop.step} if isinstance(stop, Paused) else {}
        for own in trainer.runs:
            own.record.update(status="interrupted", error=str(stop), **paused)
        saved = "" if isinstance(stop, Interrupted) and not stop.saved else ": saved"
        how = "; the same command goes on from there" if isinstance(stop, Interrupted) else ""
        log.info("%s%s%s", stop, saved, how)
        if isinstance(stop, Interrupted):
            hand_on(stop.signum)
            sys.exit(128 + stop.signum)
    except BaseException as error:
        note_failure(jobs, trainer, error)
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


def note_failure(jobs: Sequence[Job], trainer: "Trainer | None", error: BaseException) -> None:
    """Leave what ended the jobs in their folders."""
    asked = isinstance(error, KeyboardInterrupt | SystemExit) or (was_quit(error) and not jobs[0].in_sweep)
    for index, job in enumerate(jobs):
        record = RunRecord(job.folder) if trainer is None else trainer.runs[index].record
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


def beside(folder: Path) -> Path:
    """The folder as seen from here, if it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


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


def job(cfg: DictConfig) -> None:
    """One job, as Hydra calls it."""
    chosen = HydraConfig.get()
    folder = beside(Path(chosen.runtime.output_dir))
    in_sweep = chosen.mode == RunMode.MULTIRUN
    with console():
        try:
            words = list(chosen.overrides.task)
            if not in_sweep:  # whose plan did it
                require_unshadowed(chosen)
                check_tuned(GlobalHydra.instance().config_loader(), words)
                cfg = without_inherited(cfg, chosen)
                for line in untuned([chosen]):
                    log.info("%s", line)
            run(Job(cfg, folder, words, group_choices(chosen), in_sweep))
        except Exception as error:
            if not (folder / "run.json").exists():
                leave_no_trace(folder)
            if in_sweep:
                raise  # to the sweep, which goes on and reports it
            if was_quit(error):
                log.info("the debugger was quit, and with it the run; debug=true makes one update to look into")
                sys.exit(1)
            if isinstance(error, UserError) and not WANTS_TRACEBACK:
                end_with(error)
            raise


def main() -> None:
    """Entry point."""
    flags = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]  # wherever they stand
    sys.argv[1:] = flags[:1] + [word for word in sys.argv[1:] if word not in flags]
    words = [word for word in sys.argv[1:] if "=" in word]
    if names_an_environment(words) and not {"tuned", "experiment"} & set(map(key_of, words)):
        sys.argv.append("tuned=none")  # what is tuned for the default environment is nothing to this one
    if {"-h", "--help"} & set(sys.argv[1:]):
        report_errors(lambda: print(help_text(sys.argv[1:])))
        return
    report_errors(hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job))


if __name__ == "__main__":
    from rlexp import train as imported  # by its own name, under which other processes find the job

    imported.main()
