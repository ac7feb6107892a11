"""Evaluation during training: right, on seeds of its own, and without any effect on training."""

import csv
import json
import re
import signal
import time

import gymnasium as gym
import numpy as np
import probes
import pytest
import torch
from helpers import make_jobs, make_trainer, record, records, same, state_of, train, trainer_of, write_config

import rlexp
from rlexp.algos.metric_names import EVALUATIONS
from rlexp.envs import Environment
from rlexp.envs.episodes import Episodes
from rlexp.errors import EnvironmentFault
from rlexp.seeding import curve_seeds
from rlexp.signals import Interrupted, Paused
from rlexp.training import evaluation
from rlexp.training.evaluation import groups_of
from rlexp.training.trainer import Trainer

# updates of 64 rows
WORDS = ("total_steps=640", "env.num_envs=4", "algo.rollout_steps=16", "algo.epochs=1", "algo.minibatches=2")
WORDS += ("network.torso.hidden=[8]", "log_every=64", "torch_threads=1", "evaluation.max_steps=60")
CURVE = ("evaluation.every=192", "evaluation.curve_episodes=3")
GYMNASIUM = ("env=cartpole", "env.backend=gymnasium")

CASES = {
    "torch": ("algo=apo", "env=cartpole", "num_seeds=2"),
    "alone": ("algo=apo", "env=acrobot"),
    "loop": ("algo=ppo", "env=pendulum", "batching=loop", "num_seeds=2"),
    "sync": ("env=pendulum", "env.backend=gymnasium", "env.normalize_obs=true", "env.normalize_reward=true"),
    "vector": (*GYMNASIUM, "algo=apo", "num_seeds=2"),
    "async": (*GYMNASIUM, "env.vectorization=async", "env.num_envs=2", "algo.rollout_steps=32"),
    "compiled": ("algo=apo", "env=cartpole", "num_seeds=2", "compile=true"),
    "compiled vector": (*GYMNASIUM, "compile=true"),
}


class Odds(probes.Probe):
    """One step, reward 1 for the second action."""

    def step(self, action):
        return probes.obs(0.0), float(action), True, False, {}


class Draws(probes.Probe):
    """One step, whose reward is drawn from NumPy's global stream."""

    def step(self, action):
        return probes.obs(0.0), np.random.random(), True, False, {}  # noqa: NPY002


class Counted(probes.Probe):
    """Ends after 2, 3 or 4 steps, by its seed; counts how often it is made, and stepped."""

    made = steps = 0

    def __init__(self):
        Counted.made += 1

    def first(self):
        self.length = int(self.np_random.integers(2, 5))
        return 0.0

    def step(self, action):
        Counted.steps += 1
        self.t += 1
        return probes.obs(0.0), 1.0, self.t == self.length, False, {}


for probe in (Odds, Draws, Counted):
    gym.register(f"{probe.__name__}-v0", entry_point=probe)


def rows_of(folder, seed=0):
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["seed"] == str(seed)]


def without_curve(folder):
    """Rows of metrics.csv less the columns of evaluation, and what the clock decides."""
    with open(folder / "metrics.csv", newline="") as file:
        skip = {*EVALUATIONS, "wall_time", "steps_per_second"}
        return [{name: cell for name, cell in row.items() if name not in skip} for row in csv.DictReader(file)]


def trained_state(folder):
    state = state_of(folder)
    for name in ("seconds", "time", "evaluating"):
        del state["trainer"][name]
    # Gymnasium's spaces have random generators that nobody seeds or uses: drop 128-bit numbers, their states
    if state["environments"] is not None:
        state["environments"] = re.sub(rb"\d{25,}", b"", state["environments"].numpy().tobytes()[8:])
    return state


# No effect on training ----------------------------------------------------------------------------------------------


@pytest.mark.few(3)
@pytest.mark.parametrize("case", CASES)
def test_training_is_bit_for_bit_that_without(tmp_path, request, case):
    if "compiled" in case:
        request.getfixturevalue("traced")
    for name, words in (("plain", ()), ("curve", CURVE)):
        train(tmp_path / name, *WORDS, *CASES[case], *words)
    assert without_curve(tmp_path / "curve") == without_curve(tmp_path / "plain")
    assert same(trained_state(tmp_path / "curve"), trained_state(tmp_path / "plain"))
    rows = rows_of(tmp_path / "curve")
    # at rows 192, 384, 576, and the last, 640
    filled = [number for number, row in enumerate(rows, 1) if row["evaluation_return"]]
    assert filled == [3, 6, 9, 10]
    assert [number for number, row in enumerate(rows, 1) if row["evaluation_return_sampled"]] == filled


def test_environments_that_draw_from_a_global_stream_are_not_disturbed(tmp_path):
    for name, words in (("plain", ()), ("curve", CURVE)):
        np.random.seed(1)  # noqa: NPY002
        train(tmp_path / name, *WORDS, "env.id=Draws-v0", *words)
    assert without_curve(tmp_path / "curve") == without_curve(tmp_path / "plain")


def test_its_time_is_not_that_of_training(tmp_path, monkeypatch):
    now = [0.0]

    def perf_counter():
        now[0] += 1e-6
        return now[0]

    def slow_step(self, *args):
        now[0] += 100
        return step(self, *args)

    step = Episodes.step
    monkeypatch.setattr(time, "perf_counter", perf_counter)
    monkeypatch.setattr(Episodes, "step", slow_step)
    train(tmp_path, *WORDS, "env.id=Odds-v0", *CURVE)
    told = record(tmp_path)
    assert told["time"]["evaluation"] == pytest.approx(400, abs=1)  # four evaluations of one step
    assert told["result"]["seconds"] < 1
    assert sum(told["time"]["seconds"].values()) < 1
    assert all(float(row["wall_time"]) < 1 for row in rows_of(tmp_path))
    assert all(float(row["steps_per_second"]) > 64 for row in rows_of(tmp_path))


# Right --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectorization", ["vector", "sync", "async"])
def test_the_last_evaluation_is_that_of_the_final_policy_played_by_hand(tmp_path, vectorization):
    words = (*WORDS, "env=pendulum", "env.backend=gymnasium", f"env.vectorization={vectorization}", "num_seeds=2")
    if vectorization == "vector":
        words = (*WORDS, *GYMNASIUM, "num_seeds=2")
    train(tmp_path, *words, "evaluation.every=1e4", "evaluation.curve_episodes=3", "evaluation.max_steps=1000")
    write_config(tmp_path, *words)
    for seed in (0, 1):
        policy = rlexp.load_policy(tmp_path, seed=seed)
        totals = []
        if vectorization == "vector":  # three environments with one random stream
            envs = gym.make_vec("CartPole-v1", 3, "vector_entry_point")
            obs, _ = envs.reset(seed=curve_seeds(3)[0])
            totals, running = np.zeros(3), np.ones(3, bool)
            while running.any():
                obs, rewards, terminated, truncated, _ = envs.step(policy(obs))
                totals += rewards * running
                running &= ~(terminated | truncated)
        else:
            for number in curve_seeds(3):
                env = gym.make("Pendulum-v1")
                obs, ended, total = env.reset(seed=number)[0], False, 0.0
                while not ended:
                    obs, reward, terminated, truncated, _ = env.step(policy(obs))
                    total, ended = total + float(reward), terminated or truncated
                totals.append(total)
        found = float(rows_of(tmp_path, seed)[-1]["evaluation_return"])
        assert found == pytest.approx(np.mean(totals), rel=1e-4)  # by another number of rows at a time


def test_environments_in_torch_are_played_as_gymnasiums(tmp_path):
    """From the same states: returns of CartPole are numbers of steps, which rounding seldom changes."""
    trainer = make_trainer(tmp_path, *WORDS, "env=cartpole", "evaluation.max_steps=500", *CURVE)
    trainer.iterate()
    found = trainer.curve.evaluate(np.array([True]))
    totals = []
    for number in curve_seeds(3):
        env = gym.make("CartPole-v1")
        env.reset(seed=0)
        noise = torch.rand(4, generator=torch.Generator().manual_seed(number))
        env.unwrapped.state = (noise * 0.1 - 0.05).double().numpy()
        obs, total, ended = env.unwrapped.state.astype(np.float32), 0.0, False
        while not ended:
            params, _ = trainer.learner.policy(torch.from_numpy(obs)[None, None])
            obs, reward, terminated, truncated, _ = env.step(int(params.argmax()))
            total, ended = total + reward, terminated or truncated
        totals.append(total)
    assert found["evaluation_return"].tolist() == [np.mean(totals)]


def test_half_of_the_episodes_are_sampled(tmp_path):
    trainer = make_trainer(tmp_path, *WORDS, "env.id=Odds-v0", "evaluation.every=64", "evaluation.curve_episodes=2000")
    found = trainer.curve.evaluate(np.array([True]))
    params, _ = trainer.learner.policy(torch.zeros(1, 1, 1))
    chance = float(params.softmax(-1)[0, 0, 1])
    assert found["evaluation_return"].tolist() == [float(chance > 0.5)]
    assert found["evaluation_return_sampled"][0] == pytest.approx(chance, abs=0.05)  # 4.5 standard errors


def test_every_point_plays_the_same_episodes_and_none_is_stepped_after_its_end(tmp_path):
    trainer = make_trainer(tmp_path, *WORDS, "env.id=Counted-v0", "num_seeds=2", *CURVE)
    Counted.made = Counted.steps = 0
    first = trainer.curve.evaluate(np.array([True, True]))
    mean = first["evaluation_return"][0]
    assert Counted.made == 2 * 2 * 3  # agents, halves, episodes
    assert Counted.steps == round(Counted.made * mean)
    for other in (first, trainer.curve.evaluate(np.array([True, True]))):
        assert all(values.tolist() == [mean, mean] for values in other.values())
    assert Counted.made == 2 * 2 * 3


@pytest.mark.parametrize("words", [("env=cartpole",), GYMNASIUM, ("env=pendulum", "env.backend=gymnasium")])
def test_an_agent_with_parameters_that_are_not_finite_is_left_out(tmp_path, words):
    trainer = make_trainer(tmp_path, *WORDS, *words, *CURVE, "num_seeds=3")
    whole = trainer.curve.evaluate(np.ones(3, bool))
    with torch.no_grad():
        trainer.learner.groups[0].params["actor_head.weight"][1] = torch.nan
    rest = trainer._evaluate(trainer.runs)
    for name, values in whole.items():
        assert np.isnan(rest[name]).tolist() == [False, True, False]
        assert rest[name][[0, 2]].tolist() == values[[0, 2]].tolist()
    assert all(np.isnan(values).all() for values in trainer.curve.evaluate(np.zeros(3, bool)).values())


def test_long_episodes_are_cut_and_it_is_said_once(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="rlexp"):
        for name in ("env.backend=torch", "env.backend=gymnasium"):
            folder = tmp_path / name
            train(folder, *WORDS, "env=mountaincar", name, *CURVE, "evaluation.max_steps=7")
            assert {row["evaluation_return"] for row in rows_of(folder)} == {"", "-7"}
    lines = [line for line in caplog.messages if "cut off" in line]
    assert lines == ["6 episodes of evaluation.every were cut off at evaluation.max_steps=7"] * 2


def test_in_processes_there_are_no_more_environments_at_a_time_than_in_training(tmp_path):
    words = (*WORDS, "env.id=Counted-v0", "evaluation.every=64", "evaluation.curve_episodes=5")
    apart = make_trainer(tmp_path / "a", *words, "env.vectorization=async").curve
    together = make_trainer(tmp_path / "b", *words).curve
    assert (apart.together, together.together) == (2, 5)  # of each half, of four environments in training
    found = [curve.evaluate(np.array([True])) for curve in (apart, together)]
    assert found[0] == found[1]
    for curve in (apart, together):
        curve.close()


def test_groups_of_agents_have_no_more_environments_together_than_fit():
    def groups(agents, envs):
        return [(group.start, group.stop) for group in groups_of(agents, envs)]

    assert groups(10, 20) == [(0, 10)]
    assert groups(80, 20) == [(0, 12), (12, 24), (24, 36), (36, 48), (48, 60), (60, 72), (68, 80)]
    assert groups(25, 20) == [(0, 9), (9, 18), (16, 25)]
    assert all(max(b - a for a, b in groups(n, k)) * k <= 256 for n in range(1, 99) for k in range(1, 257))
    assert groups(3, 1000) == [(0, 1), (1, 2), (2, 3)]  # one has as many as it wants
    assert groups(1, 1000) == [(0, 1)]


@pytest.mark.parametrize(
    "words", [("env.id=Counted-v0",), (*GYMNASIUM, "algo=apo"), ("env=pendulum", "env.backend=gymnasium")]
)
def test_agents_that_are_evaluated_in_groups_are_evaluated_as_all_at_once(tmp_path, monkeypatch, words):
    settings = (*WORDS, *words, *CURVE, "num_seeds=5", "evaluation.deterministic=false", "evaluation.episodes=4")
    whole, most = train(tmp_path / "whole", *settings), []
    begin, end = Environment.start, Episodes.close

    def start(own, seeds, **settings):
        most.append(sum(map(len, seeds)))
        return begin(own, seeds, **settings)

    def close(own):
        if own.envs is not None:
            most.append("closed")
        end(own)

    monkeypatch.setattr(evaluation, "TOGETHER", 12)
    monkeypatch.setattr(Episodes, "close", close)
    monkeypatch.setattr(Environment, "start", start)
    parts = train(tmp_path / "parts", *settings)
    monkeypatch.undo()
    assert most[-3:] == [
        "closed",
        12,
        12,
    ]  # three agents of four episodes; two and one again
    for seed in range(5):
        for one, other in zip(rows_of(whole.runs[0].folder, seed), rows_of(parts.runs[0].folder, seed), strict=True):
            assert [one[name] for name in EVALUATIONS] == [other[name] for name in EVALUATIONS]
    ends = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("whole", "parts")]
    assert ends[0] == ends[1]


def test_what_an_environment_returns_wrongly_is_said(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, *WORDS, "env.id=Odds-v0", *CURVE)
    monkeypatch.setattr(Odds, "step", lambda self, action: (probes.obs(0.0), np.nan, True, False, {}))
    with pytest.raises(EnvironmentFault, match="returned a reward that is not finite in evaluation"):
        trainer.curve.evaluate(np.array([True]))


def test_jobs_side_by_side_are_evaluated_as_alone(tmp_path):
    own = (("seed=0",), ("seed=5", "num_seeds=2"))
    words = (*WORDS, "env=pendulum", *CURVE)
    train(tmp_path / "batch", *words, own=own)
    for number, mine in enumerate(own):
        train(tmp_path / f"alone{number}", *words, *mine)
        for seed in (0,) if number == 0 else (5, 6):
            ours, theirs = rows_of(tmp_path / "batch" / str(number), seed), rows_of(tmp_path / f"alone{number}", seed)
            for name in EVALUATIONS:
                found, expected = ([float(row[name] or "nan") for row in rows] for rows in (ours, theirs))
                assert sum(np.isfinite(expected)) == 4
                np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_it_is_due_at_the_first_row_at_or_after_a_multiple(tmp_path):
    # rows at 128, 256, ..., and the last at 640; multiples of 96 lie in each gap, of 300 in (256, 384] and (512, 640]
    for every, filled in ((96, [1, 2, 3, 4, 5]), (300, [3, 5]), (10_000, [5])):
        folder = tmp_path / str(every)
        train(folder, *WORDS, "env.id=Odds-v0", f"evaluation.every={every}", "log_every=128")
        assert [n for n, row in enumerate(rows_of(folder), 1) if row["evaluation_return"]] == filled


# Stopped and resumed ------------------------------------------------------------------------------------------------


def stop_within(trainer, monkeypatch, evaluation, action):
    """Call `action` in the second step of an evaluation, counted from 1."""
    count = [0, 0]
    evaluate, noise = trainer.curve.evaluate, trainer.curve._noise

    def evaluating(agents):
        count[:] = [count[0] + 1, 0]
        return evaluate(agents)

    def noises(seed):
        of = noise(seed)

        def counting(step):
            count[1] += 1
            if count == [evaluation, 2]:
                action()
            return of(step)

        return counting

    monkeypatch.setattr(trainer.curve, "evaluate", evaluating)
    monkeypatch.setattr(trainer.curve, "_noise", noises)


def die():
    raise MemoryError


def term():
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.few(1)
@pytest.mark.parametrize("words", [("env=cartpole",), ("env=pendulum", "env.backend=gymnasium", "num_seeds=2")])
@pytest.mark.parametrize("evaluation", [2, 4])  # the fourth is the last
def test_a_stop_within_an_evaluation_is_made_good_by_the_next_launch(tmp_path, monkeypatch, words, evaluation):
    words = (*WORDS, *words, *CURVE, "evaluation.max_steps=40")
    train(tmp_path / "whole", *words)
    first = make_trainer(tmp_path / "parts", *words)
    stop_within(first, monkeypatch, evaluation, term)
    with pytest.raises(Interrupted) as stop:
        first.train(False)
    assert stop.value.saved
    at = {2: 6, 4: 10}[evaluation]
    assert first.update_number == at  # nothing that was trained is lost
    rows = rows_of(tmp_path / "parts")
    assert len(rows) == at
    assert rows[-1]["evaluation_return"] == ""

    second = make_trainer(tmp_path / "parts", *words)  # dies once the row is complete, before it has saved anything
    monkeypatch.setattr(second, "iterate", die)
    monkeypatch.setattr(second, "finish", die)
    with pytest.raises(MemoryError):
        second.train(True)
    assert rows_of(tmp_path / "parts")[-1]["evaluation_return"] != ""

    third = make_trainer(tmp_path / "parts", *words)
    third.train(True)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    ours, theirs = (state_of(tmp_path / name) for name in ("parts", "whole"))
    assert all(same(ours[name], theirs[name]) for name in ("learner", "algo", "collector", "streams"))
    events = [sorted((tmp_path / name / "seed_0").glob("events*")) for name in ("parts", "whole")]
    assert [len(found) for found in events] == [1, 1]


@pytest.mark.parametrize("after", [False, True])
def test_a_run_killed_in_or_after_an_evaluation_resumes_from_its_checkpoint(tmp_path, monkeypatch, after):
    words = (*WORDS, "env=cartpole", *CURVE, "checkpoint_every=256")
    train(tmp_path / "whole", *words)
    first = make_trainer(tmp_path / "parts", *words)
    if after:
        monkeypatch.setattr(first, "iterate", lambda: die() if first.update_number == 7 else Trainer.iterate(first))
    else:
        stop_within(first, monkeypatch, 2, die)
    with pytest.raises(MemoryError):
        first.train(False)
    train(tmp_path / "parts", *words, resume=True)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_a_pause_takes_no_evaluation_from_later_rows(tmp_path):
    words = (*WORDS, "env=cartpole", *CURVE, "log_every=128")
    train(tmp_path / "whole", *words)
    with pytest.raises(Paused):
        train(tmp_path / "parts", *words, "stop_at=192")  # which is a row only because it pauses there
    assert rows_of(tmp_path / "parts")[-1]["evaluation_return"]
    train(tmp_path / "parts", *words, resume=True)
    ours, theirs = (rows_of(tmp_path / name) for name in ("parts", "whole"))
    kept = [row for row in ours if row["step"] in {row["step"] for row in theirs}]
    assert len(ours) == len(theirs) + 1
    for name in EVALUATIONS:
        assert [row[name] for row in kept] == [row[name] for row in theirs]


def test_a_run_begun_without_takes_it_up_when_resumed_with_it_and_the_reverse(tmp_path):
    words = (*WORDS, "env.id=Odds-v0")
    for name, before, now in (("on", (), CURVE), ("off", CURVE, ())):
        with pytest.raises(Paused):
            train(tmp_path / name, *words, *before, "stop_at=320")
        train(tmp_path / name, *words, *now, resume=True)
    on, off = ([bool(row["evaluation_return"]) for row in rows_of(tmp_path / name)] for name in ("on", "off"))
    assert on == [False] * 5 + [True, False, False, True, True]
    assert off == [False, False, True] + [False] * 7


def test_jobs_of_a_batch_stopped_within_an_evaluation_resume_together(tmp_path, monkeypatch):
    words, own = (*WORDS, "env=cartpole", *CURVE), (("seed=0",), ("seed=5", "num_seeds=2"))
    train(tmp_path / "whole", *words, own=own)
    first = trainer_of(make_jobs(tmp_path / "parts", *words, own=own))
    stop_within(first, monkeypatch, 1, term)
    with pytest.raises(Interrupted):
        first.train(False)
    train(tmp_path / "parts", *words, own=own, resume=True)
    for job in "01":
        assert records(tmp_path / "parts" / job) == records(tmp_path / "whole" / job)
