"""Run-level settings of the training loop, as plain values."""

from dataclasses import dataclass
from typing import Any

from rlexp.training.kept import Which


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Run-level settings of the training loop; conf/config.yaml explains them."""

    total_steps: int
    stop_at: int | None  # rows per agent after which the run pauses
    checkpoint_every: int
    log_every: int
    evaluation: dict[str, Any]  # of the final policy: episodes, deterministic, max_steps
    evaluate_every: int | None  # rows per agent between evaluations during training
    curve_episodes: int  # of each of those
    video_every: int | None  # rows per agent between videos
    weights: Which = "last"  # which are evaluated at the end: last, average, best
    average_decay: float = 0.99
    population: int = 1  # agents that belong together
