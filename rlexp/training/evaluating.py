"""When policies are evaluated and filmed: during training, and at its end."""

import logging
from typing import Any

import numpy as np
from torch import Tensor

from rlexp.algos.metric_names import EVALUATIONS
from rlexp.envs import Environment
from rlexp.seeding import curve_seeds
from rlexp.signals import Interrupted
from rlexp.text import one_line
from rlexp.training.collector import Collector
from rlexp.training.curve import EvaluationCurve
from rlexp.training.evaluation import evaluate
from rlexp.training.kept import Kept
from rlexp.training.learner import Learner
from rlexp.training.ranks import Ranks
from rlexp.training.recorder import Recorder
from rlexp.training.settings import RunSettings
from rlexp.training.watching import Episode
from rlexp.watch import Watch

log = logging.getLogger(__name__)


class Evaluating:
    """The part of `Trainer` that evaluates; attributes are those of `Trainer`."""

    environment: Environment
    collector: Collector
    learner: Learner
    watch: Watch
    settings: RunSettings
    seeds: list[int]
    steps: np.ndarray
    alive: np.ndarray
    rows: int
    num_updates: int
    update_number: int
    curve: EvaluationCurve | None
    kept: Kept | None
    unevaluated: list[Recorder]
    ranks: Ranks

    def _due(self, every: int) -> bool:
        """Whether the last update crossed a multiple of `every` rows."""
        return self.update_number * self.rows // every > (self.update_number - 1) * self.rows // every

    def _make_curve(self) -> EvaluationCurve | None:
        """What evaluates during training, if `evaluation.every` is set."""
        if self.settings.evaluate_every is None:
            return None
        return EvaluationCurve(
            self.environment,
            self.collector.distribution,
            self.learner,
            every=self.settings.evaluate_every,
            episodes=self.settings.curve_episodes,
            max_steps=self.settings.evaluation["max_steps"],
            watch=self.watch,
        )

    def evaluation_due(self, update: int) -> bool:
        """Whether a row of metrics.csv after this update has an evaluation: `every` rows were crossed since the last.

        A row that is only there because the run pauses does not count as the last: later rows are evaluated as if
        it had not paused.
        """
        return self.curve is not None and (update == self.num_updates or self._crossed(self.curve, update))

    def _crossed(self, curve: EvaluationCurve, update: int) -> bool:
        log_every = self.settings.log_every
        before = -((update - 1) * self.rows // log_every * log_every // -self.rows)  # update of the row before
        return curve.is_due(update * self.rows, before * self.rows)

    def _make_kept(self) -> Kept | None:
        """What keeps the weights that are evaluated at the end, unless they are the last."""
        which = self.settings.weights
        return None if which == "last" else Kept(which, self.settings.average_decay, self.learner)

    def _evaluate(self, runs: list[Recorder]) -> dict[str, np.ndarray]:
        """Evaluation of the runs' agents whose parameters are finite: name -> (A,), NaN for others.

        One that is only made because the run pauses cannot be the best; one made because it ends can, in this run.
        """
        assert self.curve is not None
        update = self.update_number
        extra = not (self._due(self.settings.log_every) and self._crossed(self.curve, update))  # none in a longer run
        agents = self.alive & np.isfinite(self.learner.health().cpu().numpy())
        agents &= np.isin(np.arange(len(agents)), np.concatenate([np.r_[run.agents] for run in runs]))
        before = self.curve.seconds
        try:
            found = self.curve.evaluate(agents)
            if self.kept is not None and (not extra or update == self.num_updates):
                likeliest, sampled = EVALUATIONS
                self.kept.evaluated(found[likeliest if self.settings.evaluation["deterministic"] else sampled], extra)
            return found
        finally:
            for run in runs:
                run.evaluating += self.curve.seconds - before

    def _film(self, runs: list[Recorder]) -> None:
        """A video of each run's first agent that is not retired; a stop leaves it out, and so does an error."""
        for run in runs:
            agent = next(k for k in range(run.agents.start, run.agents.stop) if self.alive[k])
            try:
                run.film(self.seeds[agent], int(self.steps[agent]), self._episode(agent))
            except Interrupted:
                pass
            except Exception as error:  # of the environment, or its pictures; training has nothing to do with it
                log.warning("no video: %s", one_line(str(error)), extra={"folder": run.folder})

    def _episode(self, agent: int) -> Episode:
        """An episode of an agent to be watched, the same each time."""
        (seed,), agents = curve_seeds(1), len(self.seeds)

        def policy(obs: Tensor) -> Tensor:
            obs = obs.to(self.learner.device).expand(agents, *obs.shape)
            return self.learner.policy(obs)[0][agent]

        steps, distribution = self.settings.evaluation["max_steps"], self.collector.distribution
        return Episode(policy, distribution, self.environment, seed, max_steps=steps, watch=self.watch)

    def _complete(self) -> None:
        """Evaluate what a stop cut short before this launch."""
        if self.curve is not None and self.ranks.first:
            found = self._evaluate(self.unevaluated)
            for run in self.unevaluated:
                run.amend(found)
        self.unevaluated = []

    def _final_evaluation(self) -> list[list[dict[str, Any]]] | None:
        """Evaluation of the final policies, or of those that `evaluation.weights` names."""
        settings = self.settings.evaluation
        if not settings["episodes"]:
            return None
        if self.curve is not None:
            self.curve.close()  # its environments have played their last
        tensors = None if self.kept is None else self.kept.tensors
        return evaluate(
            lambda obs: self.learner.policy(obs, tensors),
            self.collector.distribution,
            self.environment,
            len(self.seeds),
            device=self.learner.device,
            watch=self.watch,
            **settings,
        )
