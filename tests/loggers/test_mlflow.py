"""MLflow on a local database: what it holds is what metrics.csv holds."""

import csv
import subprocess
import sys

import pytest
from helpers import jobs, record, refusal

from rlexp.loggers.base import Subject
from rlexp.loggers.mlflow import Mlflow

pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("default")  # of SQLAlchemy at what MLflow does

TINY = ["tuned=none", "total_steps=2048", "log_every=256", "progress=none", "evaluation.episodes=2", "study=s"]


def client(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder.absolute()}/outputs/mlflow.db")


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def rows_of(job):
    with open(job / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_in_whose_name_its_database_cannot_be_is_one_line(cli, tmp_path):
    said = "outputs=o?x: MLflow cannot keep its database in a folder with ? in its name; set logger.mlflow.tracking_uri"
    assert said in refusal(cli(*TINY, "logger=mlflow", 'outputs="o?x"'))
    assert not (tmp_path / "o").exists()


def test_a_run_and_its_resumption_are_one_run_of_theirs(cli, tmp_path):
    assert cli(*TINY, "logger=mlflow", "stop_at=1024", "tags=[pilot]").code == 0
    (job,) = jobs()
    found = client(tmp_path).get_run(record(job)["loggers"]["mlflow"])
    assert found.info.status == "KILLED"
    assert cli(*TINY, "logger=mlflow", "tags=[pilot]").code == 0
    found = client(tmp_path).get_run(record(job)["loggers"]["mlflow"])
    assert (found.info.status, found.info.run_name) == ("FINISHED", job.name)
    assert client(tmp_path).get_experiment(found.info.experiment_id).name == "s"
    assert found.data.tags["tag.pilot"] == "true"
    assert found.data.params["algo.clip_coef"] == str(record(job)["config"]["algo"]["clip_coef"])
    assert found.data.params["seeds"] == "(0,)"
    kept = rows_of(job)
    sent = client(tmp_path).get_metric_history(found.info.run_id, "losses/value_loss")
    assert [metric.step for metric in sent] == [int(row["step"]) for row in kept]
    assert [metric.value for metric in sent] == pytest.approx([float(row["value_loss"]) for row in kept], rel=1e-6)
    wanted = record(job)["result"]["evaluation_return"][0]
    assert found.data.metrics["result/evaluation_return"] == pytest.approx(wanted)


def test_rows_that_a_killed_run_repeats_are_not_there_twice(tmp_path):
    subject = Subject("s", "job", tmp_path, tmp_path / "outputs", {"a": {"b": 1}})
    (tmp_path / "outputs").mkdir()
    first = Mlflow()
    id = first.open(subject, None)
    for step in (10, 20, 30):
        first.log(step, 1000.0 + step, {"x": step / 2})
    first.sync()  # and then it was killed; its checkpoint is that of step 20
    second = Mlflow()
    assert second.open(subject, id) == id
    for step in (30, 40):
        second.log(step, 2000.0 + step, {"x": step / 2})
    second.close("done", {})
    found = client(tmp_path).get_metric_history(id, "x")
    assert [(metric.step, metric.value) for metric in found] == [(10, 5.0), (20, 10.0), (30, 15.0), (40, 20.0)]


def test_more_metrics_than_it_takes_at_once(tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    logger = Mlflow()
    id = logger.open(Subject("s", "job", tmp_path, tmp_path / "outputs", {f"k{n}": n for n in range(250)}), None)
    logger.sent = float("inf")  # nothing is sent before the end
    sizes, send = [], logger.client.log_batch
    monkeypatch.setattr(logger.client, "log_batch", lambda id, metrics: sizes.append(len(metrics)) or send(id, metrics))
    for step in range(30):
        logger.log(step, 1.0, {f"m{n}": float(n) for n in range(70)})
    logger.close("failed", {})
    assert sizes == [1000, 1000, 130]  # a server refuses more; the database does not
    found = client(tmp_path).get_run(id)
    assert found.info.status == "FAILED"
    assert len(found.data.params) == 250
    assert len(client(tmp_path).get_metric_history(id, "m69")) == 30


@pytest.mark.slow
def test_names_that_it_refuses_are_written_with_underscores(tmp_path):
    (tmp_path / "outputs").mkdir()
    logger = Mlflow()
    id = logger.open(Subject("s", "job", tmp_path, tmp_path / "outputs", {"k": {"a(b)": 1}}, ("lr>1",)), None)
    logger.log(1, 1.0, {"losses/kl[best|π]": 2.0})
    logger.close("done", {})
    found = client(tmp_path).get_run(id).data
    assert found.metrics == {"losses/kl_best_π_": 2.0, "run/step": 1.0}
    assert (found.params, found.tags["tag.lr_1"]) == ({"k.a_b_": "1"}, "true")


@pytest.mark.slow
def test_several_processes_make_one_database(tmp_path):
    code = (
        "import sys; from pathlib import Path; from rlexp.loggers.mlflow import Mlflow; "
        "from rlexp.loggers.base import Subject; logger = Mlflow(); "
        "logger.open(Subject('s', sys.argv[1], Path('.'), Path('outputs'), {'a': 1}), None); "
        "[logger.log(step, 1.0, {'x': 1.0}) or logger.sync() for step in range(20)]; logger.close('done', {})"
    )
    (tmp_path / "outputs").mkdir()
    started = [subprocess.Popen([sys.executable, "-c", code, name], cwd=tmp_path) for name in "abc"]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    (experiment,) = [each for each in client(tmp_path).search_experiments() if each.name == "s"]
    runs = client(tmp_path).search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b", "c"]
    for run in runs:
        assert len(client(tmp_path).get_metric_history(run.info.run_id, "x")) == 20


def test_the_verdict_is_its_description_and_files_are_artifacts(tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "compare.md").write_text("text")
    logger = Mlflow()
    id = logger.open(Subject("s", "compare", tmp_path, tmp_path / "outputs", {}), None)
    logger.verdict("apo is better", {"compare.md": tmp_path / "compare.md"})
    logger.video(3, "seed_0", tmp_path / "compare.md")
    logger.close("done", {})
    found = client(tmp_path).get_run(id)
    assert found.data.tags["mlflow.note.content"] == "apo is better"
    names = [file.path for at in ("", "videos") for file in client(tmp_path).list_artifacts(id, at)]
    assert {"compare.md", "videos/compare.md"} <= set(names)
    assert list((tmp_path / "outputs" / "mlflow").rglob("compare.md"))


def test_a_server_that_is_not_there_is_one_line(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = cli(*TINY, "logger=mlflow", "logger.mlflow.tracking_uri=http://127.0.0.1:9")
    assert result.code == 1
    assert "logger=mlflow: cannot start" in result.err
    assert result.err.count("\n") == 1
