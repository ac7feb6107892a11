"""live=true: what is changed by hand is in force from the next update on, is kept, and is repeated by a resumed run."""

import csv
import json
import logging
import os
from dataclasses import dataclass

import pytest
import torch
from helpers import make_jobs, make_trainer, record, records, train, weights_of
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlexp import execute, tune_live
from rlexp.algos.base import Algorithm
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled
from rlexp.errors import CheckpointError, ConfigError

SETTINGS = ("live=true", "total_steps=2048", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2")
SETTINGS += ("algo.minibatches=2", "log_every=256")  # eight updates


class Killed(BaseException):
    """The process ends here, and saves nothing."""


def edits(trainer, folder, by_update, end_before=None):
    """Edit live.yaml before some updates, as somebody does at an editor."""
    iterate = trainer.iterate

    def once_more():
        if trainer.update_number == end_before:
            raise Killed
        iterate()
        for key, value in by_update.get(trainer.update_number, {}).items():
            edit(folder, key, value)

    trainer.iterate = once_more
    return trainer


def edit(folder, key, value):
    path = folder / "live.yaml"
    lines = path.read_text().splitlines()
    assert any(line.startswith(f"{key}:") for line in lines)
    path.write_text("\n".join(f"{key}: {value}" if line.startswith(f"{key}:") else line for line in lines) + "\n")


def changes(folder):
    with open(folder / "live.csv", newline="") as file:
        return [(int(row["update"]), row["key"], row["before"], row["value"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("algo", ["ppo", "apo", "ppo_kl"])
def test_a_live_run_that_nobody_changes_is_the_plain_one(tmp_path, algo):
    plain = train(tmp_path / "plain", *SETTINGS, "live=false", f"algo={algo}", "num_seeds=2")
    live = train(tmp_path / "live", *SETTINGS, f"algo={algo}", "num_seeds=2")
    assert all(torch.equal(weights_of(live)[name], tensor) for name, tensor in weights_of(plain).items())
    assert records(tmp_path / "live") == records(tmp_path / "plain")
    assert not (tmp_path / "live" / "live.csv").exists()
    assert not (tmp_path / "plain" / "live.yaml").exists()
    assert record(tmp_path / "live")["live"]["changes"] == 0


def test_live_yaml_names_what_may_change_with_its_range(tmp_path):
    train(tmp_path, *SETTINGS, "algo=apo", "optimizer.lr=[1e-3,0]", "live_ranges={algo.clip_coef: [0.05, 0.5]}")
    lines = [line for line in (tmp_path / "live.yaml").read_text().splitlines() if not line.startswith("#")]
    assert [" ".join(line.split()) for line in lines] == [
        "optimizer.lr: [0.001, 0.0] # 0 to 0.01",
        "algo.clip_coef: 0.2 # 0.05 to 0.5",
        "algo.vf_coef: 0.5 # 0 to 1",
        "algo.ent_coef: 0.0 # 0 to 1",
        "algo.anchor_coef: 1.0 # 0 to 2",
        "algo.epochs: 2 # 1 to 16",
    ]


def test_a_change_is_in_force_from_the_next_update_on_and_is_kept(tmp_path):
    trainer = make_trainer(tmp_path, *SETTINGS)
    seen = []
    update = trainer.learner.update

    def watched(rollout, targets, progress, **more):
        drawn = trainer.streams[0].order.get_state()
        metrics = update(rollout, targets, progress, **more)
        coefficients = trainer.algo.coefficients(progress, 1, trainer.learner.device)
        seen.append((trainer.learner.groups[0].lr, float(coefficients["ent_coef"]), trainer.algo.epochs))
        assert not torch.equal(drawn, trainer.streams[0].order.get_state())
        return metrics

    trainer.learner.update = watched
    edits(trainer, tmp_path, {2: {"optimizer.lr": "1e-4"}, 3: {"algo.ent_coef": "0.5", "algo.epochs": 5}})
    trainer.train(False)
    first = (3e-4, 0.0, 2)
    assert seen[:2] == [first] * 2
    assert seen[2] == (1e-4, 0.0, 2)
    assert seen[3:] == [(1e-4, 0.5, 5)] * 5
    before = str(first[0])
    assert changes(tmp_path) == [
        (2, "optimizer.lr", before, "0.0001"),
        (3, "algo.ent_coef", "0.0", "0.5"),
        (3, "algo.epochs", "2", "5"),
    ]
    assert record(tmp_path)["live"]["changes"] == 3
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    texts = [event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors("live/text_summary")]
    assert texts[1] == "algo.ent_coef is 0.5, was 0.0, from update 4 on"
    assert len(texts) == 3
    with open(tmp_path / "metrics.csv") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([first[0]] * 2 + [1e-4] * 6)


@pytest.mark.few(1)
@pytest.mark.parametrize("algo", ["ppo", "apo"])
@pytest.mark.parametrize("checkpoint", [4, 0])
def test_a_killed_run_repeats_its_changes_and_is_the_uninterrupted_one(tmp_path, algo, checkpoint):
    every = {4: "checkpoint_every=1024", 0: "checkpoint_every=100000"}[checkpoint]
    words = (*SETTINGS, f"algo={algo}", every, "num_seeds=2")
    by_update = {2: {"optimizer.lr": "1e-4"}, 4: {"algo.epochs": 4}, 6: {"algo.clip_coef": "[0.3, 0.1]"}}
    whole = edits(make_trainer(tmp_path / "whole", *words), tmp_path / "whole", by_update)
    whole.train(False)

    first = edits(make_trainer(tmp_path / "parts", *words), tmp_path / "parts", by_update, end_before=7)
    with pytest.raises(Killed):
        first.train(False)
    assert (tmp_path / "parts" / "checkpoint.pt").exists() == bool(checkpoint)
    second = make_trainer(tmp_path / "parts", *words)
    second.train(bool(checkpoint))
    assert second.algo.epochs == 4
    assert all(torch.equal(weights_of(second)[name], tensor) for name, tensor in weights_of(whole).items())
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert changes(tmp_path / "parts") == changes(tmp_path / "whole")  # and none twice
    assert record(tmp_path / "parts")["live"]["changes"] == 3


def test_what_was_edited_while_the_run_was_down_is_in_force_when_it_goes_on(tmp_path):
    words = (*SETTINGS, "checkpoint_every=512")
    first = edits(make_trainer(tmp_path, *words), tmp_path, {3: {"algo.vf_coef": 0.9}}, end_before=5)
    with pytest.raises(Killed):
        first.train(False)
    edit(tmp_path, "algo.vf_coef", 0.1)
    second = make_trainer(tmp_path, *words)
    second.train(True)
    assert changes(tmp_path) == [(3, "algo.vf_coef", "0.5", "0.9"), (4, "algo.vf_coef", "0.9", "0.1")]


REFUSED = {
    "clip_coef: 7": "algo.clip_coef=7: its range is 0 to 1",
    "clip_coef: 0": "algo.clip_coef=0.0: must be above 0",  # by the objective itself
    "clip_coef: [0.1, 3]": "algo.clip_coef=[0.1, 3]: its range is 0 to 1",
    "clip_coef: much": "algo.clip_coef=much: is not a schedule",
    "clip_coef: .nan": "is not a schedule",
    "clip_coef:": "algo.clip_coef=None: is not a schedule",
    "epochs: 2.5": "algo.epochs=2.5: must be a whole number",
    "epochs: 0": "algo.epochs=0: its range is 1 to 16",
    "epochs: [2, 4]": "must be a whole number",
    "max_grad_norm: 1": "algo.max_grad_norm: cannot be changed while the run goes; optimizer.lr, algo.clip_coef",
    "[": "live.yaml: cannot be read",
    "clip_coef: 1" + 400 * "0": "too large",
    "clip_coef: " + 3000 * "[": "live.yaml: cannot be read",
    "clip_coef: &a [*a]": "live.yaml: ",
}


@pytest.mark.few(5)
@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_refused_in_the_log_once_and_the_run_goes_on(tmp_path, line, caplog):
    caplog.set_level(logging.INFO)
    trainer = make_trainer(tmp_path, *SETTINGS)
    iterate = trainer.iterate

    def once_more():
        iterate()
        if trainer.update_number == 3:
            text = (tmp_path / "live.yaml").read_text()
            key = f"algo.{line.partition(':')[0]}:"
            kept = [each for each in text.splitlines() if not each.startswith(key)]
            new = line if line == "[" else f"algo.{line}"
            (tmp_path / "live.yaml").write_text("\n".join([*kept, new]) + "\n")

    trainer.iterate = once_more
    trainer.train(False)
    assert trainer.update_number == 8
    said = [entry.getMessage() for entry in caplog.records if "live.yaml" in entry.getMessage()]
    assert len(said) == 1
    assert REFUSED[line] in said[0]
    assert "\n" not in said[0]
    assert not (tmp_path / "live.csv").exists()


class IgnoresRate(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(1e-3 * p.grad)


@dataclass(kw_only=True)
class Derived(PPO):
    def __post_init__(self):
        super().__post_init__()
        self.twice = 2 * self.ent_coef.highest


@dataclass(kw_only=True)
class Pair(PPO):
    low: Scheduled = 0.1
    high: Scheduled = 0.3

    def __post_init__(self):
        super().__post_init__()
        self.require("low", self.low.highest < self.high.highest, "must be below high")

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss, metrics | {"apart": self.high - self.low}


def test_what_belongs_together_is_judged_together_by_the_values_in_force(tmp_path, caplog):
    trainer = make_trainer(tmp_path, *SETTINGS, f"algo._target_={__name__}.Pair")
    edits(
        trainer,
        tmp_path,
        {
            2: {"algo.low": 0.2},
            3: {"algo.high": 0.15},  # below what low has become
            4: {"algo.high": 0.3},
            5: {"algo.low": 0.5, "algo.high": 0.9},  # each alone would be refused
        },
    )
    trainer.train(False)
    assert [change[1:] for change in changes(tmp_path)] == [
        ("algo.low", "0.1", "0.2"),
        ("algo.low", "0.2", "0.5"),
        ("algo.high", "0.3", "0.9"),
    ]
    assert caplog.text.count("algo.low=0.2: must be below high; the run goes on") == 1
    with open(tmp_path / "metrics.csv") as file:
        apart = [float(row["apart"]) for row in csv.DictReader(file)]
    assert apart == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4], rel=1e-4)


def test_a_range_holds_the_first_value(tmp_path):
    train(tmp_path, *SETTINGS, "algo.ent_coef=-0.5")
    (line,) = [line for line in (tmp_path / "live.yaml").read_text().splitlines() if line.startswith("algo.ent_coef")]
    assert line.split("#")[1] == " -1 to 1"


def damaged(folder, words):
    """A run that was killed after two changes."""
    by_update = {2: {"optimizer.lr": "1e-4"}, 4: {"algo.vf_coef": 0.25}}
    first = edits(make_trainer(folder, *words), folder, by_update, end_before=6)
    with pytest.raises(Killed):
        first.train(False)
    return folder / "live.csv"


def test_a_torn_row_is_cut_off(tmp_path):
    words = (*SETTINGS, "checkpoint_every=512")
    path = damaged(tmp_path, words)
    with open(path, "a") as file:
        file.write("5,3000,algo.ent_coef,0.0,0.0")  # of 0.05
    edit(tmp_path, "algo.ent_coef", 0.01)
    make_trainer(tmp_path, *words).train(True)
    assert [change[1:] for change in changes(tmp_path)][1:] == [
        ("algo.vf_coef", "0.5", "0.25"),
        ("algo.ent_coef", "0.0", "0.01"),
    ]


@pytest.mark.parametrize("damage", ["gone", "row", "garbled"])
def test_a_live_csv_that_lacks_a_change_is_one_line(tmp_path, damage):
    words = (*SETTINGS, "checkpoint_every=512")
    path = damaged(tmp_path, words)
    rows = path.read_text().splitlines(keepends=True)
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("".join(rows[:-1]) + ("" if damage == "row" else "4,x,algo.vf_coef,0.5,much\n"))
    with pytest.raises(CheckpointError, match="restore it, or use resume=never"):
        make_trainer(tmp_path, *words).train(True)


def test_a_change_that_cannot_be_repeated_fails_a_run_that_has_started_and_no_other(tmp_path):
    words = (*SETTINGS, "checkpoint_every=512")
    path = damaged(tmp_path, words)
    (tmp_path / "run.json").write_text(json.dumps(record(tmp_path) | {"pid": 1}))  # it was killed there
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        execute.train_jobs(make_jobs(tmp_path, *words), True)
    assert (record(tmp_path)["status"], record(tmp_path)["pid"]) == ("running", 1)

    (tmp_path / "checkpoint.pt").write_bytes(checkpoint)
    path.write_text(path.read_text().replace("optimizer.lr", "optimizer.eps"))
    with pytest.raises(CheckpointError, match="is no value of this run"):
        execute.train_jobs(make_jobs(tmp_path, *words), True)
    assert record(tmp_path)["status"] == "failed"


def test_who_looks_at_changes_writes_nothing(tmp_path, capsys):
    path = damaged(tmp_path, (*SETTINGS, "checkpoint_every=512"))
    elsewhere = tmp_path / "theirs.txt"
    elsewhere.write_text(path.read_text() + "whose last line has no end")
    path.unlink()
    path.symlink_to(elsewhere)
    tune_live.main(arguments=[f"run={tmp_path}"])
    assert "algo.vf_coef 0.5 -> 0.25" in capsys.readouterr().out
    assert elsewhere.read_text().endswith("no end")


def test_epochs_that_a_resumed_run_has_no_room_for_are_one_line(tmp_path):
    words = (*SETTINGS, "checkpoint_every=512")
    first = edits(make_trainer(tmp_path, *words), tmp_path, {2: {"algo.epochs": 16}}, end_before=5)
    with pytest.raises(Killed):
        first.train(False)
    with pytest.raises(CheckpointError, match=r"algo\.epochs=16 of update 3 is above live_ranges, up to 8; widen it"):
        make_trainer(tmp_path, *words, "live_ranges={algo.epochs: [1, 8]}").train(True)


@dataclass(kw_only=True)
class Limited(Algorithm):
    """A bonus."""

    limited_coef: Scheduled = 0.1

    def __post_init__(self):
        super().__post_init__()
        self.require("limited_coef", self.limited_coef.highest < 0.5, "must be below 0.5")

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss, metrics | {"limited": self.limited_coef + 0.0 * loss.detach()}


def test_what_a_bonus_has_is_changed_by_the_name_that_is_typed_and_judged_by_it(tmp_path, caplog):
    trainer = make_trainer(tmp_path, *SETTINGS, f"+bonus._target_={__name__}.Limited", "+bonus.limited_coef=0.1")
    edits(trainer, tmp_path, {2: {"bonus.limited_coef": 0.4}, 4: {"bonus.limited_coef": 0.9}})
    trainer.train(False)
    assert changes(tmp_path) == [(2, "bonus.limited_coef", "0.1", "0.4")]
    assert "bonus.limited_coef=0.9: must be below 0.5; the run goes on" in caplog.text
    with open(tmp_path / "metrics.csv") as file:
        assert [float(row["limited"]) for row in csv.DictReader(file)] == pytest.approx([0.1] * 2 + [0.4] * 6)


@dataclass(kw_only=True)
class ReadsEpochs(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss / self.epochs, metrics


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("Derived", "algo.ent_coef", 0.5, "algo.twice is derived from it, and fixed once training starts"),
        ("ReadsEpochs", "algo.epochs", 3, "the loss reads it, so it is fixed once training starts"),
    ],
)
def test_what_an_objective_has_fixed_stays(tmp_path, kind, key, value, said, caplog):
    trainer = make_trainer(tmp_path, *SETTINGS, f"algo._target_={__name__}.{kind}")
    edits(trainer, tmp_path, {3: {key: value}})
    trainer.train(False)
    assert said in caplog.text
    assert not (tmp_path / "live.csv").exists()


def test_a_change_compiles_nothing_anew(tmp_path):
    trainer = make_trainer(tmp_path, *SETTINGS, "algo=apo", "compile=true")
    made = []
    by_update = {3: {"algo.epochs": 7, "optimizer.lr": "1e-4", "algo.anchor_coef": 0.5}, 6: {"algo.epochs": 1}}
    edits(trainer, tmp_path, by_update)
    iterate = trainer.iterate

    def once_more():
        iterate()
        made.append((trainer.learner.compiling, {name: id(graph) for name, graph in graphs.made.items()}))

    graphs = trainer.learner.graphs[0]
    trainer.iterate = once_more
    trainer.train(False)
    assert all(graphs.made.values())
    assert len(graphs.made) == 2
    assert made[2:] == [made[2]] * 6
    assert not graphs.warned_of_layout


def test_an_optimizer_that_ignores_changes_has_no_live_learning_rate(tmp_path):
    trainer = make_trainer(tmp_path, *SETTINGS)
    assert "optimizer.lr" in trainer.live_values.values
    words = (f"optimizer._target_={__name__}.IgnoresRate", "~optimizer.eps", "~optimizer.fused")
    fixed = make_trainer(tmp_path / "x", *SETTINGS, *words)
    assert "optimizer.lr" not in fixed.live_values.values


RANGES = {
    "live_ranges={algo.clip_coef: [1, 0]}": r"live_ranges\.algo\.clip_coef=\(1, 0\): must be \[lowest, highest\]",
    "live_ranges={algo.clip_coef: 1}": "must be",
    "live_ranges=3": "must be",
    "live_ranges={algo.gamma: [0, 1]}": "live_ranges: algo.gamma cannot be changed while the run goes; optimizer.lr",
    "live_ranges={algo: {epochs: [5, 9]}}": "live_ranges: algo.epochs starts with 2.0, outside of 5 to 9",
    "live_ranges={algo: {epochs: [0, 9]}}": "live_ranges: algo.epochs must lie within 1 to 1000, not 0 to 9",
    "resume=extend": "live=true: its changes belong to updates of a run of that length; leave out resume=extend",
}


@pytest.mark.parametrize("word", RANGES)
def test_wrong_settings_are_one_line(tmp_path, word):
    with pytest.raises(ConfigError, match=RANGES[word]):
        make_trainer(tmp_path, *SETTINGS, word)


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_shows_and_sets(tmp_path, capsys):
    train(tmp_path, *SETTINGS, "algo=apo")
    with pytest.raises(SystemExit):
        tune_live.main([f"run={tmp_path}", "algo.clip_coef=0.3"])
    assert "is done, and does not go on" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps(record(tmp_path) | {"status": "interrupted"}))
    tune_live.main([f"run={tmp_path}", "algo.clip_coef=[0.3,0]", "optimizer.lr=1e-4"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("algo.clip_coef is [0.3, 0], was 0.2: ")
    assert said[1].startswith("optimizer.lr is 0.0001, was ")
    text = (tmp_path / "live.yaml").read_text()
    assert OmegaConf.create(text)["algo.clip_coef"] == [0.3, 0]
    assert "# 0 to 1" in next(line for line in text.splitlines() if line.startswith("algo.clip_coef"))
    tune_live.main([f"run={tmp_path}"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split() == ["algo.clip_coef", "[0.3,", "0]", "0", "to", "1"]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nowhere"], "run=nowhere: "),
        ([], "run=: name a run"),
        (["run={}", "algo.clip=1"], "algo.clip=1: cannot be changed while the run goes; did you mean algo.clip_coef?"),
        (["run={}", "algo.clip_coef=7"], "algo.clip_coef=7: its range is 0 to 1"),
        (["run={}", "algo.clip_coef=much"], "algo.clip_coef=much: is not a schedule"),
        (["run={}", "algo.clip_coef=["], "cannot be read"),
        (["run={}", "algo.epochs=2.5"], "algo.epochs=2.5: must be a whole number"),
        (["run={}", f"optimizer.lr=1{'0' * 400}"], "optimizer.lr: that number is too large"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, words, said, capsys):
    train(tmp_path, *SETTINGS)
    before = (tmp_path / "live.yaml").read_text()
    with pytest.raises(SystemExit):
        tune_live.main([word.format(tmp_path) for word in words or ["run="]])
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert (tmp_path / "live.yaml").read_text() == before


@pytest.mark.parametrize(
    "text", ["optimizer.lr:\n  - 1e-3\n  - 0\n", '"optimizer.lr": 1e-3\n', "{optimizer.lr: 1e-3}\n"]
)
def test_a_live_yaml_that_is_written_otherwise_is_left_to_an_editor(tmp_path, text, capsys):
    live = {"ranges": {"optimizer.lr": [0, 1]}}
    (tmp_path / "run.json").write_text(json.dumps({"status": "running", "live": live}))
    (tmp_path / "live.yaml").write_text(text)
    with pytest.raises(SystemExit):
        tune_live.main([f"run={tmp_path}", "optimizer.lr=1e-4"])
    assert "live.yaml: has no line like optimizer.lr: 0.0001; edit it there\n" in capsys.readouterr().err
    assert (tmp_path / "live.yaml").read_text() == text


def test_runs_that_are_not_live_are_refused(tmp_path, capsys):
    train(tmp_path, *SETTINGS, "live=false")
    with pytest.raises(SystemExit):
        tune_live.main([f"run={tmp_path}"])
    assert "has no live.yaml; only runs started with live=true can be changed" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "live.yaml")
