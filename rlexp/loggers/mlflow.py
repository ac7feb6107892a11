"""MLflow: one run of theirs for each run here, in an experiment named after the study."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlexp.config.identity import flatten
from rlexp.errors import ConfigError
from rlexp.loggers.base import Logger, Subject

log = logging.getLogger(__name__)

SECONDS = 5.0  # between two writes of metrics: each takes a transaction, or a request
MOST = 1000  # metrics that MLflow takes at once
ENDED = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class Mlflow(Logger):
    """Logs to MLflow.

    tracking_uri: null is MLFLOW_TRACKING_URI, else a database in `outputs`, for `mlflow ui --backend-store-uri ...`;
    experiment: null is the study's name.
    """

    needs = ("mlflow", "mlflow")

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        self.tracking_uri, self.experiment = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"), experiment
        self.client: Any = None
        self.id, self.last, self.sent = "", -1, 0.0  # the last step that is recorded already; time of the last write
        self.held: list[Any] = []  # metrics that are yet to be written

    def open(self, subject: Subject, id: str | None) -> str:
        """Start a run, or go on with the one of this id."""
        local = subject.outputs.absolute() / "mlflow.db"
        if not self.tracking_uri and (odd := sorted(set("?%") & set(str(local)))):
            what = f"MLflow cannot keep its database in a folder with {' or '.join(odd)} in its name"
            raise ConfigError(f"outputs={subject.outputs}: {what}; set logger.mlflow.tracking_uri, or other outputs")
        uri = self.tracking_uri or f"sqlite:///{local}"
        guard = FileLock(f"{local}.lock") if not self.tracking_uri else contextlib.nullcontext()
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by default it tries for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        with guard:
            if not (self.tracking_uri or local.exists()):
                _make_database(local)
            self.client = _client(uri)
            experiment = self._experiment(subject, None if self.tracking_uri else local.parent / "mlflow")
        if id is None:
            tags = {_name(f"tag.{tag}"): "true" for tag in subject.tags} | {"study": subject.study}
            self.id = self.client.create_run(experiment, run_name=subject.name, tags=tags).info.run_id
            self._params(subject)
        else:
            self.id = id
            self.client.update_run(id, status="RUNNING")
            recorded = self.client.get_metric_history(id, "run/step")
            self.last = max((metric.step for metric in recorded), default=-1)
        log.info("mlflow: run %s of %s", self.id, uri, extra={"folder": subject.folder})
        return self.id

    def _experiment(self, subject: Subject, artifacts: Path | None) -> str:
        name = self.experiment or subject.study
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=artifacts and artifacts.as_uri()))

    def _params(self, subject: Subject) -> None:
        from mlflow.entities import Param

        params = [Param(_name(key), str(value)[:6000]) for key, value in flatten(dict(subject.config)).items()]
        for first in range(0, len(params), 100):
            self.client.log_batch(self.id, params=params[first : first + 100])

    def log(self, step: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Record metrics; steps that the run has already had before it was killed are left out."""
        from mlflow.entities import Metric

        if step <= self.last:
            return
        named = dict(values) | {"run/step": float(step)}
        self.held += [Metric(_name(name), value, int(unix_time * 1000), step) for name, value in named.items()]
        if time.monotonic() - self.sent > SECONDS:
            self.sync()

    def sync(self) -> None:
        """Write what is held back."""
        while self.held:
            batch, self.held = self.held[:MOST], self.held[MOST:]
            self.client.log_batch(self.id, metrics=batch)
        self.sent = time.monotonic()

    def video(self, step: int, name: str, path: Path) -> None:
        """Record an mp4 file."""
        self.client.log_artifact(self.id, str(path), "videos")

    def verdict(self, text: str, files: Mapping[str, Path]) -> None:
        """The answer becomes the run's description, the files its artifacts."""
        self.client.set_tag(self.id, "mlflow.note.content", text)
        self.client.set_tag(self.id, "verdict", text[:5000])
        for path in files.values():
            self.client.log_artifact(self.id, str(path))

    def close(self, status: str, result: Mapping[str, float]) -> None:
        """End the run."""
        self.sync()
        for name, value in result.items():
            self.client.log_metric(self.id, f"result/{name}", value)
        self.client.set_terminated(self.id, ENDED[status])


def _name(text: str) -> str:
    """A name that MLflow takes: with _ for what it refuses, such as brackets."""
    return re.sub(r"[^/\w.\- :]", "_", text)


def _make_database(path: Path) -> None:
    """Make the database, in one step: one that is made by half would be none for good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    for left in (temporary, temporary.with_name(f"{temporary.name}-journal")):
        left.unlink(missing_ok=True)
    store = _client(f"sqlite:///{temporary}")._tracking_client.store
    store.engine.dispose()
    temporary.replace(path)


def _client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)
