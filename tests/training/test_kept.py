"""Which weights are evaluated at the end: the last, an average over updates, the best so far."""

import csv
import json

import numpy as np
import pytest
import torch
from helpers import make_config, make_trainer, record, records, resumed, same, state_of, train, weights_of, write_config

import rlexp
from rlexp import build
from rlexp.config.identity import config_hash, identity
from rlexp.errors import ConfigError
from rlexp.signals import Interrupted
from rlexp.training.curve import EvaluationCurve
from rlexp.training.kept import Kept

SMALL = ("env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=2", "algo.minibatches=2", "total_steps=1024")
BEST = (*SMALL, "evaluation.weights=best", "evaluation.every=128", "log_every=128", "evaluation.curve_episodes=2")
AVERAGE = (*SMALL, "evaluation.weights=average", "evaluation.average_decay=0.5")


def test_the_average_forgets_by_half_each_update(tmp_path):
    trainer = make_trainer(tmp_path, *AVERAGE, "num_seeds=2")
    seen = []
    for _ in range(3):
        trainer.iterate()
        seen.append({name: x.clone() for name, x in weights_of(trainer).items()})
    # weights ¼, ½ and 1 of their sum; those before training have none
    for name, x in trainer.kept.tensors.items():
        first, second, third = (each[name] for each in seen)
        torch.testing.assert_close(x, (first / 4 + second / 2 + third) / 1.75)
    trainer._close()


def test_statistics_of_observations_are_the_current_ones(tmp_path):
    trainer = make_trainer(tmp_path, *AVERAGE, "env.normalize_obs=true")
    for _ in range(3):
        trainer.iterate()
    mean = "encoder.normalizer.mean"
    assert torch.equal(trainer.kept.tensors[mean], weights_of(trainer)[mean])
    trainer._close()


def test_the_best_is_kept_agent_by_agent_and_the_later_of_two(tmp_path):
    learner = make_trainer(tmp_path, *SMALL, "num_seeds=3").learner
    kept = Kept("best", 0.0, learner)
    bias = "actor_head.bias"
    for value, returns in ((1.0, [5, 5, np.nan]), (2.0, [4, 5, np.nan]), (3.0, [3, np.nan, 1])):
        with torch.no_grad():
            learner.groups[0].params[bias].fill_(value)
        kept.evaluated(np.array(returns, float))
    assert kept.tensors[bias][:, 0].tolist() == [1.0, 2.0, 3.0]
    assert kept.scores.tolist() == [5, 5, 1]


@pytest.mark.few(2)
@pytest.mark.parametrize("words", [AVERAGE, BEST], ids=["average", "best"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_resumed_is_uninterrupted(tmp_path, words, seeds):
    words = (*words, f"num_seeds={seeds}")
    train(tmp_path / "a", *words)
    resumed(tmp_path / "b", *words)
    assert same(*(state_of(tmp_path / name)["kept"] for name in "ab"))
    assert records(tmp_path / "a") == records(tmp_path / "b")


def test_a_pause_between_rows_gives_the_best_no_further_chance(tmp_path):
    words = (*BEST, "log_every=256", "optimizer.lr=3e-2")
    train(tmp_path / "a", *words)
    with pytest.raises(Exception, match="paused"):
        train(tmp_path / "b", *words, "stop_at=384")
    train(tmp_path / "b", *words, resume=True)
    assert same(*(state_of(tmp_path / name)["kept"] for name in "ab"))


def test_neither_does_one_whose_evaluation_is_made_up_for(tmp_path, monkeypatch):
    def stop(self, agents):
        raise Interrupted(15)

    words = (*BEST, "log_every=256", "optimizer.lr=3e-2")
    train(tmp_path / "a", *words, "total_steps=512")
    with monkeypatch.context() as patched:
        patched.setattr(EvaluationCurve, "evaluate", stop)
        with pytest.raises(Interrupted):
            train(tmp_path / "b", *words, "total_steps=512", "stop_at=128")
    train(tmp_path / "b", *words, "total_steps=512", resume=True)
    assert same(*(state_of(tmp_path / name)["kept"] for name in "ab"))


def test_before_an_evaluation_that_only_the_end_makes_it_is_saved_for_a_run_that_extends_this(tmp_path):
    words = (*BEST, "log_every=256", "evaluation.every=256")
    train(tmp_path / "a", *words, "total_steps=512")
    train(tmp_path / "b", *words, "total_steps=640")  # a row at 640 alone is not due
    before, after = (state_of(tmp_path / name)["kept"] for name in "ab")
    assert "before" not in before
    assert same(after["before"], before)


@pytest.mark.parametrize(
    ("deterministic", "column"), [("true", "evaluation_return"), ("false", "evaluation_return_sampled")]
)
def test_the_best_is_that_of_the_actions_that_are_evaluated_at_the_end(tmp_path, deterministic, column):
    trainer = train(tmp_path, *BEST, "optimizer.lr=3e-2", f"evaluation.deterministic={deterministic}")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    best = {name: max(float(row[name]) for row in rows) for name in ("evaluation_return", "evaluation_return_sampled")}
    assert trainer.kept.scores.tolist() == [best[column]]
    assert len(set(best.values())) == 2


@pytest.mark.parametrize("words", [AVERAGE, BEST], ids=["average", "best"])
def test_they_are_what_is_evaluated_and_loaded(tmp_path, words):
    trainer = train(tmp_path, *words, "evaluation.episodes=3", "optimizer.lr=1e-2")
    kept = trainer.kept.tensors
    assert not same(kept, weights_of(trainer))
    write_config(tmp_path, *words)
    network = rlexp.load_policy(tmp_path).network
    assert all(torch.equal(x, kept[name][0]) for name, x in network.named_parameters())
    obs = torch.randn(1, 5, 4)
    assert torch.equal(trainer.learner.policy(obs, kept)[0][0], network(obs[0])[0])
    found = json.loads((tmp_path / "evaluation.json").read_text())["agents"][0]["mean_return"]
    assert record(tmp_path)["result"]["evaluation_return"] == [found]


def test_settings_that_are_not_read_are_no_part_of_a_runs_identity():
    def hash_of(*words):
        return config_hash(identity(make_config(*words)))

    assert hash_of("evaluation.average_decay=0.5") == hash_of()
    assert hash_of("evaluation.weights=average") != hash_of()
    assert hash_of("evaluation.weights=average", "evaluation.average_decay=0.5") != hash_of(
        "evaluation.weights=average"
    )
    best = hash_of("evaluation.weights=best")
    assert best == hash_of("evaluation.weights=best", "evaluation.average_decay=0.5")
    for word in (
        "evaluation.every=64",
        "evaluation.curve_episodes=3",
        "log_every=128",
    ):  # when, and how well, it chooses
        assert hash_of("evaluation.weights=best", word) != best
        assert hash_of("evaluation.weights=average", word) == hash_of("evaluation.weights=average")
        assert hash_of(word) == hash_of()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["evaluation.weights=best"],
            "evaluation.weights=best: needs evaluations during training; set evaluation.every",
        ),
        (["evaluation.weights=bst"], "evaluation.weights=bst: must be one of last, average, best; did you mean best?"),
        (["evaluation.average_decay=1"], "evaluation.average_decay=1.0: must lie in [0, 1)"),
    ],
)
def test_what_makes_no_sense_is_refused(words, said):
    with pytest.raises(ConfigError) as error:
        build.check(make_config(*words))
    assert str(error.value).startswith(said)
