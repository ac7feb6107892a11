"""Weights & Biases in offline mode: what its own file holds is what metrics.csv holds."""

import csv
import json
import struct

import pytest
from helpers import jobs as folders
from helpers import record

from rlexp.loggers.base import Subject
from rlexp.loggers.wandb import Wandb

pytest.importorskip("wandb")

TINY = ["tuned=none", "total_steps=2048", "log_every=256", "progress=none", "evaluation.episodes=2", "study=s"]
OFFLINE = ["logger=wandb", "logger.wandb.mode=offline"]
BLOCK = 2**15


def records(file):
    """Records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def launches(tmp_path):
    return [records(file) for file in sorted(tmp_path.glob("outputs/wandb/offline-run-*/*.wandb"))]


def name_of(item):
    return item.key or "/".join(item.nested_key)


def history(launch):
    """Rows: step -> name -> value."""
    found = {}
    for one in (entry.history for entry in launch if entry.WhichOneof("record_type") == "history"):
        values = {name_of(item): json.loads(item.value_json) for item in one.item}
        found[values["_step"]] = values
    return found


def run_of(launch):
    return next(entry.run for entry in launch if entry.WhichOneof("record_type") == "run")


def config_of(launch):
    return {name_of(item): json.loads(item.value_json) for item in run_of(launch).config.update}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    yield
    import wandb

    wandb.teardown()


def jobs():
    """Folders of runs: wandb's own is beside those of studies."""
    return [folder for folder in folders() if (folder / "run.json").exists()]


def rows_of(job):
    with open(job / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_its_file_holds_config_and_all_metrics(cli, tmp_path):
    result = cli(*TINY, *OFFLINE, "logger.wandb.project=mine", "tags=[pilot]", "seed=4")
    assert result.code == 0, result.err
    (job,), (launch,) = jobs(), launches(tmp_path)
    run = run_of(launch)
    assert (run.run_id, run.project, run.run_group) == (record(job)["loggers"]["wandb"], "mine", "s")
    assert (run.display_name, list(run.tags), run.job_type) == (job.name, ["pilot"], "train")
    config = config_of(launch)
    assert config["algo"] == record(job)["config"]["algo"]
    assert config["seeds"] == [4]
    sent, kept = history(launch), {int(row["step"]): row for row in rows_of(job)}
    assert set(sent) == set(kept)
    for step, row in kept.items():
        wanted = {name: float(x) for name, x in row.items() if x and name not in ("seed", "step", "wall_time")}
        found = {tag.partition("/")[2]: x for tag, x in sent[step].items() if not tag.startswith("_")}
        assert found == pytest.approx(wanted, rel=1e-6)
    (exit,) = [entry.exit for entry in launch if entry.WhichOneof("record_type") == "exit"]
    assert exit.exit_code == 0


def test_a_resumed_run_is_the_same_run_of_theirs(cli, tmp_path):
    assert cli(*TINY, *OFFLINE, "stop_at=1024").code == 0
    (first,) = launches(tmp_path)
    assert cli(*TINY, *OFFLINE).code == 0
    second = next(launch for launch in launches(tmp_path) if launch != first)
    (job,) = jobs()
    ids = {run_of(launch).run_id for launch in (first, second)}
    assert ids == {record(job)["loggers"]["wandb"]}
    steps = [int(row["step"]) for row in rows_of(job)]
    assert sorted([*history(first), *history(second)]) == steps
    codes = [[e.exit.exit_code for e in launch if e.WhichOneof("record_type") == "exit"] for launch in (first, second)]
    assert codes == [[1], [0]]


@pytest.mark.slow  # what is theirs: test_loggers
def test_jobs_of_a_batch_are_runs_of_their_own(cli, tmp_path):
    words = ["-m", "hydra/launcher=batched", "optimizer.lr=1e-3,1e-4", "num_seeds=2"]
    result = cli(*TINY, *OFFLINE, *words)
    assert result.code == 0, result.err
    found = {run_of(launch).display_name: history(launch) for launch in launches(tmp_path)}
    assert set(found) == {job.name for job in jobs()}
    for job in jobs():
        kept = [(int(row["seed"]), float(row["value_loss"])) for row in rows_of(job)]
        rows = found[job.name].values()
        for seed in (0, 1):
            sent = [row[f"seeds/value_loss/{seed}"] for row in rows]
            assert sent == pytest.approx([loss for of, loss in kept if of == seed], rel=1e-6)


def test_videos_and_verdict_reach_it(cli, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    result = cli(*TINY, *OFFLINE, "evaluation.video_every=2048", "evaluation.max_steps=20")
    assert result.code == 0, result.err
    (launch,) = launches(tmp_path)
    shown = {tag: x for row in history(launch).values() for tag, x in row.items() if tag.startswith("videos/")}
    (job,) = jobs()
    (video,) = (job / "videos").glob("*.mp4")
    assert shown["videos/training_seed_0/_type"] == "video-file"
    assert shown["videos/training_seed_0/size"] == video.stat().st_size
    logger = Wandb(mode="offline")
    (tmp_path / "compare.md").write_text("text")
    logger.open(Subject("s", "compare", tmp_path, tmp_path / "outputs", {"command": "x"}, kind="compare"), None)
    logger.verdict("apo is better", {"compare.md": tmp_path / "compare.md"})
    logger.close("done", {})
    found = next(launch for launch in launches(tmp_path) if run_of(launch).display_name == "compare")
    assert run_of(found).job_type == "compare"
    summary = {
        name_of(x): x.value_json for e in found if e.WhichOneof("record_type") == "summary" for x in e.summary.update
    }
    assert json.loads(summary["verdict"]) == "apo is better"
    assert [e.run.notes for e in found if e.WhichOneof("record_type") == "run"][-1] == "apo is better"
    assert any("artifact" in str(entry.WhichOneof("record_type")) for entry in found)


def test_where_nobody_is_logged_in_nothing_starts(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    result = cli(*TINY, "logger=wandb")
    assert result.code == 1
    assert "logger=wandb: nobody is logged in; run `wandb login`" in result.err
    assert "logger.wandb.mode=offline" in result.err
    assert jobs() == []


def test_a_mode_that_is_none_is_one_line(cli):
    told = cli(*TINY, "logger=wandb", "logger.wandb.mode=of").err
    assert "logger.wandb.mode=of: must be one of online, offline or null" in told
    assert told.count("\n") == 1
