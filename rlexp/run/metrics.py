"""Logged metrics: metrics.csv, the source of truth, and TensorBoard events made from its rows."""

import contextlib
import csv
import io
import math
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rlexp.algos.metric_names import CHARTS, EVALUATIONS, KEYS, OF_THE_RUN, RESERVED
from rlexp.errors import CheckpointError, ObjectiveError
from rlexp.files import storage_errors, write_atomically

HPARAM = (bool, int, float, str)  # types that TensorBoard's hparams accept


def chart_group(metric: str) -> str:
    """TensorBoard group of a metric; metrics returned by the update belong to "losses"."""
    if metric in (*CHARTS, *EVALUATIONS):
        return "charts"
    if metric in OF_THE_RUN:
        return "run"
    return "memory" if metric.startswith("anchor_") else "losses"


def _cell(value: float) -> str:
    """A value in metrics.csv; empty: no value."""
    return "" if math.isnan(value) else f"{value:.9g}"


def layout(metrics: Iterable[str]) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Layout of CUSTOM SCALARS, page -> chart -> kind and tags: one chart per metric with all seeds of every run."""
    pages: dict[str, dict[str, tuple[str, list[str]]]] = {"charts": {}, "memory": {}, "losses": {}}  # in this order
    for name in metrics:
        if name not in (*KEYS, *OF_THE_RUN):
            pages[chart_group(name)][name] = ("Multiline", [f"^seeds/{re.escape(name)}/"])
    return {name: charts for name, charts in pages.items() if charts}


class MetricsLog:
    """Appends one row per agent and logging step to metrics.csv and to TensorBoard's event files.

    Each agent's folder has its scalars and hparams. The run's folder has the config as text, and the scalars of all
    agents again under per-seed tags, so that TensorBoard's CUSTOM SCALARS draw an arm in one colour.

    hparams: flat settings; started: time of the run's first start, seconds since 1970.
    """

    def __init__(self, folder: Path, seeds: list[int], hparams: Mapping[str, Any], started: float = 0.0) -> None:
        self.folder, self.seeds, self.started = folder, seeds, started
        listed = {key: list(value) if isinstance(value, tuple) else value for key, value in hparams.items()}
        self.hparams = {key: value if isinstance(value, HPARAM) else str(value) for key, value in listed.items()}
        self.path = folder / "metrics.csv"
        self.columns: list[str] = []
        self.writers: dict[int | None, EventFileWriter] = {}  # by seed; None: the run's
        self.notes: list[Event] = []  # texts of the run

    def resume(self, steps: Mapping[int, int], seconds: float, counts: Mapping[int, int]) -> None:
        """Cut metrics.csv and the events to a checkpoint; a CheckpointError, and no change, if rows are missing."""
        self._rewrite(self.rows_until(steps, seconds, counts) if any(counts.values()) else [])

    def amend(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Set cells of each agent's last row. metrics: name -> (A,), NaN: no value."""
        self._add_columns(metrics)
        rows = self._rows()
        last = {int(row["seed"]): row for row in rows}
        for k, seed in enumerate(self.seeds):
            known = {name: column[k] for name, column in metrics.items() if not math.isnan(column[k])}
            last.get(seed, {}).update({name: _cell(value) for name, value in known.items()})
        self._rewrite(rows)

    def _add_columns(self, names: Iterable[str]) -> None:
        """Add columns that are missing: the run was started by an earlier version, or with other settings."""
        self.columns += [name for name in names if name not in self.columns]

    def _rows(self) -> list[dict[str, str]]:
        with storage_errors(self.path), open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Replace metrics.csv and the events by these rows."""
        self.close()
        for folder in (self.folder, *(self.folder / f"seed_{seed}" for seed in self.seeds)):
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        with storage_errors(self.path):
            write_atomically(self.path, self.text_of(rows))
        for row in rows:
            self._to_tensorboard(int(row["seed"]), int(row["step"]), float(row["wall_time"]), self._values(row))

    def rows_until(self, steps: Mapping[int, int], seconds: float, counts: Mapping[int, int]) -> list[dict[str, str]]:
        """Rows of metrics.csv up to the checkpoint; see `resume`."""
        remedy = "restore the original, or train from scratch with resume=never"
        rows, found, now = [], dict.fromkeys(counts, 0), float(f"{seconds:.3f}")
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or [])
                for row in reader:
                    if None in row or None in row.values():
                        continue  # torn by a crash
                    seed, step, then = int(row["seed"]), int(row["step"]), float(row["wall_time"])
                    # an update of resets only leaves its seed at the same step: wall_time tells such rows apart
                    if step < steps[seed] or (step == steps[seed] and then <= now):
                        self._values(row)  # raises if it is not numeric
                        rows.append(row)
                        found[seed] += 1
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error!r}); {remedy}") from None
        for seed, count in counts.items():
            if found[seed] != count:
                held = f"holds {found[seed]} rows of seed {seed} up to the checkpoint instead of {count}"
                raise CheckpointError(f"{self.path}: {held}; {remedy}")
        return rows

    def text_of(self, rows: Iterable[Mapping[str, str]]) -> bytes:
        """Content of a metrics.csv with these rows."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def _values(self, row: Mapping[str, str]) -> dict[str, float]:
        return {name: float(row[name]) for name in self.columns if name not in KEYS and row.get(name)}

    def sync(self) -> None:
        """Sync the rows so far to disk, so that no checkpoint outlives the rows that it counts."""
        if self.columns:
            with storage_errors(self.path), open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def write(
        self, steps: np.ndarray, wall_time: float, metrics: Mapping[str, np.ndarray], without: Container[int] = ()
    ) -> None:
        """Write one row per agent. steps (A,); wall_time: seconds of training; metrics: name -> (A,), NaN: no value.

        without: seeds of agents that get none.

        An ObjectiveError: metrics that the first row lacks. A StorageError: the file cannot be written.
        """
        unknown = set(metrics) - set(self.columns or metrics)
        if unknown and unknown <= RESERVED:
            self._add_columns(metrics)
            self._rewrite(self._rows())
        elif unknown:
            raise ObjectiveError(
                f"metrics {sorted(unknown)} were not in the first row of {self.path}: return the same metrics in each "
                f"update, NaN where there is no value yet"
            )
        mode = "a" if self.columns else "w"
        self.columns = self.columns or [*KEYS, *metrics]
        with storage_errors(self.path), open(self.path, mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            if mode == "w":
                writer.writeheader()
            for k, seed in [each for each in enumerate(self.seeds) if each[1] not in without]:
                values = {name: float(column[k]) for name, column in metrics.items() if not math.isnan(column[k])}
                row = {"seed": seed, "step": int(steps[k]), "wall_time": f"{wall_time:.3f}"}
                writer.writerow(row | {name: _cell(value) for name, value in values.items()})
                self._to_tensorboard(seed, int(steps[k]), wall_time, values)

    def _to_tensorboard(self, seed: int, step: int, wall_time: float, values: Mapping[str, float]) -> None:
        time = self.started + wall_time
        of_agent = {f"{chart_group(name)}/{name}": value for name, value in values.items()}
        of_run = {f"seeds/{name}/{seed}": value for name, value in values.items() if name not in OF_THE_RUN}
        for key, scalars in ((seed, of_agent), (None, of_run)):
            if key not in self.writers:
                self.writers[key] = self._open(key)
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()])
            self.writers[key].add_event(Event(wall_time=time, step=step, summary=summary))

    def note(self, step: int, wall_time: float, tag: str, text: str) -> None:
        """Add a text to the run's folder."""
        from torch.utils.tensorboard import summary  # see `_open`

        event = Event(wall_time=self.started + wall_time, step=step, summary=summary.text(tag, text))
        self.notes.append(event)
        if None in self.writers:
            self.writers[None].add_event(event)

    def _open(self, seed: int | None) -> EventFileWriter:
        # imported here: it takes a second, and only runs that write need it
        from torch.utils.tensorboard import summary

        if seed is None:
            folder = self.folder
            lines = "\n".join(f"    {key}: {value}" for key, value in self.hparams.items())
            first = [summary.text("config", lines), summary.custom_scalars(layout(self.columns))]
        else:
            folder = self.folder / f"seed_{seed}"
            # without the experiment summary, which comes first: TensorBoard applies one run's to all runs
            first = list(summary.hparams({**self.hparams, "seed": seed}, {}))[1:]
        writer = EventFileWriter(str(folder.absolute()))  # its thread writes while a logger may be elsewhere
        for part in first:
            writer.add_event(Event(wall_time=self.started, step=0, summary=part))
        for note in self.notes if seed is None else ():
            writer.add_event(note)
        return writer

    def close(self) -> None:
        """Close every event file."""
        for writer in self.writers.values():
            with contextlib.suppress(OSError):  # disk full; resuming rewrites them from metrics.csv
                writer.close()
        self.writers.clear()
