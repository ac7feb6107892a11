"""resume=extend: continues a finished run to a larger total_steps, in a new folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlexp.algos.metric_names import EVALUATIONS
from rlexp.errors import CheckpointError
from rlexp.files import file_digest, write_atomically
from rlexp.jobs.extend_from import find_extended, is_extending, schedules
from rlexp.jobs.inherit import checkpoint_of, misfit
from rlexp.jobs.init_from import Parent
from rlexp.jobs.job import Job
from rlexp.run import checkpoint
from rlexp.run.metrics import MetricsLog
from rlexp.run.record import diverged_in
from rlexp.run.writer import RunWriter
from rlexp.training.trainer import Trainer


@dataclass
class Extension:
    """State of a finished run, read and checked, for the run that extends it."""

    parent: Parent
    state: dict[str, Any]  # checkpoint, with the new run's config hash
    metrics: bytes  # of metrics.csv
    lines: list[str]  # for the log

    def write(self, run: RunWriter) -> None:
        """Write the state to the run's folder, which then resumes as after a stop. The checkpoint comes last."""
        write_atomically(run.folder / "metrics.csv", self.metrics)
        record = self.parent.record
        kept = {key: record[key] for key in ("started_unix", "sources", "made_by", "code", "declared") if key in record}
        run.record.update(
            **kept,
            status="interrupted",
            error=f"extends {self.parent.folder}, not started",
            config=run.config,
            config_hash=run.config_hash,
            seeds=run.seeds,
            extends=self.parent.summary(),
            **({"parent": record["parent"]} if "parent" in record else {}),
        )
        checkpoint.save(run.checkpoint_path, self.state)


def read_extensions(trainer: Trainer, jobs: Sequence[Job], writers: Sequence[RunWriter]) -> list[Extension | None]:
    """For each job the state that it extends; None if it extends none or has a checkpoint. Writes nothing.

    ConfigError: there is no run to extend; CheckpointError: its files cannot be used.
    """
    return [
        _read(trainer, job, run) if is_extending(job.cfg) and not run.checkpoint_path.is_file() else None
        for job, run in zip(jobs, writers, strict=True)
    ]


def _read(trainer: Trainer, job: Job, run: RunWriter) -> Extension:
    parent = find_extended(job.cfg, job.settings)
    remedy = "train from scratch with resume=auto"
    state = checkpoint_of(parent, f"resume={job.cfg.resume}", remedy)
    path = parent.folder / "metrics.csv"
    digest = parent.record.get("files", {}).get("metrics.csv")
    if path.is_file() and digest is not None and file_digest(path) != digest:
        raise CheckpointError(f"{path}: was edited after the run; restore the original, or {remedy}")
    try:
        progress = state["trainer"]
        update, counts = int(progress["update_number"]), [int(count) for count in progress["rows"]]
        steps = dict(zip(job.seeds, progress["steps"], strict=True))
        source = MetricsLog(parent.folder, job.seeds, {}, 0.0)
        rows = source.rows_until(steps, float(progress["seconds"]), dict(zip(job.seeds, counts, strict=True)))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{misfit(parent, error)}; {remedy}") from error
    alive = {str(seed) for seed in job.seeds} - {str(seed) for seed in diverged_in(parent.record)}
    last = {row["seed"]: row for row in rows if row["seed"] in alive}  # a retired seed has no row of the last update
    if trainer.curve is not None and not trainer.evaluation_due(update):  # it was only evaluated as the last row
        for row in last.values():
            row |= {name: "" for name in EVALUATIONS if name in row}
    made, every = update * trainer.rows, trainer.settings.log_every
    is_due = update in (trainer.num_updates, trainer.pause_at) or made // every > (made - trainer.rows) // every
    if not is_due:  # the last row was only written because the run ended
        rows = [row for row in rows if row is not last.get(row["seed"])]
        counts = [count - (str(seed) in alive) for seed, count in zip(job.seeds, counts, strict=True)]
        if "before_row" in progress:
            progress = {**progress, "since_row": progress["before_row"]}
    if update < trainer.num_updates and "before" in state.get("kept", {}):  # an evaluation as the run ended is no best
        state["kept"] = state["kept"]["before"]
    state["config_hash"], state["trainer"] = run.config_hash, {**progress, "rows": counts}
    return Extension(parent, state, source.text_of(rows), _log_lines(trainer, job, parent, update))


def _log_lines(trainer: Trainer, job: Job, parent: Parent, update: int) -> list[str]:
    made, before = update * trainer.rows, max(1, parent.total_steps // trainer.rows)
    lines = [f"extending {parent.folder} from {made} to {trainer.total_rows} steps"]
    for seed, entry in diverged_in(parent.record).items():
        lines.append(f"seed {seed} diverged there, at step {entry.get('step')}, and stays retired")
    old, new = (update - 1) / before, update / trainer.num_updates
    for name, value in schedules(job.cfg).items():
        lines.append(
            f"{name} is rescaled to the new total_steps: {value(old):.6g} in the last update there, {value(new):.6g} "
            f"in the first here"
        )
    if len(lines) > 1:
        lines.append("so this differs from an uninterrupted run with these total_steps; extended_at records that")
    compiled = parent.record.get("how", {}).get("compiled")
    if isinstance(compiled, dict) and bool(compiled.get("value")) != bool(trainer.how["compiled"].value):
        lines.append(
            "only one of the two runs is compiled: this equals the uninterrupted run up to rounding; with "
            "compile=true, or false, for both it is bit for bit"
        )
    return lines
