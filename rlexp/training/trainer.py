"""The training loop: collect -> advantages -> observe -> update -> record."""

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlexp.algos.advantages import GAE, Advantages
from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.return_scaler import ReturnScaler
from rlexp.checks.hook_outputs import require_distinct, require_observed
from rlexp.checks.location import located_errors
from rlexp.data import Rollout, RunSpec
from rlexp.envs import Environment
from rlexp.envs.checks import close
from rlexp.envs.torch_vector import TorchVectorEnv
from rlexp.errors import ConfigError, EnvironmentFault
from rlexp.networks.distributions import Distribution
from rlexp.plain.by_agent import Division
from rlexp.seeding import AgentStreams, no_global_randomness, seeded
from rlexp.signals import Interrupted, Paused, StopSignal
from rlexp.training.busy import ProcessorShare
from rlexp.training.collector import Collector
from rlexp.training.games import Games
from rlexp.training.how import Choice, describe
from rlexp.training.learner import Learner
from rlexp.training.live import Change, Live
from rlexp.training.ranks import Ranks
from rlexp.training.recorder import Display, Recorder
from rlexp.training.recording import Recording
from rlexp.training.settings import RunSettings
from rlexp.training.targets import Targets
from rlexp.training.timing import ACTING, REST, WARM_UP, WITH_ENVIRONMENT, Clock
from rlexp.watch import Watch

log = logging.getLogger(__name__)


class Trainer(Recording):
    """Trains agents of runs that differ only in per-agent settings.

    Args:
        environment: makes the environments.
        algo: the objective.
        gae: advantage estimation.
        learner: the agents' networks and optimizers.
        distribution: over the action space.
        streams: the agents' random streams.
        watch: watches environment calls.
        how: choices of how to compute: compiled, torch_threads, batching.
        runs: recorders, one per run, in the order of the agents.
        display: shows progress.
        settings: run-level settings.
        live: follows hyperparameters that are changed by hand; None: nothing is.
        ranks: processes that train together; see `ranks.py`.
        division: of the objective's state by agent.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        algo: Algorithm,
        gae: GAE,
        learner: Learner,
        distribution: Distribution,
        streams: list[AgentStreams],
        watch: Watch,
        how: dict[str, Choice],
        runs: list[Recorder],
        display: Display,
        settings: RunSettings,
        live: Live | None = None,
        ranks: Ranks | None = None,
        division: Division | None = None,
    ) -> None:
        self.ranks, self.division = ranks or Ranks(), division or Division()
        self.environment, self.algo, self.learner = environment, algo, learner
        self.streams, self.watch, self.runs, self.settings = streams, watch, runs, settings
        self.how, self.display, self.live_values, self.clock = how, display, live, Clock()
        self.seeds = [stream.seed for stream in streams]
        if environment.normalize_reward and not hasattr(gae, "gamma"):
            what = f"{type(gae).__name__} of gae has no gamma, by which returns are discounted"
            raise ConfigError(f"env.normalize_reward=true: {what}; give it one, or set env.normalize_reward=false")
        device = learner.device
        agents, num_envs = len(streams), environment.num_envs
        share = self.ranks.share(num_envs)
        envs, first_obs = watch.call(environment.start, self.env_seeds(), device=device, share=share)
        bootstraps = getattr(gae, "bootstrap_truncation", True)
        self.collector = Collector(
            envs,
            first_obs,
            distribution,
            streams,
            num_envs=num_envs,
            num_steps=algo.rollout_steps,
            device=device,
            watch=watch,
            final_obs=algo.final_obs if algo.final_obs != "none" or not bootstraps else "truncated",
            ranks=self.ranks,
        )
        self.acting = WITH_ENVIRONMENT if isinstance(envs, TorchVectorEnv) else ACTING
        self.scaler: ReturnScaler | None = None
        if environment.normalize_reward:
            self.scaler = ReturnScaler(agents, num_envs, gae.gamma, environment.clip_reward, device)
        self.targets = Targets(algo, gae, sign=environment.sign_reward, scaler=self.scaler)
        with located_errors(algo, "prepare"), seeded(0):
            algo.prepare(RunSpec(agents, num_envs, streams, device, settings.population))

        self.rows = num_envs * algo.rollout_steps  # of one agent's update
        self.num_updates = settings.total_steps // self.rows
        self.update_number = 0  # updates done
        self.steps = np.zeros(agents, np.int64)  # environment steps done, dummies not counted
        self.games = Games(agents)
        self.alive = np.ones(agents, bool)  # not retired; see `divergence.py`
        self.curve, self.kept = self._make_curve(), self._make_kept()
        self.unevaluated: list[Recorder] = []  # runs whose last row still lacks its evaluation, as a stop cut it short
        self.columns: set[str] | None = None  # names of the metrics that `observe` returned first
        self.copyable: bool | None = None  # whether the environments' state can be saved; checked when first needed

    # The loop ----------------------------------------------------------------------------------------------------

    def train(self, resume: bool, update: Callable[[], None] | None = None) -> None:
        """Train to the end, evaluate, and write the results.

        Args:
            resume: restore the runs' checkpoints first.
            update: makes one update; default: `iterate`.

        Raises:
            Interrupted: a signal stopped training; everything is saved.
            Paused: training reached `stop_at`; everything is saved.
            DivergedError: all agents of a run have diverged; the other runs are saved.
            CheckpointError: a checkpoint cannot be used.
        """
        with StopSignal() as stop, contextlib.ExitStack() as stack:
            self.watch.stop = stop
            stack.callback(self._close)
            if resume:
                self.restore()
            for run in self.runs:
                stack.push(partial(_close, run))
                run.open(self.steps)
            for run in self.runs:
                run.begin(len(self.streams), self.how)
            for run in self.runs:
                run.mark_training()  # from now on the run may be what kills the process
            if self.live_values is not None:
                self._change(self.live_values.begin(self.learner, self.update_number))
            if not resume and self.ranks.first:
                self.environment.try_steps(self.watch)
            if self.settings.video_every is not None and self.ranks.first:
                next(iter(self._episode(0)))  # a picture, so that what cannot be rendered is told now
            processor = ProcessorShare(torch.get_num_threads())
            with self.display.start(self.total_rows, self.update_number * self.rows):
                if self.unevaluated:
                    self._complete()
                first = self.update_number
                update = update or self.iterate
                while self.update_number < self.num_updates:
                    if signum := self.ranks.highest(stop.received or 0):
                        self.save()
                        raise Interrupted(signum)
                    if self.update_number >= self.pause_at:
                        self.save()
                        raise Paused(self.update_number * self.rows)
                    if self.live_values is not None:
                        self._change(self.live_values.follow(self.update_number, int(self.steps[0])))
                    update()
                    if self.update_number <= first + WARM_UP:
                        processor.restart()
                    processor.check()
            self.finish()

    def _change(self, changes: list[Change]) -> None:
        """Record changes of hyperparameters."""
        assert self.live_values is not None
        if changes or not self.update_number:
            self.runs[0].change(changes, self.live_values.ranges)

    def _close(self) -> None:
        """Close the environments."""
        close(self.collector.envs, self.environment.id)
        if self.curve is not None:
            self.curve.close()

    def describe_how(self) -> str:
        """How the agents are computed and why, in one line."""
        return describe(self.how, len(self.streams))

    def iterate(self) -> None:
        """One update: the loop body of the pseudocode in the PPO paper."""
        rollout = self._collect()
        targets = self.targets(rollout, self.learner.policies)  # advantages and returns
        observed = self._observe(rollout)
        losses = self._update(rollout, targets)
        require_distinct(self.algo, observed, losses)
        self._record(rollout, losses, observed)

    def _collect(self) -> Rollout:
        """A rollout of all agents."""
        self.clock.start()
        rollout = self.collector.collect(self.learner.acting(self.collector.slots))
        self.clock.lap(self.acting, environment=self.collector.seconds, compiling=self.learner.compiling)
        self._require_finite(rollout)
        rollout.alive = self.alive
        return rollout

    def _observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """Call the objective's `observe` and check its metrics, one value per agent."""
        first = self.columns is None
        with (
            located_errors(self.algo, "observe"),
            no_global_randomness("algo.observe") if first else contextlib.nullcontext(),
        ):
            observed = self.algo.observe(rollout)
        require_observed(self.algo, observed, len(self.seeds), self.columns)
        self.columns = self.columns or set(observed)
        return observed

    def _update(self, rollout: Rollout, targets: Advantages) -> Metrics:
        """Epochs of minibatches on a rollout. Returns each agent's mean metrics (A,)."""
        self.clock.lap(REST)
        last = self.update_number + 1 == self.num_updates
        losses = self.learner.update(rollout, targets, self.update_number / self.num_updates, last=last)
        self.learner.normalize(rollout)
        if self.kept is not None:
            self.kept.updated()
        self.update_number += 1
        return losses

    def _require_finite(self, rollout: Rollout) -> None:
        """Check the environments' outputs; see `Collector._flaw`.

        Raises:
            EnvironmentFault: one is invalid; names the environment, its number and the step.
        """
        flaw = rollout.flaw
        if flaw is not None:
            step = self.update_number * self.algo.rollout_steps + flaw.row + 1
            raise EnvironmentFault(
                f"env.id={self.environment.id}: environment {flaw.env} of seed {self.seeds[flaw.agent]} returned "
                f"{flaw.what}{flaw.detail}, at its step {step}; {flaw.remedy}"
            )


def _close(run: Recorder, kind: type | None, error: BaseException | None, traceback: Any) -> None:
    run.close(error)
