"""Agents that have diverged are retired, and a run of which none is left fails."""

import logging

import numpy as np

from rlexp.errors import DivergedError
from rlexp.training.divergence import Divergence, remedy
from rlexp.training.learner import Learner
from rlexp.training.recorder import Recorder

log = logging.getLogger(__name__)


class Retiring:
    """The part of `Trainer` that retires agents; attributes are those of `Trainer`."""

    learner: Learner
    runs: list[Recorder]
    seeds: list[int]
    steps: np.ndarray
    alive: np.ndarray
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
            self.alive[agent] = False
        left = [agent for agent in agents if self.alive[agent]]
        for agent in new if left else ():
            told = (
                f"{run.diverged[self.seeds[agent]].describe()}; it is retired, and {len(left)} of {len(agents)} seeds"
            )
            line = f"seed {self.seeds[agent]} {told} go on. {remedy(self.update_number)}"
            log.warning("%s", line, extra={"folder": run.folder})  # to the train.log of this run only
        for agent in agents if left else ():
            if not self.alive[agent]:
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
