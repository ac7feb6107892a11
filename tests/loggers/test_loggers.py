"""One file and one yaml make a logger; nothing that it does ends a run."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SUPPORT, curves, jobs, make_jobs, record, refusal, stop_after, train, trainer_of
from own_logger import Forks, Lines

import rlexp.compare.__main__ as compare
from rlexp.compare.logged import send
from rlexp.errors import LoggerError
from rlexp.loggers.base import Subject
from rlexp.loggers.make import Loggers, tagged
from rlexp.run.writer import RunWriter
from rlexp.training.divergence import Divergence

TINY = ["tuned=none", "log_every=256", "progress=none", "evaluation.episodes=2", "study=s", "compile=false"]
SHORT = [*TINY, "total_steps=4096", "algo.rollout_steps=64"]
OWN = "lines:\n  _target_: own_logger.Lines\n  file: lines.jsonl\n  fail_in: null\n  how: error\n"


@pytest.fixture
def own(tmp_path):
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "lines.yaml").write_text(OWN)


def lines(folder):
    return Loggers({"lines": Lines()}, Subject("s", "job", folder / "s" / "job", folder, {}))


def calls(folder, *kinds):
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    return [line for line in lines if not kinds or line["call"] in kinds]


def rows_of(job):
    with open(job / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_by_tag_are_those_of_the_seed_or_means_over_seeds_and_each():
    values = {"return": np.array([1.0, 3.0, np.nan]), "speed": np.array([5.0, 5.0, 5.0]), "none": np.full(3, np.nan)}
    group = {"return": "charts", "speed": "run", "none": "losses"}.get
    found = tagged(group, [4, 5, 6], values)
    assert found == {"charts/return": 2.0, "seeds/return/4": 1.0, "seeds/return/5": 3.0, "run/speed": 5.0}
    assert tagged(group, [4], {"return": np.array([1.0])}) == {"charts/return": 1.0}


def test_a_logger_of_ones_own_gets_what_metrics_csv_gets(cli, tmp_path, own):
    result = cli(*SHORT, "logger=lines", "tags=[pilot,gpu]", "seed=3")
    assert result.code == 0, result.err
    (job,) = jobs()
    kinds = [line["call"] for line in calls(tmp_path)]
    assert kinds[:2] == ["check", "check"]  # of the command, then of the job
    assert [kind for kind in kinds if kind not in ("log", "sync", "check")] == ["open", "close"]
    (opened,) = calls(tmp_path, "open")
    assert (opened["study"], opened["name"], opened["tags"]) == ("s", job.name, ["pilot", "gpu"])
    assert opened["config"]["algo"] == record(job)["config"]["algo"]
    assert opened["config"]["seeds"] == [3]
    assert record(job)["loggers"] == {"lines": f"record of {job.name}"}
    assert record(job)["tags"] == ["pilot", "gpu"]
    sent, kept = calls(tmp_path, "log"), rows_of(job)
    assert [line["step"] for line in sent] == [int(row["step"]) for row in kept]
    for line, row in zip(sent, kept, strict=True):
        of_row = {name: float(x) for name, x in row.items() if x and name not in ("seed", "step", "wall_time")}
        assert {tag.partition("/")[2]: x for tag, x in line["values"].items()} == pytest.approx(of_row, rel=1e-6)
        assert line["time"] == pytest.approx(record(job)["started_unix"] + float(row["wall_time"]), abs=0.01)
    assert {"charts/episodic_return", "losses/approx_kl", "run/steps_per_second"} <= set(sent[-1]["values"])
    (closed,) = calls(tmp_path, "close")
    assert closed["status"] == "done"
    assert closed["result"]["evaluation_return"] == pytest.approx(record(job)["result"]["evaluation_return"][0])


def test_logging_is_no_part_of_what_a_run_is(cli, tmp_path, own):
    assert cli(*SHORT).code == 0
    (job,) = jobs()
    before = curves(".")
    result = cli(*SHORT, "logger=lines", "tags=[x]", "logger.lines.file=other.jsonl")
    assert "already done" in result.out
    assert jobs() == [job]
    assert curves(".") == before
    assert not (tmp_path / "lines.jsonl").exists()


def test_a_resumed_run_goes_on_with_its_record(cli, tmp_path, own):
    assert cli(*SHORT, "logger=lines", "stop_at=2048").code == 0
    assert calls(tmp_path, "close")[-1]["status"] == "interrupted"
    assert cli(*SHORT, "logger=lines").code == 0
    (job,) = jobs()
    first, second = calls(tmp_path, "open")
    assert (first["id"], second["id"]) == (None, f"record of {job.name}")
    assert [line["step"] for line in calls(tmp_path, "log")] == [int(row["step"]) for row in rows_of(job)]


@pytest.mark.slow
def test_a_run_that_begins_anew_has_a_record_of_its_own(cli, tmp_path, own):
    assert cli(*SHORT, "logger=lines").code == 0
    assert cli(*SHORT, "logger=lines", "resume=never").code == 0
    assert [line["id"] for line in calls(tmp_path, "open")] == [None, None]


def test_a_run_that_failed_before_its_first_checkpoint_has_a_new_record(cli, tmp_path, own):
    for _ in range(2):
        words = ["algo._target_=diverging.SpoilsPPO", "algo.victim=0", "algo.since=0.0"]
        assert cli(*SHORT, "logger=lines", *words).code == 1
    assert [line["id"] for line in calls(tmp_path, "open")] == [None, None]
    assert len({line["folder"] for line in calls(tmp_path, "open")}) == 1


def test_what_holds_metrics_back_sends_them_before_each_checkpoint(cli, tmp_path, own):
    assert cli(*SHORT, "logger=lines", "checkpoint_every=1024").code == 0
    kinds = [line["call"] for line in calls(tmp_path)]
    assert kinds.count("sync") == 4
    assert kinds[-2:] == ["sync", "close"]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("call", "how"), [("log", "error"), ("sync", "exit"), ("close", "exit"), ("log", "unspeakable")]
)
def test_a_logger_that_fails_while_the_run_goes_is_left_out(cli, tmp_path, own, call, how):
    result = cli(*SHORT, "logger=lines", f"logger.lines.fail_in={call}", f"logger.lines.how={how}")
    assert result.code == 0, result.err
    (job,) = jobs()
    assert record(job)["status"] == "done"
    told = [line for line in (job / "train.log").read_text().splitlines() if "logger=lines failed" in line]
    assert len(told) == 1
    assert {"error": "ConnectionError: no route to host", "exit": "SystemExit: 3", "unspeakable": "Unspeakable"}[
        how
    ] in told[0]
    assert len(rows_of(job)) > 4
    assert calls(tmp_path, call) == []


def test_a_logger_that_cannot_start_is_one_line_and_nothing_is_trained(cli, tmp_path, own):
    told = refusal(cli(*SHORT, "logger=lines", "logger.lines.fail_in=open"))
    assert "logger=lines: cannot start (ConnectionError: no route to host); logger=none does without it" in told
    assert not any((job / "metrics.csv").exists() for job in jobs())
    told = refusal(cli(*SHORT, "logger=lines", "logger.lines.fail_in=open", "logger.lines.how=setting"))
    assert "logger=lines: no such project" in told
    assert cli(*SHORT).code == 0  # without it


def test_a_failed_run_says_so(cli, tmp_path, own):
    result = cli(*SHORT, "logger=lines", "algo._target_=diverging.SpoilsPPO", "algo.victim=0")
    assert result.code == 1
    assert calls(tmp_path, "close")[-1]["status"] == "failed"


def test_seeds_that_diverge_are_not_in_the_means(tmp_path):
    values = {"loss": np.array([np.nan, 2.0])}
    assert tagged(lambda _: "losses", [0, 1], values) == {"losses/loss": 2.0, "seeds/loss/1": 2.0}


def test_jobs_of_a_batch_have_a_record_each(cli, tmp_path, own):
    words = ["-m", "hydra/launcher=batched", "optimizer.lr=1e-3,1e-4", "logger=lines", "num_seeds=2"]
    result = cli(*SHORT, *words)
    assert result.code == 0, result.err
    assert sorted(line["name"] for line in calls(tmp_path, "open")) == [job.name for job in jobs()]
    assert [line["status"] for line in calls(tmp_path, "close")] == ["done", "done"]
    assert {"seeds/episodic_return/0", "seeds/episodic_return/1"} <= set(calls(tmp_path, "log")[-1]["values"])


WRONG = {
    "logger=wandbb": "logger=wandbb: there is no such choice; did you mean wandb?",
    "logger=null": "logger=none leaves it out",
    "logger.wandb.project=x": "logger=wandb has it",
    "+logger.lines={_target_: own_logger.Lines, fil: x}": "logger.lines.fil=x: own_logger.Lines has no such setting",
    "+logger.lines={_target_: own_logger.json.dumps}": "not a class derived from rlexp.loggers.base.Logger",
    "+logger.lines={_target_: own_logger.Nothing}": "logger.lines._target_=own_logger.Nothing",
    "logger=[wandb,mlflo]": "logger=mlflo: there is no such choice; did you mean mlflow?",
    "tags=3": "tags",
    "tags=[a,'']": "tags=['a', '']: each must be a text of 1 to 64 characters",
    "+logger.lines=3": "logger.lines=3: a logger's yaml has one key",
    "+logger.lines={_target_: own_logger.Lines, fail_in: check}": "logger=lines: cannot be used (Conn",
    "+logger.lines={_target_: own_logger.Lines, fail_in: made}": "logger=lines: cannot be used (Conn",
}


@pytest.mark.few(5)
@pytest.mark.parametrize("word", WRONG)
def test_what_is_wrong_is_one_line(cli, word):
    assert WRONG[word] in refusal(cli(*SHORT, word))
    assert jobs() == []


def test_a_missing_extra_is_one_line(cli, monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        told = refusal(cli(*SHORT, f"logger={name}"))
        assert f"logger={name}: needs {name}, which is not installed: pip install 'rlexp[{name}]'" in told


def test_videos_of_training_reach_it(cli, tmp_path, own):
    pytest.importorskip("imageio_ffmpeg")
    result = cli(*SHORT, "logger=lines", "evaluation.video_every=2048", "evaluation.max_steps=20")
    assert result.code == 0, result.err
    videos = calls(tmp_path, "video")
    assert len(videos) == 2
    (job,) = jobs()
    assert [line["size"] for line in videos] == [p.stat().st_size for p in sorted((job / "videos").glob("*.mp4"))]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("where", "how"), [("check", "leaves"), ("open", "forks"), ("log", "forks"), ("log", "leaves"), ("close", "leaves")]
)
def test_it_neither_moves_the_run_nor_doubles_it(cli, tmp_path, own, monkeypatch, where, how):
    words = ["total_steps=512", "algo.rollout_steps=64"]
    assert cli(*TINY, *words, "study=plain").code == 0
    result = cli(*TINY, *words, "logger=lines", f"logger.lines.fail_in={where}", f"logger.lines.how={how}")
    assert result.code == 0, result.err
    assert Path.cwd() == tmp_path
    (plain,), (job,) = Path("outputs/plain").glob("*-*"), Path("outputs/s").glob("*-*")
    assert record(job)["status"] == "done"
    same = [[(row["seed"], row["step"], row["loss"]) for row in rows_of(folder)] for folder in (plain, job)]
    assert same[0] == same[1]
    assert result.out.count("done: ") == 1


def test_a_library_that_breaks_when_it_is_imported_is_one_line(cli, tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("raise TypeError('Descriptors cannot be created directly')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    result = cli(*SHORT, "logger=wandb")
    said = "logger=wandb: needs wandb, which cannot be imported (TypeError: Descriptors cannot be created directly)"
    assert (result.code, result.err) == (1, f"rlexp: {said}: pip install --force-reinstall 'rlexp[wandb]'\n")
    assert not jobs()


@pytest.mark.parametrize(
    ("does", "told"),
    [
        pytest.param("os.chdir('/')", "", marks=pytest.mark.slow),
        ("os.fork()", ""),
        ("sys.exit(4)", "cannot be imported: odd_logger.py:3: sys.exit(4) was"),
    ],
)
def test_what_its_module_does_when_it_is_imported_reaches_only_the_logger(tmp_path, does, told):
    (tmp_path / "odd_logger.py").write_text(f"import os, sys\nfrom own_logger import Lines\n{does}\n")
    command = [*SHORT, "total_steps=512", "+logger.lines={_target_: odd_logger.Lines}"]
    environment = os.environ | {"PYTHONPATH": SUPPORT}
    words = [sys.executable, "-m", "rlexp.train", *command]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if told:
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert told in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 1
    (job,) = (tmp_path / "outputs" / "s").glob("*-*")
    assert record(job)["status"] == "done"


def test_compare_sends_its_answer_and_what_it_wrote(cli, tmp_path, own, capsys):
    pytest.importorskip("scipy")
    assert cli("-m", *SHORT, "algo=ppo,ppo_kl", "num_seeds=2").code == 0
    # in a process of its own, in which nothing else has told Hydra where yamls are found
    command = ["outputs/s", "logger=lines", "figures=false", "logger.lines.file=lines.jsonl"]
    environment = os.environ | {"PYTHONPATH": SUPPORT}
    done = subprocess.run(
        [sys.executable, "-m", "rlexp.compare", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (sent,) = calls(tmp_path, "verdict")
    assert "ppo_kl" in sent["text"]
    assert sent["text"] in done.stdout
    tables = {"compare.csv", "scores.csv", "curves.csv", "last_rows.csv"}
    assert set(sent["files"]) == tables | {"compare.md", "compare.html"}
    (opened,) = calls(tmp_path, "open")
    assert (opened["study"], opened["name"]) == ("s", "compare")
    for words, part in {
        ("logger=lin",): "there is no such choice",
        ("logger.lines.file=x",): "logger=lines has it",
        ("logger=lines", "logger.lines.fail_in=open"): "cannot start",
    }.items():
        with pytest.raises(SystemExit):
            compare.main(["outputs/s", "figures=false", *words])
        told = capsys.readouterr().err
        assert part in told
        assert told.count("\n") == 1


def test_of_a_comparison_that_one_cannot_start_to_log_the_others_close(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = {"lines": Lines(), "other": Lines(fail_in="open")}
    with pytest.raises(LoggerError, match="logger=other: cannot start"):
        send(Loggers(both, Subject("s", "compare", tmp_path, tmp_path, {})), "apo is better", [])
    assert [line["status"] for line in calls(tmp_path, "close")] == ["failed"]


def test_a_run_that_is_stopped_within_python_closes_as_interrupted(tmp_path, own, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["+logger.lines._target_=own_logger.Lines", "total_steps=4096", "algo.rollout_steps=64"]
    trainer = trainer_of(make_jobs(tmp_path / "outputs" / "s" / "job", *words))
    stop_after(trainer, 2)
    with pytest.raises(BaseException, match="SIGTERM"):
        trainer.train(False)
    assert calls(tmp_path, "close")[-1]["status"] == "interrupted"
    train(tmp_path / "outputs" / "s" / "job", *words, resume=True)
    assert calls(tmp_path, "close")[-1]["status"] == "done"


def test_an_evaluation_made_later_is_sent_one_step_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = RunWriter(tmp_path / "s" / "job", {}, [5], loggers=lines(tmp_path))
    writer.folder.mkdir(parents=True)
    writer.open(np.array([0]))
    writer.log(np.array([30]), {"episodic_return": np.array([1.0])})
    writer.amend({"evaluation_return": np.array([2.0])})
    sent = [(line["step"], line["values"]) for line in calls(tmp_path, "log")]
    assert sent == [(30, {"charts/episodic_return": 1.0}), (31, {"charts/evaluation_return": 2.0})]


def test_what_a_seed_that_diverged_has_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = RunWriter(tmp_path / "s" / "job", {}, [5, 6], loggers=lines(tmp_path))
    writer.folder.mkdir(parents=True)
    writer.open(np.array([0, 0]))
    writer.diverged[5] = Divergence(10, 1, "loss", "nan")
    writer.log(np.array([30, 40]), {"loss": np.array([7.0, 1.0])})
    (sent,) = calls(tmp_path, "log")
    assert sent["values"] == {"losses/loss": 1.0, "seeds/loss/6": 1.0}


def test_what_a_logger_does_to_what_it_gets_reaches_nobody(cli, tmp_path, own):
    assert cli(*SHORT).code == 0
    before = curves(".")
    words = ["+logger.first._target_=own_logger.Vandal", "logger=lines"]
    assert cli(*SHORT, *words, "stop_at=2048", "resume=never").code == 0
    assert cli(*SHORT, *words).code == 0
    one, other = jobs()
    assert other.name == f"{one.name}_2"
    assert record(one)["config"] == record(other)["config"]
    assert curves(".")[other.name] == before[one.name]
    assert all(line["values"] for line in calls(tmp_path, "log"))


@pytest.mark.few(1)
@pytest.mark.parametrize("known", ["gone", 5, ["x"]])
def test_a_record_that_is_gone_is_begun_anew(cli, tmp_path, own, known):
    assert cli(*SHORT, "logger=lines", "stop_at=2048").code == 0
    (job,) = jobs()
    (job / "run.json").write_text(json.dumps(record(job) | {"loggers": {"lines": known}}))
    result = cli(*SHORT, "logger=lines")
    assert result.code == 0, result.err
    assert "logger=lines: cannot go on with the record" in (job / "train.log").read_text()
    assert [line["id"] for line in calls(tmp_path, "open")] == [None, None]
    assert record(job)["loggers"] == {"lines": f"record of {job.name}"}


@pytest.mark.few(1)
@pytest.mark.parametrize("launcher", ["basic", "batched"])
def test_a_sweep_whose_logger_cannot_start_is_trained_without_it_later(cli, tmp_path, own, launcher):
    words = ["-m", "algo.ent_coef=0,0.1", f"hydra/launcher={launcher}"]
    result = cli(*SHORT, *words, "logger=lines", "logger.lines.fail_in=open")
    assert result.code == 1
    assert "logger=lines: cannot start" in result.out + result.err
    assert "close" not in [line["call"] for line in calls(tmp_path)]  # of what never opened
    assert cli(*SHORT, *words).code == 0
    assert [record(job)["status"] for job in jobs()] == ["done", "done"]


def test_records_of_nested_studies_are_in_outputs(cli, tmp_path, own):
    assert cli(*SHORT, "logger=lines", "study=a/b").code == 0
    (opened,) = calls(tmp_path, "open")
    assert (opened["study"], opened["outputs"]) == ("a/b", "outputs")


def test_a_child_of_a_logger_does_not_go_on_as_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = Loggers({"forks": Forks()}, Subject("s", "job", tmp_path, tmp_path, {}))
    both.open({})
    both.log(1, 1.0, {"x": 1.0})
    with open("gone_on", "a") as file:
        file.write("x")
    assert Path("gone_on").read_text() == "x"  # of the run alone
    assert both.loggers["forks"].status == 1
