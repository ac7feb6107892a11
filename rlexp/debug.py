"""debug=true: one update of a job that prints, hits breakpoints and crashes like a plain script.

It is eager, in one process, agents one after the other, and nothing else calls the objective, network or environment:
no dry runs, no tracing, no evaluation. Nothing is written.
"""

import copy
import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlexp.errors import UserError
from rlexp.jobs.job import Job
from rlexp.run.progress import ProgressDisplay
from rlexp.run.writer import RunWriter
from rlexp.training.divergence import Divergence
from rlexp.user_code import was_quit

log = logging.getLogger("rlexp")

NOWHERE = Path(os.devnull, "debug")  # cannot exist or be created


class _ConsoleWriter(RunWriter):
    """Prints metrics and writes nothing."""

    def log(self, steps: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Print the metrics of each agent."""
        for agent, seed in enumerate(self.seeds):
            text = ", ".join(f"{name} {values[agent]:.4g}" for name, values in metrics.items())
            log.info("  seed %s, %s steps: %s", seed, steps[agent], text)

    def retire(self, seed: int, divergence: Divergence) -> None:
        """Remember it; the log tells."""
        self.diverged[seed] = divergence

    def save(self, *_: Any) -> None:
        """Do nothing."""


def run(job: Job) -> None:
    """Make one update.

    Raises:
        UserError: an invalid setting.
        SystemExit: after any other error, whose traceback is printed; or the debugger was quit.
    """
    try:
        log.info("debug: one update, eager, in one process, agents one after the other; nothing is saved")
        _update(job)
        log.info("debug: the update is done")
    except (Exception, SystemExit) as error:  # user code may raise anything
        if was_quit(error):
            log.info("debug: ended by the debugger")
            sys.exit(0)
        if isinstance(error, UserError) and error.__cause__ is None:
            raise
        shown: BaseException = error
        while isinstance(shown, UserError) and shown.__cause__ is not None:  # it was raised from the error of interest
            shown = shown.__cause__
        traceback.print_exception(shown)
        sys.exit(1)


def _debugged(job: Job) -> Any:
    cfg = copy.deepcopy(job.cfg)
    cfg.compile, cfg.batching, cfg.profile = False, "loop", False
    cfg.stop_at = 1  # the first update is the last, so its metrics are logged
    cfg.checkpoint_every = max(cfg.total_steps, 1)
    cfg.evaluation.every, cfg.evaluation.video_every, cfg.live = None, None, False
    if cfg.env is not None and cfg.env.get("vectorization") == "async":
        cfg.env.vectorization = "sync"
    return cfg


def _update(job: Job) -> None:
    from rlexp import build
    from rlexp.jobs import inherit

    build.check(job.cfg)  # as it was typed: `evaluation.every`, say, is needed by others
    job = dataclasses.replace(job, cfg=_debugged(job), folder=NOWHERE)
    with torch.autograd.set_detect_anomaly(True):
        writers = [_ConsoleWriter(job.folder, job.settings, job.seeds)]
        trainer = build.build_trainer([job.cfg], writers, ProgressDisplay("none"))
        try:
            inherit.begin(trainer, [job], writers)
            trainer.iterate()
        finally:
            trainer.collector.envs.close()
