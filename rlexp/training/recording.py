"""What a trainer records of an update, and of the whole run, through the runs' recorders."""

import math

import numpy as np
import torch
from torch import Tensor

from rlexp.algos.base import Metrics
from rlexp.algos.metric_names import CHARTS, EVALUATIONS, OF_THE_RUN, PARAMETER
from rlexp.data import Rollout
from rlexp.signals import Interrupted
from rlexp.training.divergence import not_finite
from rlexp.training.evaluating import Evaluating
from rlexp.training.recorder import Display, Recorder
from rlexp.training.resume import Resumable
from rlexp.training.retiring import Retiring
from rlexp.training.timing import UPDATE, Clock


class Recording(Evaluating, Retiring, Resumable):
    """The part of `Trainer` that records; attributes are those of `Trainer`."""

    clock: Clock
    display: Display

    def _record(self, rollout: Rollout, losses: Metrics, observed: Metrics) -> None:
        """Count an update, retire agents that it made diverge, and write what is due: metrics, video, checkpoint.

        Raises:
            DivergedError: all agents of a run have diverged.
        """
        steps = rollout.steps * self.alive
        self.steps += steps
        self.games.count(rollout.games)
        # the only device synchronisation of an update
        values = _to_host(losses | {PARAMETER: self.learner.health()} | observed)
        self.clock.lap(UPDATE, compiling=self.learner.compiling)
        seconds = self.clock.seconds
        for run in self.runs:
            run.spend(seconds, self.clock.split)
        bad = not_finite({name: values[name] for name in (*losses, PARAMETER)}, self.alive)
        del values[PARAMETER]
        going = self.runs
        if bad or not self.alive.all():
            going = [run for run in self.runs if self._retire(run, bad)]
        self._log(values, float(steps.sum()) / seconds, going)
        last = self.update_number == self.num_updates
        if self.settings.video_every is not None and (last or self._due(self.settings.video_every)):
            self._film(going if self.ranks.first else [])
        if len(going) < len(self.runs):
            self.save(going)
            raise self._diverged(bad, going)
        compiles = self.learner.compiled and self.update_number == 1  # next; a stop may abandon that and lose nothing
        if (compiles or self._due(self.settings.checkpoint_every)) and not last:
            self.save()

    @property
    def pause_at(self) -> float:
        """Number of updates after which the run pauses; infinity: never."""
        return math.inf if self.settings.stop_at is None else math.ceil(self.settings.stop_at / self.rows)

    def _log(self, values: dict[str, np.ndarray], rate: float, runs: list[Recorder]) -> None:
        final = self.update_number in (self.num_updates, self.pause_at)  # paused runs are compared by their last row
        returns, lengths = self.games.window(self.alive)
        known = returns[~np.isnan(returns)]
        score = float(known.mean()) if len(known) else float("nan")
        self.display.update(self.update_number * self.rows, rate, score, final)
        if not (final or self._due(self.settings.log_every)):
            return
        lr = np.broadcast_to(self.learner.lr((self.update_number - 1) / self.num_updates), len(self.seeds))
        charts = dict(zip(CHARTS, (returns, lengths, self.games.next_row()), strict=True))
        if self.curve is not None:
            charts |= dict.fromkeys(EVALUATIONS, np.full(len(self.seeds), np.nan))
        charts |= dict(
            zip(OF_THE_RUN, (self.games.finished.astype(float), np.full(len(self.seeds), rate), lr), strict=True)
        )
        signum = 0
        if runs and self.evaluation_due(self.update_number):
            try:
                charts |= self._evaluate(runs) if self.ranks.first else {}
            except Interrupted as stop:
                signum = stop.signum
            signum = self.ranks.highest(signum)
            self.unevaluated = list(runs) if signum else []
        for run in runs:
            run.log(self.steps, charts | values)
        if signum:
            self.save(runs)
            raise Interrupted(signum)

    def finish(self) -> None:
        """Write the last checkpoint, evaluate, and record the results."""
        self.save()
        returns, _ = self.games.window(self.alive)
        evaluation = self._final_evaluation() if self.ranks.first else None
        for run in self.runs:
            run.finish(self.steps, returns, evaluation, self.settings.evaluation)


def _to_host(metrics: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Copy all metrics in one transfer: name -> (A,)."""
    device = next(iter(metrics.values())).device
    stacked = torch.stack([value.to(device).float() for value in metrics.values()]).cpu().numpy()
    return dict(zip(metrics, stacked, strict=True))
