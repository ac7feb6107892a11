"""Why is it slow: what a run says of how it is computed, where its time goes, and the trace of its own updates."""

import json
import re
import time
from collections import Counter

import gymnasium as gym
import pytest
import torch
from helpers import make_trainer, record, stop_after, train

from rlexp.signals import Interrupted
from rlexp.training import how
from rlexp.training.timing import Clock, shares

SMALL = ("total_steps=640", "env.num_envs=2", "algo.rollout_steps=32", "algo.epochs=1", "algo.minibatches=2")
SMALL += ("network.torso.hidden=[8]", "torch_threads=1")
GYMNASIUM = ("env=cartpole", "env.backend=gymnasium", "env.vectorization=sync")


def test_a_lap_is_the_parts_less_what_was_measured_within():
    clock = Clock()
    clock.began = clock.last = time.perf_counter() - 5
    clock.lap("acting", environment=3.0, compiling=0.0)  # 5 = 2 + 3
    clock.last -= 1
    clock.lap("update", compiling=0.5)  # 1 = .5 + .5
    split = {part: round(seconds, 1) for part, seconds in clock.split.items()}
    assert split == {"environment": 3.0, "acting": 2.0, "compiling": 0.5, "update": 0.5}
    clock.start()
    clock.last -= 4
    clock.lap("acting", environment=4.0)  # totals go on: one more second
    assert round(clock.split["environment"], 1) == 1.0
    assert shares({"acting": 1.0, "update": 3.0}) == "update 75 %, acting 25 %"


@pytest.mark.parametrize(
    ("chosen", "value", "why"),
    [
        (how.choose_compile("auto", "cpu", 12_000), True, "12,000 calls, worthwhile from 10,000"),
        (how.choose_compile("auto", "cpu", 768), False, "768 calls, worthwhile from 10,000"),
        (how.choose_compile("auto", "cuda:0", 1_000), True, "1,000 calls, worthwhile from 1,000"),
        (how.choose_compile("auto", "cuda", 999), False, "999 calls, worthwhile from 1,000"),
        (how.choose_compile(True, "cuda", 1), True, "compile=true"),
        (how.compiled_in_fact(how.Choice(True, ""), {"acting": "no g++"}), "in part", "acting: no g++"),
        (how.choose_threads(3, 1, pixels=True), 3, "torch_threads=3"),
        (how.choose_threads(None, 1, pixels=True), how.ALL_THREADS, "all available, for pixels"),
        (how.choose_threads(None, 1, pixels=True, most=64), 64, "all available, for pixels"),
        (how.choose_threads(None, 300, pixels=False), 1, "300 rows per minibatch, 256 per thread"),
    ],
)
def test_what_is_chosen_says_why(chosen, value, why):
    assert chosen == (value, why)


class Slow(gym.Wrapper):
    def step(self, action):
        time.sleep(0.001)
        return super().step(action)


gym.register("SlowCartPole-v0", lambda: Slow(gym.make("CartPole-v1").unwrapped), max_episode_steps=50)


def test_a_slow_environment_shows_over_all_launches(tmp_path):
    words = (*SMALL, "total_steps=384", "env.id=SlowCartPole-v0", "num_seeds=2")
    first = make_trainer(tmp_path, *words)
    stop_after(first, 3)
    with pytest.raises(Interrupted):
        first.train(False)
    half = first.runs[0].record.data["time"]
    train(tmp_path, *words, resume=True)
    told = record(tmp_path)
    whole, seconds = told["time"], told["result"]["seconds"]
    assert half["of_agents"] == whole["of_agents"] == 2
    assert sum(whole["seconds"].values()) == pytest.approx(seconds, abs=0.01)
    assert whole["seconds"].keys() == {"environment", "acting", "update", "rest"}
    steps = 6 * 32 * 4  # updates, steps, environments
    assert whole["seconds"]["environment"] >= 0.001 * steps
    assert half["seconds"]["environment"] < whole["seconds"]["environment"]
    assert told["how"]["batching"] == {"value": "stacked", "why": "faster than one after the other"}


def test_jobs_side_by_side_record_the_time_of_all(tmp_path):
    train(tmp_path, *SMALL, "env=cartpole", own=(("seed=0",), ("seed=5", "num_seeds=2")))
    one, two = (record(tmp_path / name)["time"] for name in "01")
    assert one == two
    assert one["of_agents"] == 3
    assert "acting and environment" in one["seconds"]  # steps are part of acting there
    assert "environment" not in one["seconds"]


def test_a_profile_is_of_the_runs_own_updates_and_changes_nothing(cli, tmp_path):
    words = (*SMALL, *GYMNASIUM, "algo=apo", "tuned=none", "progress=none", "evaluation.episodes=0", "compile=false")
    words += ("checkpoint_every=64",)  # some while it is traced
    assert cli(*words, "study=plain").code == 0
    result = cli(*words, "study=traced", "profile=true")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "outputs" / "traced").iterdir()
    (said,) = [line for line in result.out.splitlines() if line.startswith("profile")]
    assert said.startswith(f"profile: 3 updates in {run.relative_to(tmp_path)}/profile/trace.json")
    events = json.loads((run / "profile" / "trace.json").read_text())["traceEvents"]
    counts = Counter(event.get("name") for event in events if event.get("cat") == "user_annotation")
    table = (run / "profile" / "table.txt").read_text()
    for label, calls in {"environment": 32, "acting": 33, "advantages": 1, "observe": 1, "update": 1}.items():
        assert counts[label] == 3 * calls
        assert re.search(rf"^{label} +[\d.]+$", table, re.MULTILINE)
    assert "aten::" in table
    (plain,) = (tmp_path / "outputs" / "plain").iterdir()
    assert plain.name == run.name  # it is no part of what the run is
    weights = [torch.load(folder / "checkpoint.pt")["learner"]["tensors"] for folder in (plain, run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    again = cli(*words, "study=traced", "profile=true")
    assert "nothing left to trace; resume=never trains from scratch" in again.out


def test_a_run_too_short_for_a_profile_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    train(tmp_path, *SMALL, "total_steps=448", "profile=true")
    (said,) = [line for line in caplog.messages if "profile" in line]
    assert said == "profile=true: 7 updates left, needs 8; nothing is traced"
    assert not (tmp_path / "profile").exists()


def test_the_log_says_each_once(cli):
    result = cli(*SMALL, *GYMNASIUM, "tuned=none", "progress=none", "evaluation.episodes=0", "compile=false")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[1] == "eager (compile=false); 1 thread (torch_threads=1)"
    (last,) = [line for line in lines if "s of training" in line]
    assert all(f"{part} " in last for part in ("environment", "acting", "update", "rest"))
    assert len(lines) == 5
