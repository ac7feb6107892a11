"""Going on from a finished run with more total_steps (resume=extend), in a folder of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlexp.errors import CheckpointError
from rlexp.files import file_digest, write_atomically
from rlexp.jobs.extend_from import extended, is_extending, schedules
from rlexp.jobs.inherit import checkpoint_of, misfit
from rlexp.jobs.init_from import Parent
from rlexp.jobs.job import Job
from rlexp.run import checkpoint
from rlexp.run.metrics import MetricsLog
from rlexp.run.writer import RunWriter
from rlexp.training.trainer import Trainer


@dataclass
class Takeover:
    """What a run takes over of the finished one that it extends: read and checked, not yet written."""

    parent: Parent
    state: dict[str, Any]  # the checkpoint, as the new run's own
    metrics: bytes  # of metrics.csv
    lines: list[str]  # for the log

    def write(self, run: RunWriter) -> None:
        """Leave it in the run's folder, from where it goes on as after a stop. The checkpoint comes last."""
        write_atomically(run.folder / "metrics.csv", self.metrics)
        record = self.parent.record
        kept = {key: record[key] for key in ("started_unix", "sources", "made_by", "code") if key in record}
        run.record.update(
            **kept,
            status="interrupted",
            error=f"extends {self.parent.folder}, not begun",
            config=run.config,
            config_hash=run.config_hash,
            seeds=run.seeds,
            extends=self.parent.told(),
            **({"parent": record["parent"]} if "parent" in record else {}),
        )
        checkpoint.save(run.checkpoint_path, self.state)


def takeovers(trainer: Trainer, jobs: Sequence[Job], writers: Sequence[RunWriter]) -> list[Takeover | None]:
    """For each job what it takes over, if it extends a run and has no checkpoint of its own yet; nothing is written.

    Raises:
        ConfigError: there is nothing to extend.
        CheckpointError: what there is cannot be used.
    """
    return [
        _read(trainer, job, own) if is_extending(job.cfg) and not own.checkpoint_path.is_file() else None
        for job, own in zip(jobs, writers, strict=True)
    ]


def _read(trainer: Trainer, job: Job, own: RunWriter) -> Takeover:
    parent = extended(job.cfg, job.settings)
    way_out = "train anew with resume=auto"
    state = checkpoint_of(parent, f"resume={job.cfg.resume}", way_out)
    path = parent.folder / "metrics.csv"
    digest = parent.record.get("files", {}).get("metrics.csv")
    if path.is_file() and digest is not None and file_digest(path) != digest:
        raise CheckpointError(f"{path}: was edited after the run; put it back as it was, or {way_out}")
    try:
        progress = state["trainer"]
        update, counts = int(progress["update_number"]), [int(count) for count in progress["rows"]]
        steps = dict(zip(job.seeds, progress["steps"], strict=True))
        source = MetricsLog(parent.folder, job.seeds, {}, 0.0)
        rows = source.rows_until(steps, float(progress["seconds"]), dict(zip(job.seeds, counts, strict=True)))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{misfit(parent, error)}; {way_out}") from error
    if not _is_due(trainer, update):  # the last row is there because the run ended
        rows, counts = _without_last(rows), [count - 1 for count in counts]
    state["config_hash"], state["trainer"] = own.config_hash, {**progress, "rows": counts}
    return Takeover(parent, state, source.text_of(rows), _told(trainer, job, parent, update))


def _is_due(trainer: Trainer, update: int) -> bool:
    """Whether a run that goes on writes rows after this update."""
    made, every = update * trainer.rows, trainer.settings.log_every
    return update in (trainer.num_updates, trainer.pause_at) or made // every > (made - trainer.rows) // every


def _without_last(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows less the last of each seed."""
    last = {row["seed"]: number for number, row in enumerate(rows)}
    return [row for number, row in enumerate(rows) if number != last[row["seed"]]]


def _told(trainer: Trainer, job: Job, parent: Parent, update: int) -> list[str]:
    made, before = update * trainer.rows, max(1, parent.total_steps // trainer.rows)
    lines = [f"extending {parent.folder} from {made} to {trainer.total_rows} steps"]
    old, new = (update - 1) / before, update / trainer.num_updates
    for name, value in schedules(job.cfg).items():
        lines.append(
            f"{name} is stretched over the new total_steps: {value(old):.6g} in the last update there, "
            f"{value(new):.6g} in the first here"
        )
    if len(lines) > 1:
        lines.append(
            "so this is not the run that these total_steps alone would have given; extended_at tells them apart"
        )
    compiled = parent.record.get("how", {}).get("compiled")
    if isinstance(compiled, dict) and bool(compiled.get("value")) != bool(trainer.how["compiled"].value):
        lines.append(
            "one of the two is compiled and the other is not: up to rounding this is the uninterrupted run; with "
            "compile=true, or false, of both it is bit for bit"
        )
    return lines
