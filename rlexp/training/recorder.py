"""What the trainer asks of whatever records its runs and shows its progress; `run/` has both."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlexp.training.how import Choice


class Recorder(Protocol):
    """Records one run: the agents `agents` of all that are trained side by side."""

    agents: slice
    seeds: list[int]
    folder: Path
    seconds: float  # of training, over all launches
    time: dict[str, float]  # the same by what was done in them; see `timing.py`
    rows: list[int]  # of metrics.csv, by seed

    @property
    def config_hash(self) -> str:
        """What the run's checkpoint is known by."""

    @property
    def checkpoint_path(self) -> Path:
        """The run's one checkpoint."""

    def open(self, steps: np.ndarray) -> None:
        """Make records end where the run starts, or goes on: at `steps` of all agents (A,)."""

    def begin(self, together: int, how: Mapping[str, Choice]) -> None:
        """Note that the run starts, or goes on, with so many agents side by side, computed like this."""

    def mark_training(self) -> None:
        """Note that training begins."""

    def spend(self, seconds: float, split: Mapping[str, float]) -> None:
        """An update took so many seconds, divided like this."""

    def log(self, steps: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Record metrics of all agents (A,) at their steps (A,)."""

    def save(self, state: dict[str, Any], how: Mapping[str, Choice]) -> None:
        """Write the checkpoint."""

    def load(self) -> dict[str, Any]:
        """Read the checkpoint.

        Raises:
            CheckpointError: missing, damaged, or of another run.
        """

    def finish(
        self,
        steps: np.ndarray,
        returns: np.ndarray,
        evaluation: list[list[dict[str, Any]]] | None,
        settings: dict[str, Any],
    ) -> Any:
        """Record the results: the run is done."""

    def close(self) -> None:
        """Close what is open."""


class Display(Protocol):
    """Shows progress."""

    def start(self, total: int, first: int) -> AbstractContextManager[Any]:
        """Count from here: of so many rows an agent, so many were made by earlier launches."""

    def update(self, step: int, rate: float, score: float, final: bool = False) -> None:
        """Show where the run stands: rows made, steps per second, mean return; `final`: the last call."""
