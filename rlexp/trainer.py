"""The training loop: collect -> advantages -> observe -> update -> record."""

import contextlib
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlexp import checkpoint, resume
from rlexp.advantages import GAE
from rlexp.algos.base import Algorithm
from rlexp.distributions import Distribution
from rlexp.envs import Environment
from rlexp.errors import DivergedError
from rlexp.evaluation import evaluate, summarize, write_evaluation
from rlexp.learner import Learner
from rlexp.logger import MetricsLog
from rlexp.normalize import ReturnScaler
from rlexp.progress import ProgressDisplay
from rlexp.rollout import Collector, FinishedEpisodes, RunSpec
from rlexp.run_folder import RunRecord, config_hash
from rlexp.seeding import AgentStreams, env_seeds
from rlexp.signals import Interrupted, StopSignal

WINDOW = 100  # episodes that episodic_return and episodic_length average over


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Run-level settings that the loop itself reads."""

    total_steps: int
    checkpoint_every: int
    log_every: int
    progress: Literal["auto", "bar", "lines", "none"]
    evaluation: dict[str, Any]
    config: dict[str, Any]  # the resolved config less what cannot change results


class Trainer:
    """One run: `num_seeds` agents trained side by side on the same config.

    Args:
        environment: makes the environments.
        algo: the objective.
        gae: advantage estimation.
        learner: the agents.
        distribution: over the action space.
        streams: the agents' random streams.
        folder: where the run writes.
        settings: run-level settings.
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
        folder: Path,
        settings: RunSettings,
    ) -> None:
        self.environment, self.algo, self.gae, self.learner = environment, algo, gae, learner
        self.streams, self.folder, self.settings = streams, folder, settings
        self.seeds = [stream.seed for stream in streams]
        device = learner.device
        agents, num_envs = len(streams), environment.num_envs
        envs, first_obs = environment.start(self.env_seeds(), device=device)
        self.collector = Collector(
            envs,
            first_obs,
            distribution,
            streams,
            num_envs=num_envs,
            num_steps=algo.rollout_steps,
            device=device,
        )
        self.scaler: ReturnScaler | None = None
        if environment.normalize_reward:
            self.scaler = ReturnScaler(agents, num_envs, gae.gamma, environment.clip_reward, device)
        algo.prepare(RunSpec(agents, num_envs, streams, device))

        self.rows = num_envs * algo.rollout_steps  # of one agent's update
        self.num_updates = settings.total_steps // self.rows
        self.update_number = 0  # updates made
        self.steps = np.zeros(agents, np.int64)  # environment steps made, dummies not counted
        self.episodes = np.zeros(agents, np.int64)  # finished
        self.recent = [deque[tuple[float, int]](maxlen=WINDOW) for _ in self.seeds]  # (return, length)
        self.seconds = 0.0  # of training, over all launches
        self.copyable: bool | None = None  # whether the environments' state can be saved; tried at the first need
        self.record = RunRecord(folder)

    def env_seeds(self, restart: int = 0) -> list[list[int]]:
        """Seeds of all environments, one list an agent; `restart` as in `seeding.env_seeds`."""
        return [env_seeds(stream.seed, self.environment.num_envs, restart) for stream in self.streams]

    # The loop ----------------------------------------------------------------------------------------------------

    def run(self, go_on: bool) -> dict[str, Any]:
        """Train to the end, evaluate, and return the result that run.json holds.

        Args:
            go_on: take up the checkpoint in the run's folder first.

        Raises:
            Interrupted: a signal stopped it; the run can be resumed.
            DivergedError: a NaN or infinite metric.
            CheckpointError: there is a checkpoint that cannot be used.
        """
        with StopSignal() as stop, contextlib.ExitStack() as stack:
            stack.callback(lambda: self.collector.envs.close())  # a resumed run may change them
            if go_on:
                self.resume()
            self.record.start(self.settings.config, self.seeds)
            started = self.record.data.setdefault("started_unix", time.time())
            self.metrics_log = MetricsLog(self.folder, self.seeds, _flat(self.settings.config), started)
            stack.callback(self.metrics_log.close)
            self.metrics_log.resume(dict(zip(self.seeds, self.steps.tolist(), strict=True)))
            display = ProgressDisplay(self.total_rows, self.update_number * self.rows, self.settings.progress)
            with display as self.display:
                while self.update_number < self.num_updates:
                    if stop.received is not None:
                        self.save()
                        raise Interrupted(stop.received)
                    self.iterate()
            return self.finish()

    @property
    def total_rows(self) -> int:
        """Rows of the whole run, an agent: environment steps, dummies included."""
        return self.num_updates * self.rows

    def iterate(self) -> None:
        """One update: what the pseudocode of the PPO paper does in a loop."""
        began = time.perf_counter()
        rollout = self.collector.collect(self.learner.act)
        rewards = rollout.rewards
        if self.scaler is not None:
            rewards = self.scaler(rewards, rollout.terminated | rollout.truncated, rollout.weights)
        targets = self.gae(rewards, rollout.values, rollout.last_values, rollout.terminated, rollout.truncated)
        observed = self.algo.observe(rollout)
        progress = self.update_number / self.num_updates
        losses = self.learner.update(rollout, targets, progress)
        self.learner.normalize(rollout)

        made = rollout.steps
        self.update_number += 1
        self.steps += made
        self._count(rollout.episodes)
        values = _to_host(losses | observed)  # the update's one wait for the device
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self._require_finite(values, list(losses))
        self._log(values, progress, float(made.sum()) / seconds)
        if self._due(self.settings.checkpoint_every) and self.update_number < self.num_updates:
            self.save()

    def _count(self, episodes: FinishedEpisodes) -> None:
        np.add.at(self.episodes, episodes.agents, 1)
        for agent, score, length in zip(episodes.agents, episodes.returns, episodes.lengths, strict=True):
            self.recent[agent].append((float(score), int(length)))

    def _due(self, every: int) -> bool:
        """Whether the update just made crossed a multiple of `every` rows."""
        return self.update_number * self.rows // every > (self.update_number - 1) * self.rows // every

    def _require_finite(self, values: dict[str, np.ndarray], names: list[str]) -> None:
        for name in names:
            if not np.isfinite(values[name]).all():
                agent = int(np.flatnonzero(~np.isfinite(values[name]))[0])
                raise DivergedError(
                    f"update {self.update_number}: {name} of seed {self.seeds[agent]} is {values[name][agent]}; "
                    f"the last good checkpoint is kept. Try a smaller optimizer.lr or algo.max_grad_norm"
                )

    # Records -----------------------------------------------------------------------------------------------------

    def _window(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean return and length of each agent's last episodes, (A,); NaN before the first."""
        means = [np.mean(list(recent), axis=0) if recent else (np.nan, np.nan) for recent in self.recent]
        returns, lengths = np.array(means, float).T
        return returns, lengths

    def _log(self, values: dict[str, np.ndarray], progress: float, rate: float) -> None:
        final = self.update_number == self.num_updates
        returns, lengths = self._window()
        known = returns[~np.isnan(returns)]
        score = float(known.mean()) if len(known) else float("nan")
        self.display.update(self.update_number * self.rows, rate, score, final)
        if not (final or self._due(self.settings.log_every)):
            return
        charts = {
            "episodic_return": returns,
            "episodic_length": lengths,
            "episodes": self.episodes.astype(float),
            "steps_per_second": np.full(len(self.seeds), rate),
            "learning_rate": np.full(len(self.seeds), self.learner.lr(progress)),
        }
        self.metrics_log.write(self.steps, self.seconds, charts | values)

    def finish(self) -> dict[str, Any]:
        """Last checkpoint, final evaluation, run.json: done."""
        self.save()
        returns, _ = self._window()
        result: dict[str, Any] = {
            "steps": self.steps.tolist(),
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(float(self.steps.sum()) / self.seconds, 1),
            "training_return": [None if np.isnan(r) else round(float(r), 4) for r in returns],
        }
        settings = self.settings.evaluation
        if settings["episodes"]:
            results = evaluate(
                self.learner.policy,
                self.collector.distribution,
                self.environment,
                len(self.seeds),
                device=self.learner.device,
                **settings,
            )
            content = summarize(self.seeds, results, settings)
            write_evaluation(self.folder, content)
            result["evaluation_return"] = [round(agent["mean_return"], 4) for agent in content["agents"]]
        self.metrics_log.close()
        self.record.finish(result)
        return result

    @property
    def checkpoint_path(self) -> Path:
        """The run's one checkpoint."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write everything the run needs to go on as if it had never stopped."""
        checkpoint.save(self.checkpoint_path, resume.capture(self))

    def resume(self) -> None:
        """Take up the checkpoint in the run's folder.

        Raises:
            CheckpointError: missing, damaged, or of another run.
        """
        resume.take_up(self, checkpoint.load(self.checkpoint_path, config_hash=config_hash(self.settings.config)))


def _to_host(metrics: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """All metrics in one transfer: name -> (A,)."""
    device = next(iter(metrics.values())).device
    stacked = torch.stack([value.to(device).float() for value in metrics.values()]).cpu().numpy()
    return dict(zip(metrics, stacked, strict=True))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys with values that TensorBoard's hparams take."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
