"""Train agents: python -m rlexp.train [algo=...] [env=...] [key=value ...]; -m: several jobs; --help: all keys."""

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlexp.cli import WANTS_TRACEBACK, end_with, report_errors
from rlexp.config import CONF_DIR, identity, nearest, register_schema
from rlexp.errors import CheckpointError, ConfigError, UserError
from rlexp.run_folder import RunRecord, register_resolvers, write_atomically
from rlexp.signals import Interrupted
from rlexp.sweep.grids import register_sweeper

log = logging.getLogger("rlexp")

register_schema()
register_resolvers()
register_sweeper()


def log_to(folder: Path | None) -> logging.Handler:
    """Send the run's log lines to train.log in its folder, or without one to standard output."""
    handler: logging.Handler
    if folder is None:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.FileHandler(folder / "train.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("rlexp").addHandler(handler)
    return handler


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Leave the resolved config and the overrides in .hydra/."""
    target = folder / ".hydra"
    target.mkdir(exist_ok=True)
    write_atomically(target / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
    write_atomically(target / "overrides.yaml", OmegaConf.to_yaml(HydraConfig.get().overrides.task).encode())


def tell_result(record: RunRecord, folder: Path, note: str) -> None:
    """One line for each agent, and where it lies."""
    result: dict[str, Any] = record.data.get("result", {})
    log.info("%s: %s", note, folder)
    evaluations = result.get("evaluation_return") or [None] * len(record.data["seeds"])
    for seed, training, evaluation in zip(record.data["seeds"], result["training_return"], evaluations, strict=True):
        training = "no finished episode" if training is None else f"{training:.1f}"
        frozen = "" if evaluation is None else f", frozen evaluation {evaluation:.1f}"
        log.info("  seed %s: return of the last 100 training episodes %s%s", seed, training, frozen)
    log.info("  %.0f steps/s in all, %.1f s of training", result["steps_per_second"], result["seconds"])


def should_resume(cfg: DictConfig, folder: Path) -> bool:
    """Whether the folder holds a run to go on with.

    Raises:
        CheckpointError: resume=must, and there is none.
    """
    found = (folder / "checkpoint.pt").is_file()
    if cfg.resume == "must" and not found:
        raise CheckpointError(f"resume=must: there is no checkpoint in {folder}; use resume=auto to start the run")
    return found and cfg.resume != "never"


def train(cfg: DictConfig, folder: Path) -> None:
    """Run one job in its folder, or say that it is done already."""
    from rlexp import parts  # torch, which --help and a misspelt word need not wait for

    parts.check(cfg)
    record = RunRecord(folder)
    if record.status == "done" and cfg.resume != "never":
        tell_result(record, folder, "already done")
        return
    resume = should_resume(cfg, folder)
    trainer = parts.build_trainer(cfg, folder, identity(cfg))
    trainer.record.data["choices"] = group_choices()
    write_config(cfg, folder)
    handler = log_to(folder)
    try:
        log.info("%s %s in %s", "resuming" if resume else "training", _agents(cfg), folder)
        trainer.run(resume)
        tell_result(trainer.record, folder, "done")
    except Interrupted as stop:
        trainer.record.update(status="interrupted", error=str(stop))
        log.info("%s: saved; the same command goes on from there", stop)
        sys.exit(128 + stop.signum)
    except BaseException as error:
        if trainer.record.status == "running":
            trainer.record.update(status="failed", error=f"{type(error).__name__}: {error}")
        if not isinstance(error, CheckpointError):
            log.debug("failed", exc_info=True)
        raise
    finally:
        logging.getLogger("rlexp").removeHandler(handler)
        handler.close()


def group_choices() -> dict[str, str]:
    """What was chosen in each config group."""
    choices = HydraConfig.get().runtime.choices
    return {str(name): str(choice) for name, choice in choices.items() if not str(name).startswith("hydra")}


def _agents(cfg: DictConfig) -> str:
    last = cfg.seed + cfg.num_seeds - 1
    return f"seed {cfg.seed}" if cfg.num_seeds == 1 else f"seeds {cfg.seed} to {last} side by side"


def check_tuned() -> None:
    """Refuse a choice of `tuned` that is not there: the group is optional, so that Hydra would leave it out silently.

    Raises:
        ConfigError: naming the nearest one that is.
    """
    known = GlobalHydra.instance().config_loader().get_group_options("tuned")
    for override in HydraConfig.get().overrides.task:
        key, _, choice = override.partition("=")
        if key == "tuned" and choice not in (*known, "null"):
            raise ConfigError(f"tuned={choice}: there is no such choice; {nearest(choice, known)}")


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def job(cfg: DictConfig) -> None:
    """One job, as Hydra calls it."""
    root = logging.getLogger("rlexp")
    root.setLevel(logging.INFO)
    root.propagate = False
    console = log_to(None)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        check_tuned()
        train(cfg, folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    except UserError as error:
        with contextlib.suppress(OSError):  # made by Hydra for a run that never started; not empty: it is needed
            folder.rmdir()
            folder.parent.rmdir()
        if HydraConfig.get().mode == RunMode.RUN and not WANTS_TRACEBACK:
            end_with(error)
        raise  # to the sweep, which goes on and reports it
    finally:
        root.removeHandler(console)


def main() -> None:
    """Entry point."""
    report_errors(job)


if __name__ == "__main__":
    main()
