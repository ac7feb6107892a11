"""Weights & Biases: one run of theirs for each run here, also when it is resumed."""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rlexp.errors import ConfigError
from rlexp.loggers.base import Logger, Subject
from rlexp.text import one_line

log = logging.getLogger(__name__)

HEADER = 7  # bytes of a file with no record
QUIET, LONGEST = 0.2, 10.0  # seconds for which its size must stay the same, and to wait at most


class Wandb(Logger):
    """Logs to Weights & Biases.

    mode: null is WANDB_MODE, else online; offline keeps records in outputs/wandb, for `wandb sync`.
    """

    needs = ("wandb", "wandb")

    def __init__(
        self,
        project: str = "rlexp",
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["online", "offline"] | None = None,
    ) -> None:
        self.project, self.entity, self.group = project, entity, group
        self.mode: Any = mode or os.environ.get("WANDB_MODE") or "online"
        self.run: Any = None

    def check(self) -> None:
        """Refuse to go online where nobody is logged in: the library would ask, or wait."""
        import wandb

        if self.mode not in ("online", "offline", "disabled"):
            raise ConfigError(f"WANDB_MODE={self.mode}: must be online, offline or disabled")
        if self.mode != "online":
            return
        try:
            flaw = "" if wandb.login(prompt=False) else "nobody is logged in"
        except Exception as error:  # a wrong key, no network
            flaw = one_line(str(error), 200)
        if flaw:
            how = "run `wandb login`, set WANDB_API_KEY, or keep records here with logger.wandb.mode=offline"
            raise ConfigError(f"logger=wandb: {flaw}; {how}")

    def open(self, subject: Subject, id: str | None) -> str:
        """Start or resume the run of this id."""
        import wandb

        subject.outputs.mkdir(parents=True, exist_ok=True)  # of a comparison there may be none here
        id = id or uuid.uuid4().hex[:8]
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or subject.study,
            job_type=subject.kind,
            name=subject.name,
            id=id,
            resume="allow",
            mode=self.mode,
            dir=str(subject.outputs),
            tags=list(subject.tags),
            config=dict(subject.config),
            reinit="create_new",  # jobs of a batch are logged at the same time
            settings=wandb.Settings(console="off", silent=True),
        )
        later = f"offline; send it later with: wandb sync {Path(self.run.dir).parent}"
        where = later if self.mode == "offline" else self.run.url
        log.info("wandb: %s", where, extra={"folder": subject.folder})
        return id

    def log(self, step: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Record metrics; steps that the run has already had before it was killed are left out."""
        if step >= self.run.step:
            self.run.log(dict(values), step=step)

    def video(self, step: int, name: str, path: Path) -> None:
        """Record an mp4 file."""
        import wandb

        self.run.log({f"videos/{name}": wandb.Video(str(path))}, step=max(step, self.run.step))

    def verdict(self, text: str, files: Mapping[str, Path]) -> None:
        """The answer becomes the run's notes and summary, the files an artifact."""
        import wandb

        self.run.notes = text
        self.run.summary["verdict"] = text
        artifact = wandb.Artifact(f"compare-{self.run.id}", type="comparison")
        for name, path in files.items():
            artifact.add_file(str(path), name)
        self.run.log_artifact(artifact)

    def close(self, status: str, result: Mapping[str, float]) -> None:
        """End the run."""
        self.run.summary.update({f"result/{name}": value for name, value in result.items()} | {"status": status})
        self.run.finish(exit_code=int(status != "done"))
        if self.mode == "offline":
            _wait_until_written(Path(self.run.dir).parent / f"run-{self.run.id}.wandb")


def _wait_until_written(file: Path) -> None:
    """Wait until the library's own process has written its file, which it does after `finish` has returned.

    Once in about fifty runs a process that ended before that left an empty file (wandb 0.31).
    """
    size, since, until = -1, time.monotonic(), time.monotonic() + LONGEST
    while (now := time.monotonic()) < until:
        if (found := file.stat().st_size) != size:
            size, since = found, now
        elif size > HEADER and now - since > QUIET:
            return
        time.sleep(0.02)
    log.warning("wandb: %s is not written yet", file)
