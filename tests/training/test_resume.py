"""N + N steps are 2N steps, bit for bit; and nothing is lost when a run is stopped."""

import csv
import json
import os
import re
import signal
import time

import pytest
import torch
from helpers import make_trainer, records, stop_after, weights_of
from process import Process

from rlexp.errors import CheckpointError
from rlexp.signals import Interrupted, Paused

SETTINGS = ("total_steps=2048", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2")
SETTINGS += ("algo.minibatches=2", "log_every=256")


CASES = {
    "ppo": ("algo=ppo", "env=cartpole"),
    "apo": ("algo=apo", "env=cartpole", "env.backend=gymnasium", "num_seeds=2", "algo.top_k=2", "algo.max_steps=20"),
    "sync": ("algo=apo", "env=cartpole", "env.vectorization=sync"),
    "normalised": (
        "algo=apo",
        "env=pendulum",
        "env.normalize_obs=true",
        "env.normalize_reward=true",
        "algo.anchor_coef=[1,0]",
    ),
    "schedules": ("algo=ppo_kl", "env=acrobot", "optimizer.lr=[1e-3,0]", "algo.clip_coef=[0.3,0.1]", "num_seeds=2"),
    "loop": ("algo=apo", "env=mountaincar_continuous", "batching=loop", "num_seeds=2"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, case):
    whole = make_trainer(tmp_path / "whole", *SETTINGS, *CASES[case])
    whole.train(False)

    first = make_trainer(tmp_path / "parts", *SETTINGS, *CASES[case])
    stop_after(first, 3)
    with pytest.raises(Interrupted):
        first.train(False)
    second = make_trainer(tmp_path / "parts", *SETTINGS, *CASES[case])
    second.train(True)

    assert second.copyable
    ours, theirs = weights_of(second), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_returns_by_row_are_exact_where_checkpoints_lie_between_rows(tmp_path):
    words = (*SETTINGS, "env=cartpole", "num_seeds=2", "log_every=768")
    make_trainer(tmp_path / "whole", *words).train(False)
    first = make_trainer(tmp_path / "parts", *words)
    stop_after(first, 4)
    with pytest.raises(Interrupted):
        first.train(False)
    make_trainer(tmp_path / "parts", *words).train(True)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_a_run_of_an_earlier_version_without_returns_by_row_resumes(tmp_path):
    words = (*SETTINGS, "env=cartpole", "num_seeds=2")
    make_trainer(tmp_path / "whole", *words).train(False)
    first = make_trainer(tmp_path / "parts", *words)
    stop_after(first, 3)
    with pytest.raises(Interrupted):
        first.train(False)
    path = tmp_path / "parts" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for name in ("since_row", "before_row", "unevaluated", "evaluating"):
        del state["trainer"][name]
    torch.save(state, path)
    table = tmp_path / "parts" / "metrics.csv"
    with open(table, newline="") as file:
        rows = [{name: x for name, x in row.items() if name != "row_return"} for row in csv.DictReader(file)]
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    make_trainer(tmp_path / "parts", *words).train(True)
    texts = [(tmp_path / name / "metrics.csv").read_text() for name in ("parts", "whole")]
    found, expected = (list(csv.DictReader(text.splitlines())) for text in texts)
    for row, other in zip(found, expected, strict=True):
        assert row["episodic_return"] == other["episodic_return"]
    # unknown in the rows before, and in the one which may not have all episodes since the last
    assert [row["row_return"] for row in found] == [""] * 8 + [row["row_return"] for row in expected[8:]]


def test_environments_that_cannot_be_copied_restart_and_the_run_says_so(tmp_path, caplog):
    pytest.importorskip("envpool", reason="extra envpool is not installed")
    settings = (*SETTINGS, "algo=apo", "env=cartpole", "env.backend=envpool")
    results = []
    for name in ("a", "b"):
        first = make_trainer(tmp_path / name, *settings)
        stop_after(first, 3)
        with pytest.raises(Interrupted):
            first.train(False)
        second = make_trainer(tmp_path / name, *settings)
        with caplog.at_level("INFO", logger="rlexp"):
            second.train(True)
        results.append(weights_of(second))
    assert "replaced by new, seeded ones" in caplog.text
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])  # deterministic all the same


def test_no_step_is_recorded_twice(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = make_trainer(tmp_path, *SETTINGS, "checkpoint_every=1024", "num_seeds=2")
    iterate = first.iterate

    def crash():
        if first.update_number == 6:
            raise MemoryError
        iterate()

    first.iterate = crash
    with pytest.raises(MemoryError):
        first.train(False)  # six updates recorded, four of them in the checkpoint
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("0,99")  # a row that the crash cut short
    make_trainer(tmp_path, *SETTINGS, "checkpoint_every=1024", "num_seeds=2").train(True)
    header, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    for seed in ("0", "1"):
        steps = [int(row[1]) for row in rows if row[0] == seed]
        assert len(steps) == 8
        assert sorted(set(steps)) == steps
        events = EventAccumulator(str(tmp_path / f"seed_{seed}"))
        events.Reload()
        assert [e.step for e in events.Scalars("losses/policy_loss")] == steps
        assert len(list((tmp_path / f"seed_{seed}").iterdir())) == 1
    assert all(len(row) == len(header) for row in rows)


DAMAGES = {  # of metrics.csv -> rows that are left of one seed; there were two of each at the checkpoint
    "deleted": (lambda lines: None, 0),
    "emptied": (lambda lines: [], 0),
    "cut": (lambda lines: lines[:-2], 1),
    "one row gone": (lambda lines: lines[:2] + lines[3:], 1),
    "torn": (lambda lines: [*lines[:-1], lines[-1][:20]], 1),
    "doubled": (lambda lines: lines[:1] + [line for line in lines[1:] for _ in range(2)], 4),
    "of others": (lambda lines: lines[:1] + [f"7{line}" for line in lines[1:]], None),
    "no numbers": (lambda lines: lines[:1] + [line.replace(",", ",x", 1) for line in lines[1:]], None),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_curve_that_does_not_reach_its_checkpoint_is_refused(tmp_path, damage):
    settings = (*SETTINGS, "num_seeds=2", "stop_at=512")
    with pytest.raises(Paused):
        make_trainer(tmp_path, *settings).train(False)
    path = tmp_path / "metrics.csv"
    before, record = path.read_bytes(), (tmp_path / "run.json").read_bytes()
    events = sorted(tmp_path.rglob("events*"))
    change, left = DAMAGES[damage]
    lines = change(before.decode().splitlines(keepends=True))
    path.unlink() if lines is None else path.write_text("".join(lines))
    damaged = path.read_bytes() if path.exists() else None
    with pytest.raises(CheckpointError) as caught:
        make_trainer(tmp_path, *SETTINGS, "num_seeds=2").train(True)
    said = str(caught.value)
    assert "metrics.csv" in said
    assert "\n" not in said
    assert "train from scratch with resume=never" in said
    if left is not None:
        assert re.search(rf"holds {left} rows of seed [01] up to the checkpoint instead of 2;", said)
    # nothing is changed, so that who puts the file back can go on
    assert (path.read_bytes() if path.exists() else None) == damaged
    assert (tmp_path / "run.json").read_bytes() == record
    assert sorted(tmp_path.rglob("events*")) == events
    path.write_bytes(before)
    make_trainer(tmp_path, *SETTINGS, "num_seeds=2").train(True)
    done = json.loads((tmp_path / "run.json").read_text())["result"]
    assert done["rows"] == [8, 8]
    assert len(path.read_text().splitlines()) == 1 + 16


def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_them(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    make_trainer(tmp_path, *SETTINGS, "checkpoint_every=1024").train(False)
    kept = [name for name in synced if "metrics" in name or "checkpoint" in name]
    assert kept == ["metrics.csv", ".checkpoint.pt.tmp"] * 2  # after 1024 rows, and the last
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["rows"] == [8]


def test_what_a_run_without_a_checkpoint_had_written_is_dropped(tmp_path):
    (tmp_path / "metrics.csv").write_text("garbage of a launch that was killed\n\0")
    make_trainer(tmp_path, *SETTINGS).train(False)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 8


def test_checkpoints_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    trainer = make_trainer(tmp_path, *SETTINGS)
    trainer.train(False)
    path = tmp_path / "checkpoint.pt"
    good = path.read_bytes()

    def refusal(*overrides):
        with pytest.raises(CheckpointError) as caught:
            make_trainer(tmp_path, *SETTINGS, *overrides).restore()
        assert "\n" not in str(caught.value)
        assert "checkpoint.pt" in str(caught.value)
        return str(caught.value)

    path.write_bytes(good[: len(good) // 2])
    assert "damaged" in refusal()
    path.write_bytes(b"")
    assert "damaged" in refusal()
    torch.save({"model": torch.zeros(3)}, path)
    assert "not written by this version" in refusal()
    torch.save(print, path)  # pickled code is not executed
    assert "damaged" in refusal()
    path.write_bytes(good)
    assert "belongs to config" in refusal("algo.epochs=3")
    path.unlink()
    assert "no checkpoint" in refusal()


def start(folder, *overrides):
    words = [*SETTINGS, "total_steps=200000", "tuned=none", "progress=none", "checkpoint_every=512", "study=s"]
    words += ["compile=false"]
    return Process(folder, *words, *overrides)


def wait_for_checkpoint(folder, process):
    deadline = time.time() + 60
    while not list(folder.glob("outputs/s/*/checkpoint.pt")) and time.time() < deadline:
        assert process.returncode is None
        time.sleep(0.05)
    time.sleep(0.5)
    return next(folder.glob("outputs/s/*/checkpoint.pt")).parent


def test_signals_save_and_kill_loses_only_what_came_after_the_checkpoint(tmp_path):
    process = start(tmp_path)
    run = wait_for_checkpoint(tmp_path, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    killed_at = torch.load(run / "checkpoint.pt", weights_only=True)["trainer"]["update_number"]

    process = start(tmp_path)
    time.sleep(0.2)
    while "resumed at" not in (run / "train.log").read_text():
        assert process.returncode is None
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command resumes from there" in output
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["launches"]) == ("interrupted", 2)
    stopped_at = torch.load(run / "checkpoint.pt", weights_only=True)["trainer"]["update_number"]
    assert stopped_at > killed_at > 0

    process = start(tmp_path)
    time.sleep(0.2)
    while (run / "train.log").read_text().count("resumed at") < 2:
        assert process.returncode is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.wait()
    assert process.returncode == 128 + signal.SIGINT
    assert "stopping as soon as it is saved; Ctrl-C again" in process.communicate()
    assert json.loads((run / "run.json").read_text())["launches"] == 3


def test_a_checkpoint_of_another_kind_of_device_goes_on_with_streams_of_its_own(tmp_path, caplog):
    first = make_trainer(tmp_path, *SETTINGS)
    stop_after(first, 3)
    with pytest.raises(Interrupted):
        first.train(False)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for name in state["streams"][0]:
        state["streams"][0][name] = torch.zeros(16, dtype=torch.uint8)  # a GPU's generator: seed and offset
    torch.save(state, path)
    found = []
    for folder in (tmp_path, tmp_path):
        second = make_trainer(folder, *SETTINGS)
        second.restore()
        found.append([getattr(second.streams[0], name).get_state() for name in state["streams"][0]])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))
    assert len({tuple(x.tolist()) for x in found[0]}) == 4
    assert "saved on another kind of device: random streams start anew" in caplog.text
