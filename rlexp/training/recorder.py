"""Interfaces through which the trainer records runs and shows progress; implemented in `run/`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlexp.training.divergence import Divergence
from rlexp.training.how import Choice
from rlexp.training.live import Change, Range
from rlexp.training.watching import Episode


class Recorder(Protocol):
    """Records one run, i.e. the slice `agents` of all agents trained side by side."""

    agents: slice
    seeds: list[int]
    folder: Path
    seconds: float  # of training, over all launches
    time: dict[str, float]  # the same, split by part; see `timing.py`
    evaluating: float  # seconds of evaluation during training, not part of the above
    rows: list[int]  # of metrics.csv, by seed
    diverged: dict[int, Divergence]  # retired agents, by seed; they are neither logged nor evaluated

    @property
    def config_hash(self) -> str:
        """Identifies the run's checkpoint."""

    @property
    def checkpoint_path(self) -> Path:
        """The run's only checkpoint."""

    def open(self, steps: np.ndarray) -> None:
        """Open the records and truncate them to where the run starts or resumes: `steps` of all agents (A,)."""

    def begin(self, together: int, how: Mapping[str, Choice]) -> None:
        """Record that the run starts or resumes; together: number of agents trained side by side."""

    def mark_training(self) -> None:
        """Record that training begins."""

    def spend(self, seconds: float, split: Mapping[str, float]) -> None:
        """Add the seconds of an update, split by part."""

    def retire(self, seed: int, divergence: Divergence) -> None:
        """Record that an agent has diverged."""

    def log(self, steps: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Record metrics of all agents (A,) at their steps (A,), less those that have diverged."""

    def amend(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Set cells of each agent's last row; metrics of all agents (A,)."""

    def change(self, changes: Sequence[Change], ranges: Mapping[str, Range]) -> None:
        """Record changes of hyperparameters; ranges: of all that may change."""

    def film(self, seed: int, step: int, episode: Episode) -> None:
        """Write a video of an episode of an agent at its step."""

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

    def close(self, error: BaseException | None = None) -> None:
        """Close open files. error: what ended training, None if nothing did."""


class NoRecorder:
    """Records nothing: of the ranks that train a run together only the first one does. See `Recorder`."""

    config_hash = ""
    seconds = evaluating = 0.0

    def __init__(self, folder: Path, seeds: list[int]) -> None:
        self.folder, self.seeds, self.agents = folder, seeds, slice(0, len(seeds))
        self.checkpoint_path = folder / "checkpoint.pt"
        self.time: dict[str, float] = {}
        self.rows = [0] * len(seeds)
        self.diverged: dict[int, Divergence] = {}

    def retire(self, seed: int, divergence: Divergence) -> None:
        """Remember that an agent has diverged."""
        self.diverged[seed] = divergence

    def load(self) -> dict[str, Any]:
        """Not called, as the first rank reads the checkpoint."""
        raise NotImplementedError

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Write nothing."""

    open = begin = mark_training = spend = log = amend = change = film = save = finish = close = _nothing


class Display(Protocol):
    """Shows progress."""

    def start(self, total: int, first: int) -> AbstractContextManager[Any]:
        """Start the display. total: rows per agent; first: rows done by earlier launches."""

    def update(self, step: int, rate: float, score: float, final: bool = False) -> None:
        """Show progress: rows done, steps per second, mean return; final: this is the last call."""
