"""Writes the files of one run: its agents are a slice of those in the batch."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.config.identity import config_hash, flatten
from rlexp.files import write_atomically
from rlexp.loggers.make import Loggers, tagged
from rlexp.run import checkpoint
from rlexp.run.metrics import MetricsLog, chart_group
from rlexp.run.record import RunRecord
from rlexp.run.video import remove_after, write_video
from rlexp.signals import Interrupted, Paused
from rlexp.training.divergence import Divergence
from rlexp.training.evaluation import summarize
from rlexp.training.how import Choice
from rlexp.training.live import Change, Range
from rlexp.training.watching import Episode

Episodes = list[list[dict[str, Any]]]  # of a frozen evaluation, by agent


class RunWriter:
    """Writes run.json, metrics.csv, TensorBoard's events, the checkpoint and the final evaluation of one run.

    config: its identity, see `jobs.job.settings_of`; first: index of its first agent in the batch; choices: in each
    config group; loggers: where its records go besides.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        seeds: list[int],
        first: int = 0,
        choices: dict[str, str] | None = None,
        loggers: Loggers | None = None,
    ) -> None:
        self.folder, self.config, self.seeds = folder, config, seeds
        self.config_hash, self.checkpoint_path = config_hash(config), folder / "checkpoint.pt"
        self.agents = slice(first, first + len(seeds))
        self.seconds = 0.0  # of training, over all launches
        self.time: dict[str, float] = {}  # seconds by activity; see `training/timing.py`
        self.evaluating = 0.0  # seconds of evaluation during training, not part of the above
        self.together = len(seeds)  # agents in the batch, those of other runs included
        self.rows = [0] * len(seeds)  # of metrics.csv, by seed
        self.diverged: dict[int, Divergence] = {}  # by seed
        self.changes = 0  # of hyperparameters, see `training/live.py`
        self.record = RunRecord(folder)
        self.record.data["choices"] = choices or self.record.data.get("choices", {})
        self.loggers = loggers or Loggers()
        self.logged = 0  # step of the last row, of all seeds on average
        self.metrics_log = MetricsLog(folder, seeds, flatten(config))

    def open(self, steps: np.ndarray) -> None:
        """Truncate metrics.csv and the event files to where the run starts or resumes: `steps` of all agents (A,)."""
        self.metrics_log.started = self.record.data.setdefault("started_unix", time.time())
        at = dict(zip(self.seeds, steps[self.agents].tolist(), strict=True))
        remove_after(self.folder, at)
        self.metrics_log.resume(at, self.seconds, dict(zip(self.seeds, self.rows, strict=True)))
        self.logged = int(steps[self.agents].mean())
        known = self.record.data.get("loggers", {}) if self.logged else {}  # of a run that begins anew they are others
        self.loggers.open(known)
        self.record.data |= {"loggers": known | self.loggers.ids} if self.loggers.ids else {}
        if self.loggers.subject is not None and self.loggers.subject.tags:
            self.record.data["tags"] = list(self.loggers.subject.tags)

    def begin(self, together: int, how: Mapping[str, Choice]) -> None:
        """Record that the run starts or resumes. together: agents in the batch; how: see `training/how.py`."""
        self.together = together
        self._note(how)
        self.record.start(self.config, self.seeds, together)

    def _note(self, how: Mapping[str, Choice]) -> None:
        # written with the next change
        self.record.data["how"] = {name: choice._asdict() for name, choice in how.items()}
        seconds = {part: round(spent, 3) for part, spent in self.time.items()}
        self.record.data["time"] = {"of_agents": self.together, "seconds": seconds}
        self.record.data["diverged"] = {str(seed): entry._asdict() for seed, entry in self.diverged.items()}
        if self.evaluating:
            self.record.data["time"]["evaluation"] = round(self.evaluating, 3)

    def mark_training(self) -> None:
        """Record that training starts: a death of the process from now on may be the run's fault."""
        self.record.update(training=True)

    def retire(self, seed: int, divergence: Divergence) -> None:
        """Record that an agent has diverged: from now on it is neither logged nor evaluated."""
        self.diverged[seed] = divergence
        self.record.update(diverged={str(seed): entry._asdict() for seed, entry in self.diverged.items()})

    def spend(self, seconds: float, split: Mapping[str, float]) -> None:
        """Add the seconds of one update of the batch, in total and split by activity."""
        self.seconds += seconds
        for part, spent in split.items():
            self.time[part] = self.time.get(part, 0.0) + spent

    def log(self, steps: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log one row per agent that has not diverged; steps and metrics of all agents (A,)."""
        of_run = {name: values[self.agents] for name, values in metrics.items()}
        self.metrics_log.write(steps[self.agents], self.seconds, of_run, without=self.diverged)
        self.logged = int(steps[self.agents].mean())
        self._send(of_run)
        self.rows = [count + (seed not in self.diverged) for seed, count in zip(self.seeds, self.rows, strict=True)]

    def _send(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Send metrics of the run's agents to the loggers, less those that have diverged."""
        if not self.loggers.loggers:
            return
        diverged = np.array([seed in self.diverged for seed in self.seeds])
        known = {name: np.where(diverged, np.nan, values) for name, values in metrics.items()}
        started = float(self.record.data["started_unix"])
        self.loggers.log(self.logged, started + self.seconds, tagged(chart_group, self.seeds, known))

    def amend(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Set cells of each agent's last row; metrics of all agents (A,)."""
        of_run = {name: values[self.agents] for name, values in metrics.items()}
        self.metrics_log.amend(of_run)
        self.logged += 1  # what loggers have of a step cannot be changed
        self._send(of_run)

    def change(self, changes: Sequence[Change], ranges: Mapping[str, Range]) -> None:
        """Record changes of hyperparameters in TensorBoard and run.json, which also has the ranges of all."""
        for change in changes:
            text = f"{change.key} is {change.value}, was {change.before}, from update {change.update + 1} on"
            self.metrics_log.note(change.step, self.seconds, "live", text)
        self.changes += len(changes)
        live = {"changes": self.changes, "ranges": {key: list(between) for key, between in ranges.items()}}
        self.record.update(live=live)

    def film(self, seed: int, step: int, episode: Episode) -> None:
        """Write a video of an episode of an agent at its step."""
        path = write_video(self.folder, f"training_seed_{seed}-step_{step}", step, episode)
        self.loggers.video(self.logged, f"training_seed_{seed}", path)

    def save(self, state: dict[str, Any], how: Mapping[str, Choice]) -> None:
        """Write the checkpoint, after the rows that it counts."""
        self._note(how)
        self.metrics_log.sync()
        self.loggers.sync()
        checkpoint.save(self.checkpoint_path, state)
        if self.record.data.pop("deaths", 0):  # the run has made progress since
            self.record.update()

    def load(self) -> dict[str, Any]:
        """Read the checkpoint; a CheckpointError if it is missing, damaged, or of another run."""
        return checkpoint.load(self.checkpoint_path, config_hash=self.config_hash)

    def finish(
        self, steps: np.ndarray, returns: np.ndarray, evaluation: Episodes | None, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the result to run.json, and status done; null for agents that have diverged.

        steps, returns: of all agents (A,), NaN before the first.
        """
        of_run = steps[self.agents]
        alive = [seed not in self.diverged for seed in self.seeds]
        result: dict[str, Any] = {
            "steps": [int(count) if is_alive else None for count, is_alive in zip(of_run, alive, strict=True)],
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(float(of_run.sum()) / self.seconds, 1),
            "training_return": [None if np.isnan(r) else round(float(r), 4) for r in returns[self.agents]],
        }
        if evaluation is not None:
            each = zip(self.seeds, evaluation[self.agents], alive, strict=True)
            found = {seed: e for seed, e, is_alive in each if is_alive}
            content = summarize(list(found), list(found.values()), settings)
            write_evaluation(self.folder, content)
            means = {agent["seed"]: round(agent["mean_return"], 4) for agent in content["agents"]}
            result["evaluation_return"] = [means.get(seed) for seed in self.seeds]
        self.metrics_log.close()
        self.loggers.close("done", _means(result))
        self.record.update(status="done", result=result, files=self.record.digests())
        return result

    def close(self, error: BaseException | None = None) -> None:
        """Close the event files and the loggers. error: what ended training, None if nothing did."""
        self.metrics_log.close()
        self.loggers.close("interrupted" if isinstance(error, Interrupted | Paused | None) else "failed", {})


def _means(result: Mapping[str, Any]) -> dict[str, float]:
    """Entries of a result, those of several seeds by their mean over seeds that have not diverged."""
    each = {name: value if isinstance(value, list) else [value] for name, value in result.items()}
    there = {name: [x for x in values if x is not None] for name, values in each.items()}
    return {name: float(np.mean(values)) for name, values in there.items() if values}


def write_evaluation(folder: Path, content: dict[str, Any]) -> None:
    """Write evaluation.json."""
    write_atomically(folder / "evaluation.json", (json.dumps(content, indent=1) + "\n").encode())
