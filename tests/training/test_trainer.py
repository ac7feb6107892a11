"""The training loop: what it counts, when it records and saves, and what stops it."""

import csv
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import probes  # noqa: F401  (registers them)
import pytest
import torch
from helpers import make_trainer, train
from strangers import SMALL

from rlexp.data import FinishedEpisodes
from rlexp.errors import DivergedError
from rlexp.signals import Paused

# updates of 64 rows, of which none is a dummy, as no episode of Pendulum ends within 72 steps
NINE = ("env=pendulum", "env.num_envs=8", "algo.rollout_steps=8", "algo.minibatches=2", "algo.epochs=1")
NINE += ("total_steps=576", "network.torso.hidden=[8]")


def rows_of(folder, seed=0):
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["seed"] == str(seed)]


# Counting -----------------------------------------------------------------------------------------------------------


def test_steps_and_episodes_are_counted_without_dummies(tmp_path):
    settings = ("env.id=Endless-v0", "env.num_envs=2", "algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=1")
    trainer = train(tmp_path, *settings, "num_seeds=2", "total_steps=96", "log_every=1")
    # episodes of five steps and a dummy: after 16, 32 and 48 rows of an environment 2, 5 and 8 have ended, and as many
    # rows were dummies
    for seed in (0, 1):
        rows = rows_of(tmp_path, seed)
        assert [int(row["step"]) for row in rows] == [2 * (16 - 2), 2 * (32 - 5), 2 * (48 - 8)]
        assert [float(row["episodes"]) for row in rows] == [2 * 2, 2 * 5, 2 * 8]
        assert [float(row["episodic_return"]) for row in rows] == [5.0] * 3
        assert [float(row["episodic_length"]) for row in rows] == [5.0] * 3
    assert trainer.update_number == 3
    assert trainer.total_rows == 96  # dummies included, unlike steps
    assert trainer.steps.tolist() == [80, 80]
    assert trainer.games.finished.tolist() == [16, 16]


def test_what_total_steps_leaves_over_is_not_trained(tmp_path):
    trainer = train(tmp_path, *NINE, "total_steps=639")  # ten updates are 640 rows
    assert (trainer.num_updates, trainer.update_number, trainer.total_rows) == (9, 9, 576)


def test_each_row_has_the_mean_return_of_the_episodes_since_the_one_before(tmp_path):
    trainer = make_trainer(tmp_path, *NINE, "num_seeds=3")
    nothing = np.zeros(4, int)
    for agents, returns in (([0, 2, 0, 0], [1.0, 5.0, 3.0, 5.0]), ([2, 2, 0, 2], [7.0, 8.0, 4.0, 4.0])):
        trainer.games.count(FinishedEpisodes(np.array(agents), nothing, nothing, nothing, np.array(returns), nothing))
    # agent 0: (1 + 3 + 5 + 4) / 4 ; agent 1: none ; agent 2: (5 + 7 + 8 + 4) / 4
    np.testing.assert_array_equal(trainer.games.next_row(), [13 / 4, np.nan, 24 / 4])
    np.testing.assert_array_equal(trainer.games.next_row(), [np.nan] * 3)


def test_rows_together_tell_the_mean_over_all_episodes(tmp_path):
    words = ("env=cartpole", "num_seeds=2", "env.num_envs=2", "algo.rollout_steps=16", "algo.minibatches=2")
    train(tmp_path, *words, "total_steps=640", "log_every=96")
    for seed in (0, 1):
        rows = rows_of(tmp_path, seed)
        episodes = np.diff([float(row["episodes"]) for row in rows], prepend=0)
        assert [row["row_return"] != "" for row in rows] == (episodes > 0).tolist()
        total = sum(float(row["row_return"] or 0) * count for row, count in zip(rows, episodes, strict=True))
        assert 10 < episodes.sum() <= 100  # so that the window holds all
        assert total / episodes.sum() == pytest.approx(float(rows[-1]["episodic_return"]))


def test_returns_are_means_over_the_last_hundred_episodes_of_each_agent(tmp_path):
    trainer = make_trainer(tmp_path, *NINE, "num_seeds=3")
    agents = np.repeat([0, 2], [150, 2])
    numbers = np.concatenate([np.arange(150), [7, 8]])
    nothing = np.zeros_like(agents)
    trainer.games.count(
        FinishedEpisodes(agents, nothing, nothing, nothing, returns=numbers * 1.0, lengths=numbers * 10)
    )
    returns, lengths = trainer.games.window(trainer.alive)
    # of 0 to 149 the last hundred are 50 to 149, whose mean is 99.5; the second agent has seen no episode end
    np.testing.assert_array_equal(returns, [99.5, np.nan, 7.5])
    np.testing.assert_array_equal(lengths, [995.0, np.nan, 75.0])
    assert trainer.games.finished.tolist() == [150, 0, 2]


def test_no_return_is_told_before_an_episode_has_ended(tmp_path):
    train(tmp_path, *NINE, "log_every=64")
    assert [(row["episodic_return"], float(row["episodes"])) for row in rows_of(tmp_path)] == [("", 0.0)] * 9


# When ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_every", "steps"),
    [
        (64, [64 * k for k in range(1, 10)]),
        # the first after each multiple: 100 → 128, 200 → 256, 300 → 320, 400 → 448, 500 → 512; and the last
        (100, [128, 256, 320, 448, 512, 576]),
        (1, [64 * k for k in range(1, 10)]),  # no more than one an update
        (10_000, [576]),
    ],
)
def test_rows_are_logged_once_an_update_has_crossed_a_multiple(tmp_path, log_every, steps):
    train(tmp_path, *NINE, f"log_every={log_every}")
    assert [int(row["step"]) for row in rows_of(tmp_path)] == steps


@pytest.mark.parametrize(("checkpoint_every", "updates"), [(200, [4, 7, 9]), (576, [9]), (10_000, [9])])
def test_checkpoints_are_written_likewise_and_the_last_once(tmp_path, checkpoint_every, updates):
    # 200 → 256 rows, 4 updates; 400 → 448, 7 updates
    trainer = make_trainer(tmp_path, *NINE, f"checkpoint_every={checkpoint_every}")
    saved, save = [], trainer.save
    trainer.save = lambda *runs: (saved.append(trainer.update_number), save(*runs))
    trainer.train(False)
    assert saved == updates


def test_a_run_pauses_after_the_update_that_comes_to_stop_at_saved_and_logged(tmp_path):
    trainer = make_trainer(tmp_path, *NINE, "stop_at=300", "log_every=10000")
    with pytest.raises(Paused, match="320"):  # five updates
        trainer.train(False)
    assert trainer.update_number == 5
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["trainer"]["update_number"] == 5
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [320]


def test_progress_that_schedules_see_goes_from_nothing_to_the_last_update(tmp_path):
    trainer = make_trainer(tmp_path, *NINE)
    seen, update = [], trainer.learner.update
    trainer.learner.update = lambda *given, last, **more: (
        seen.append((given[2], last)),
        update(*given, last=last, **more),
    )[1]
    trainer.train(False)
    assert [progress for progress, _ in seen] == pytest.approx([k / 9 for k in range(9)])
    assert [last for _, last in seen] == [False] * 8 + [True]


# What the learner is given ------------------------------------------------------------------------------------------


def test_the_learner_sees_signs_and_the_record_returns(tmp_path):
    trainer = make_trainer(tmp_path, "env=pendulum", "env.sign_reward=true", "algo.rollout_steps=256")
    seen = []
    gae = trainer.targets.gae
    trainer.targets.gae = lambda rewards, *rest: seen.append(rewards) or gae(rewards, *rest)
    trainer.iterate = partial(_iterate_undisplayed, trainer)
    trainer.iterate()
    assert set(seen[0].flatten().tolist()) <= {-1.0, 0.0}
    assert all(score < -200 for recent in trainer.games.recent for score, _ in recent)


def _iterate_undisplayed(trainer):
    trainer.display = SimpleNamespace(update=lambda *_: None)
    trainer.runs = []
    type(trainer).iterate(trainer)


# Divergence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_parameter_that_diverges_in_the_last_minibatch_is_seen(tmp_path, num_seeds):
    trainer = make_trainer(tmp_path, *SMALL, f"num_seeds={num_seeds}", "log_every=1")
    update = trainer.learner.update

    def diverge(*args, **last):
        metrics = update(*args, **last)
        if trainer.update_number == 2:
            trainer.learner.groups[0].params["critic_head.bias"].data.view(-1)[-1] = math.inf
        return metrics

    trainer.learner.update = diverge
    if num_seeds == 1:
        with pytest.raises(DivergedError, match="update 3: a parameter of seed 0 is inf"):
            trainer.train(False)
    else:  # see test_divergence.py
        trainer.train(False)
        assert trainer.alive.tolist() == [True, True, False]
    assert "a parameter" not in (tmp_path / "metrics.csv").read_text()


EIGHT = ("total_steps=2048", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, *EIGHT, "checkpoint_every=512")
    iterate = trainer.iterate

    def poison():
        if trainer.update_number == 5:
            trainer.learner.groups[0].params["critic_head.bias"].data[0] = float("nan")
        iterate()

    trainer.iterate = poison
    with pytest.raises(
        DivergedError, match=r"update 6: \w+ of seed 0 is nan; the last good checkpoint is kept.*a smaller"
    ):
        trainer.train(False)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["update_number"] == 4
    assert all(tensor.isfinite().all() for tensor in state["learner"]["tensors"].values())
