"""Divergence: an agent whose numbers are not finite any more is retired, and the others go on as if it were healthy.

Agents side by side are independent, so only the environments must be kept from a retired agent's numbers: after each
update its parameters and statistics are overwritten with those of the run's first agent that is left. So it acts
validly and does not learn. An objective by which agents share something leaves out what it does: `Rollout.alive`. It is
neither logged nor evaluated; a run ends when its last agent has diverged.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Divergence(NamedTuple):
    """When and in what an agent diverged; in run.json and in the checkpoint, by seed."""

    step: int  # environment steps of the agent
    update: int  # from 1
    metric: str
    value: str  # nan, inf or -inf, which JSON has no numbers for

    def describe(self) -> str:
        """In one line, without the seed."""
        return f"diverged in update {self.update}, at step {self.step}: {self.metric} is {self.value}"


def not_finite(metrics: Mapping[str, np.ndarray], alive: np.ndarray) -> dict[int, tuple[str, float]]:
    """Agents, of those not retired, with a metric that is NaN or infinite: agent -> (name, value) of the first one.

    metrics: name -> (A,); alive: (A,).
    """
    bad: dict[int, tuple[str, float]] = {}
    for name, values in metrics.items():
        for agent in np.flatnonzero(~np.isfinite(values) & alive).tolist():
            bad.setdefault(agent, (name, float(values[agent])))
    return bad


def remedy(update: int) -> str:
    """Remedy for a metric that is not finite."""
    if update > 1:
        return "Try a smaller optimizer.lr or algo.max_grad_norm"
    return (
        "In the first update the cause is the loss or the environment's numbers, unless optimizer.lr is huge; "
        "inspect with debug=true"
    )
