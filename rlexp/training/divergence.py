"""Divergence: an agent whose numbers are not finite any more is retired, and the others go on as if it were healthy.

Agents side by side are independent, so only the environments must be kept from a retired agent's numbers: after each
update its parameters and statistics are overwritten with those of the run's first agent that is left. So it acts
validly and does not learn. An objective by which agents share something leaves out what it does: `Rollout.live`. It is
neither logged nor evaluated; a run ends when its last agent has diverged.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rlexp.errors import DivergedError
from rlexp.training.learner import Learner
from rlexp.training.recorder import Recorder

log = logging.getLogger(__name__)


class Divergence(NamedTuple):
    """When and in what an agent diverged; in run.json and in the checkpoint, by seed."""

    step: int  # environment steps of the agent
    update: int  # from 1
    metric: str
    value: str  # nan, inf or -inf, which JSON has no numbers for

    def describe(self) -> str:
        """In one line, without the seed."""
        return f"diverged in update {self.update}, at step {self.step}: {self.metric} is {self.value}"


def not_finite(metrics: Mapping[str, np.ndarray], live: np.ndarray) -> dict[int, tuple[str, float]]:
    """Agents, of those not retired, with a metric that is NaN or infinite: agent -> (name, value) of the first one.

    metrics: name -> (A,); live: (A,).
    """
    bad: dict[int, tuple[str, float]] = {}
    for name, values in metrics.items():
        for agent in np.flatnonzero(~np.isfinite(values) & live).tolist():
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


class Retiring:
    """The part of `Trainer` that retires agents; attributes are those of `Trainer`."""

    learner: Learner
    runs: list[Recorder]
    seeds: list[int]
    steps: np.ndarray
    live: np.ndarray
    update_number: int

    def _retire(self, run: Recorder, bad: dict[int, tuple[str, float]]) -> bool:
        """Retire agents of a run in `bad`, which names a metric and its value, and keep all retired ones valid.

        Returns whether any is left; if not, the run fails.
        """
        agents = range(run.agents.start, run.agents.stop)
        new = [agent for agent in agents if agent in bad]
        for agent in new:
            name, value = bad[agent]
            divergence = Divergence(int(self.steps[agent]), self.update_number, name, str(value))
            run.retire(self.seeds[agent], divergence)
            self.live[agent] = False
        left = [agent for agent in agents if self.live[agent]]
        for agent in new if left else ():
            told = (
                f"{run.diverged[self.seeds[agent]].describe()}; it is retired, and {len(left)} of {len(agents)} seeds"
            )
            line = f"seed {self.seeds[agent]} {told} go on. {remedy(self.update_number)}"
            log.warning("%s", line, extra={"folder": run.folder})  # to the train.log of this run only
        for agent in agents if left else ():
            if not self.live[agent]:
                self.learner.copy_agent(left[0], agent)
        return bool(left)

    def _diverged(self, bad: dict[int, tuple[str, float]], going: list[Recorder]) -> DivergedError:
        lines = {}
        for run in self.runs:
            if run not in going:
                agent = next(agent for agent in bad if run.agents.start <= agent < run.agents.stop)
                name, value = bad[agent]
                kept = run.checkpoint_path.is_file()
                lines[run.folder] = (
                    f"update {self.update_number}: {name} of seed {self.seeds[agent]} is {value}"
                    f"{', and every other seed has diverged' if len(run.seeds) > 1 else ''}; "
                    f"{'the last good checkpoint is kept' if kept else 'there is no checkpoint yet'}. "
                    f"{remedy(self.update_number)}"
                )
        first, *others = lines.values()
        return DivergedError(first + (f" (and {len(others)} more jobs diverged)" if others else ""), lines)
