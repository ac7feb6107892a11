"""Records of a run: metrics.csv, the source of truth, and TensorBoard events, made from the same rows."""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rlexp.errors import CheckpointError

KEYS = ("seed", "step", "wall_time")
# Where TensorBoard shows a metric; what the algorithm or the learner returned goes under losses/.
CHARTS = ("episodic_return", "episodic_length")
OF_THE_RUN = ("episodes", "steps_per_second", "learning_rate")  # say little of a seed beside the others


def chart_group(metric: str) -> str:
    """The group of charts that a metric belongs to."""
    if metric in CHARTS or metric in OF_THE_RUN:
        return "charts" if metric in CHARTS else "run"
    return "memory" if metric.startswith("anchor_") else "losses"


def tag(metric: str) -> str:
    """TensorBoard's name of a metric in the events of one agent."""
    return f"{chart_group(metric)}/{metric}"


def seed_tag(metric: str, seed: int) -> str:
    """TensorBoard's name of the same in the events of the whole run."""
    return f"seeds/{metric}/{seed}"


def layout(metrics: Iterable[str]) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Pages of CUSTOM SCALARS, page -> chart -> kind and tags: one chart a metric, with all seeds of every run."""
    pages: dict[str, dict[str, tuple[str, list[str]]]] = {"charts": {}, "memory": {}, "losses": {}}  # in this order
    for name in metrics:
        if name not in (*KEYS, *OF_THE_RUN):
            pages[chart_group(name)][name] = ("Multiline", [f"^seeds/{re.escape(name)}/"])
    return {name: charts for name, charts in pages.items() if charts}


class MetricsLog:
    """Appends one row an agent and logging step to metrics.csv and to TensorBoard's event files.

    Each agent's folder has its scalars and hparams. The run's own has the config as text, and those of all agents once
    more under a tag a seed, so that TensorBoard's CUSTOM SCALARS draw an arm in one colour.

    Args:
        folder: the run's folder.
        seeds: one an agent.
        hparams: plain settings, shown in TensorBoard's HPARAMS beside the scalars of each agent.
        started: time of the run's first start, seconds since 1970.
    """

    def __init__(self, folder: Path, seeds: list[int], hparams: Mapping[str, Any], started: float) -> None:
        self.folder, self.seeds, self.started = folder, seeds, started
        self.hparams = {key: _told(value) for key, value in hparams.items()}
        self.path = folder / "metrics.csv"
        self.columns: list[str] = []
        self.writers: dict[int | None, EventFileWriter] = {}  # by seed; None: the whole run's

    def resume(self, steps: Mapping[int, int]) -> None:
        """Cut metrics.csv back to the checkpoint, (seed -> step), and make the event files anew from it.

        Raises:
            CheckpointError: metrics.csv cannot be read.
        """
        for folder in (self.folder, *(self.folder / f"seed_{seed}" for seed in self.seeds)):
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        if not self.path.is_file():
            return
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or [])
                # a row that a crash cut short has None in its missing columns
                rows = [
                    row for row in reader if None not in row.values() and int(row["step"]) <= steps[int(row["seed"])]
                ]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error!r}); start anew with resume=never") from None
        temporary = self.path.with_suffix(".csv.tmp")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)
        for row in rows:
            values = {name: float(row[name]) for name in self.columns if name not in KEYS and row[name] != ""}
            self._to_tensorboard(int(row["seed"]), int(row["step"]), float(row["wall_time"]), values)

    def write(self, steps: np.ndarray, wall_time: float, metrics: Mapping[str, np.ndarray]) -> None:
        """One row an agent. steps (A,); wall_time, seconds of training so far; metrics, name -> (A,), NaN: nothing yet.

        Raises:
            ValueError: metrics that the first row did not have.
        """
        if not self.columns:
            self.columns = [*KEYS, *metrics]
            with open(self.path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(self.columns)
        unknown = set(metrics) - set(self.columns)
        if unknown:
            raise ValueError(f"metrics {sorted(unknown)} were not in the first row of {self.path}")
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            for k, seed in enumerate(self.seeds):
                values = {name: float(column[k]) for name, column in metrics.items() if not math.isnan(column[k])}
                row = {"seed": seed, "step": int(steps[k]), "wall_time": f"{wall_time:.3f}"}
                writer.writerow(row | {name: f"{value:.9g}" for name, value in values.items()})
                self._to_tensorboard(seed, int(steps[k]), wall_time, values)

    def _to_tensorboard(self, seed: int, step: int, wall_time: float, values: Mapping[str, float]) -> None:
        time = self.started + wall_time
        of_all = {seed_tag(name, seed): value for name, value in values.items() if name not in OF_THE_RUN}
        for place, scalars in ((seed, {tag(name): value for name, value in values.items()}), (None, of_all)):
            if place not in self.writers:
                self.writers[place] = self._open(place)
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()])
            self.writers[place].add_event(Event(wall_time=time, step=step, summary=summary))

    def _open(self, seed: int | None) -> EventFileWriter:
        # imported here: it costs a second, and only runs that write need it
        from torch.utils.tensorboard import summary

        if seed is None:
            folder = self.folder
            lines = "\n".join(f"    {key}: {value}" for key, value in self.hparams.items())
            first = [summary.text("config", lines), summary.custom_scalars(layout(self.columns))]
        else:
            folder = self.folder / f"seed_{seed}"
            # without the list of hparams that would come first: TensorBoard takes that of one run for all runs
            first = list(summary.hparams({**self.hparams, "seed": seed}, {}))[1:]
        writer = EventFileWriter(str(folder))
        for part in first:
            writer.add_event(Event(wall_time=self.started, step=0, summary=part))
        return writer

    def close(self) -> None:
        """Close every event file."""
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()


def _told(value: Any) -> bool | int | float | str:
    """A setting as TensorBoard's hparams take it."""
    if isinstance(value, bool | int | float | str):
        return value
    return str(list(value)) if isinstance(value, tuple) else str(value)
