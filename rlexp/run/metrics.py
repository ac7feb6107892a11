"""Records of a run: metrics.csv, the source of truth, and TensorBoard events, made from the same rows."""

import contextlib
import csv
import io
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rlexp.algos.metric_names import CHARTS, KEYS, OF_THE_RUN
from rlexp.errors import CheckpointError, ObjectiveError
from rlexp.files import storing, write_atomically


def chart_group(metric: str) -> str:
    """The group of TensorBoard's charts that a metric belongs to; whatever the update returned is of the losses."""
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

    def resume(self, steps: Mapping[int, int], seconds: float, counts: Mapping[int, int]) -> None:
        """Cut metrics.csv back to the checkpoint, and make the event files anew from it.

        Args:
            steps: where each seed stands.
            seconds: of training by then.
            counts: rows that each seed had written by then.

        Raises:
            CheckpointError: metrics.csv cannot be read, or does not hold that many rows; nothing is changed.
        """
        rows = self.rows_until(steps, seconds, counts) if any(counts.values()) else []
        for folder in (self.folder, *(self.folder / f"seed_{seed}" for seed in self.seeds)):
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        write_atomically(self.path, self.text_of(rows))
        for row in rows:
            self._to_tensorboard(int(row["seed"]), int(row["step"]), float(row["wall_time"]), self._values(row))

    def rows_until(self, steps: Mapping[int, int], seconds: float, counts: Mapping[int, int]) -> list[dict[str, str]]:
        """Rows of metrics.csv up to the checkpoint; see `resume`."""
        way_out = "put it back as it was, or start anew with resume=never"
        rows, found, now = [], dict.fromkeys(counts, 0), float(_clock(seconds))
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or [])
                for row in reader:
                    if None in row or None in row.values():
                        continue  # a crash cut it short, or ran it into the next
                    seed, step, then = int(row["seed"]), int(row["step"]), float(row["wall_time"])
                    # an update of nothing but resets leaves its seed at the same step: the time tells such rows apart
                    if step < steps[seed] or (step == steps[seed] and then <= now):
                        self._values(row)  # can be read
                        rows.append(row)
                        found[seed] += 1
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error!r}); {way_out}") from None
        for seed, count in counts.items():
            if found[seed] != count:
                raise CheckpointError(
                    f"{self.path}: holds {found[seed]} rows of seed {seed} up to the checkpoint instead of {count}; "
                    f"{way_out}"
                )
        return rows

    def text_of(self, rows: Iterable[Mapping[str, str]]) -> bytes:
        """A metrics.csv of these rows."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def _values(self, row: Mapping[str, str]) -> dict[str, float]:
        return {name: float(row[name]) for name in self.columns if name not in KEYS and row[name] != ""}

    def sync(self) -> None:
        """Have the rows so far on the disk, so that no checkpoint outlives those that it counts."""
        if self.columns:
            with storing(self.path), open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def write(self, steps: np.ndarray, wall_time: float, metrics: Mapping[str, np.ndarray]) -> None:
        """One row an agent. steps (A,); wall_time, seconds of training so far; metrics, name -> (A,), NaN: nothing yet.

        Raises:
            ObjectiveError: metrics that the first row did not have.
            StorageError: it cannot be written.
        """
        with storing(self.path):
            self._write(steps, wall_time, metrics)

    def _write(self, steps: np.ndarray, wall_time: float, metrics: Mapping[str, np.ndarray]) -> None:
        if not self.columns:
            self.columns = [*KEYS, *metrics]
            with open(self.path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(self.columns)
        unknown = set(metrics) - set(self.columns)
        if unknown:
            raise ObjectiveError(
                f"metrics {sorted(unknown)} were not in the first row of {self.path}: an objective gives the same ones "
                f"at each update, NaN where there is none yet"
            )
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            for k, seed in enumerate(self.seeds):
                values = {name: float(column[k]) for name, column in metrics.items() if not math.isnan(column[k])}
                row = {"seed": seed, "step": int(steps[k]), "wall_time": _clock(wall_time)}
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
            with contextlib.suppress(OSError):  # of a full disk; they are made anew from metrics.csv
                writer.close()
        self.writers.clear()


def _clock(seconds: float) -> str:
    """The time as it is written."""
    return f"{seconds:.3f}"


def _told(value: Any) -> bool | int | float | str:
    """A setting as TensorBoard's hparams take it."""
    if isinstance(value, bool | int | float | str):
        return value
    return str(list(value)) if isinstance(value, tuple) else str(value)
