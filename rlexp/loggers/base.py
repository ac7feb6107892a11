"""What a logger is: it sends what a run records to another place, besides the run's folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlexp.extras import require


@dataclass(frozen=True)
class Subject:
    """What is logged: a run, or the comparison of a study."""

    study: str
    name: str  # of the job; of a comparison "compare"
    folder: Path  # where its files are
    outputs: Path  # the folder that all studies are in
    config: dict[str, Any]  # nested, plain
    tags: tuple[str, ...] = ()
    kind: str = "train"  # or "compare"


class Logger:
    """Base class of loggers. One is made for each run; what it raises while the run goes ends the logger, not the run.

    Metrics are named charts/return, as in TensorBoard; a step counts an agent's environment steps.
    """

    needs: tuple[str, str] | None = None  # a module, and the extra that installs it

    @classmethod
    def require_installed(cls, setting: str) -> None:
        """ConfigError that names the setting if a package that is needed is not installed."""
        if cls.needs is not None:
            module, extra = cls.needs
            require(module, extra, setting)

    def check(self) -> None:
        """Called before any work starts: raise a ConfigError for what can be known to fail, such as no login."""

    def open(self, subject: Subject, id: str | None) -> str:
        """Start a record, or go on with the one of this id, which an earlier launch returned. Returns the id to keep.

        A run that was killed repeats the rows since its last checkpoint: steps that are recorded may be left out.
        """
        raise NotImplementedError

    def log(self, step: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Record metrics at a step."""
        raise NotImplementedError

    def video(self, step: int, name: str, path: Path) -> None:
        """Record an mp4 file."""

    def sync(self) -> None:
        """Send what is held back: the run writes its checkpoint."""

    def verdict(self, text: str, files: Mapping[str, Path]) -> None:
        """Record what `compare` found: its answer, and the files that it wrote, by name."""

    def close(self, status: str, result: Mapping[str, float]) -> None:
        """End the record. status: done, interrupted or failed; result: of a run that is done."""
        raise NotImplementedError
