"""An agent that diverges is retired, and the others go on bit for bit as if it had not."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import make_jobs, make_trainer, record, state_of, stop_after, train, trainer_of, weights_of
from torch.testing import assert_close

from rlexp.errors import DivergedError
from rlexp.plain.by_agent import select_agents
from rlexp.signals import Interrupted
from rlexp.training.divergence import not_finite

# eight updates of 128 rows; the victim diverges in the third, as progress is then 2/8
EIGHT = ("total_steps=1024", "env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=2", "algo.minibatches=2")
EIGHT += ("network.torso.hidden=[8]", "log_every=1", "evaluation.max_steps=30")
THREE = ("num_seeds=3", "++algo.victim=1")


SPOILS = {"ppo": "SpoilsPPO", "apo": "SpoilsAPO", "ppo_kl": "SpoilsKL"}


def spoils(name):
    return f"algo={name}", f"algo._target_=diverging.{SPOILS[name]}"


CASES = {
    "ppo": (*spoils("ppo"), "env=cartpole"),
    "value loss": (*spoils("ppo"), "env=cartpole", "++algo.what=value_loss"),
    "gradient": (*spoils("ppo"), "env=cartpole", "++algo.what=gradient"),
    "rewards": ("algo=ppo", "algo._target_=diverging.SpoilsRewards", "env=cartpole"),
    "first agent": (*spoils("ppo"), "env=cartpole", "++algo.victim=0"),
    "memory": (*spoils("apo"), "env=cartpole", "env.backend=gymnasium", "algo.top_k=2", "algo.max_steps=20"),
    "normalised": (
        *spoils("apo"),
        "env=pendulum",
        "env.normalize_obs=true",
        "env.normalize_reward=true",
        "algo.anchor_coef=[1,0]",
    ),
    "adaptive": (*spoils("ppo_kl"), "env=acrobot", "optimizer.lr=[1e-3,0]", "algo.clip_coef=[0.3,0.1]"),
    "early stop": (*spoils("ppo"), "env=cartpole", "algo.target_kl=0.001", "algo.epochs=4"),
    "loop": (*spoils("apo"), "env=mountaincar_continuous", "batching=loop"),
    "sgd": (*spoils("ppo"), "env=cartpole", "~optimizer.eps", "~optimizer.fused", "optimizer._target_=torch.optim.SGD"),
}


def rows_of(folder):
    """Rows of metrics.csv by seed, less what the clock decides."""
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    skip = [header.index(name) for name in ("wall_time", "steps_per_second")]
    found = {}
    for row in rows:
        found.setdefault(int(row[0]), []).append([cell for k, cell in enumerate(row) if k not in skip])
    return found


def agent_of(folder, agent):
    """What a run's checkpoint holds of one agent."""
    state = state_of(folder)
    total, part = len(state["seeds"]), slice(agent, agent + 1)
    kept = {name: select_agents(state[name], part, total) for name in ("learner", "algo", "scaler", "collector")}
    of_trainer = {name: state["trainer"][name][agent] for name in ("steps", "episodes", "recent", "rows")}
    return kept | {"stream": state["streams"][agent], "trainer": of_trainer}


def assert_same_agents(ours, theirs, agents):
    for agent in agents:
        assert_close(agent_of(ours, agent), agent_of(theirs, agent), rtol=0, atol=0, equal_nan=True)


@pytest.mark.few(3)
@pytest.mark.parametrize("case", CASES)
def test_the_others_go_on_as_if_it_had_not(tmp_path, case):
    settings = (*EIGHT, *THREE, *CASES[case], "evaluation.episodes=2")
    trainer = train(tmp_path / "spoilt", *settings)
    train(tmp_path / "whole", *settings, "++algo.victim=-1")
    victim = 0 if case == "first agent" else 1
    others = [seed for seed in range(3) if seed != victim]
    assert_same_agents(tmp_path / "spoilt", tmp_path / "whole", others)
    ours, theirs = rows_of(tmp_path / "spoilt"), rows_of(tmp_path / "whole")
    for seed in others:
        assert ours[seed] == theirs[seed]
    assert ours[victim] == theirs[victim][:2]  # those of the two updates before
    assert all(x.isfinite().all() for x in weights_of(trainer).values())

    told = record(tmp_path / "spoilt")
    assert told["status"] == "done"
    (entry,) = told["diverged"].values()
    assert list(told["diverged"]) == [str(victim)]
    first = {"value loss": ("value_loss", "inf"), "gradient": ("policy_loss", "nan"), "rewards": ("policy_loss", "nan")}
    metric, value = first.get(case, ("loss", "nan"))
    assert entry == {"step": int(theirs[victim][2][1]), "update": 3, "metric": metric, "value": value}
    result = told["result"]
    assert [k for k, rows in enumerate(result["rows"]) if rows == 8] == others
    assert result["rows"][victim] == 2
    for name in ("steps", "training_return", "evaluation_return"):
        full = record(tmp_path / "whole")["result"][name]
        assert result[name] == [None if seed == victim else full[seed] for seed in range(3)], name
    evaluated, full = (json.loads((tmp_path / run / "evaluation.json").read_text()) for run in ("spoilt", "whole"))
    assert evaluated["agents"] == [agent for agent in full["agents"] if agent["seed"] != victim]
    assert record(tmp_path / "whole")["diverged"] == {}


def test_the_others_are_what_each_would_be_alone(tmp_path):
    settings = (*EIGHT, *spoils("apo"), "env=cartpole", "++algo.victim=1")
    together = train(tmp_path / "together", *settings, "num_seeds=3")
    for seed in (0, 2):
        alone = train(tmp_path / str(seed), *settings, f"seed={seed}")
        for name, x in weights_of(alone).items():
            assert_close(weights_of(together)[name][seed], x[0], atol=2e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize(
    ("batching", "what", "since", "update"),
    [
        ("auto", "loss", 0.25, 3),
        pytest.param("loop", "gradient", 0, 1, marks=pytest.mark.slow),
        pytest.param("auto", "gradient", 0, 1, marks=pytest.mark.slow),
        pytest.param("loop", "loss", 0.25, 3, marks=pytest.mark.slow),
    ],
)
def test_compiled_too(tmp_path, traced, caplog, batching, what, since, update):
    settings = (*EIGHT, *THREE, *spoils("apo"), "env=cartpole", f"batching={batching}")
    settings += (f"++algo.what={what}", f"++algo.since={since}")
    trainer = train(tmp_path / "spoilt", *settings, "compile=true")
    train(tmp_path / "whole", *settings, "compile=true", "++algo.victim=-1")
    assert not trainer.learner.notes.uncompiled
    assert_same_agents(tmp_path / "spoilt", tmp_path / "whole", (0, 2))
    assert caplog.text.count(f"seed 1 diverged in update {update}, ") == 1


# before, after and well after it is retired
@pytest.mark.few(1)
@pytest.mark.parametrize(("case", "stop"), [("ppo", 3), ("memory", 2), ("normalised", 6), ("loop", 6)])
def test_a_resumed_run_keeps_it_retired(tmp_path, case, stop):
    settings = (*EIGHT, *THREE, *CASES[case], "evaluation.episodes=2")
    train(tmp_path / "whole", *settings)
    first = make_trainer(tmp_path / "parts", *settings)
    stop_after(first, stop)
    with pytest.raises(Interrupted):
        first.train(False)
    assert (record(tmp_path / "parts")["diverged"] != {}) == (stop > 2)
    second = train(tmp_path / "parts", *settings, resume=True)
    assert second.alive.tolist() == [True, False, True]
    assert_same_agents(tmp_path / "parts", tmp_path / "whole", (0, 2))
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    told, whole = record(tmp_path / "parts"), record(tmp_path / "whole")
    assert told["diverged"] == whole["diverged"]
    for name in ("steps", "rows", "training_return", "evaluation_return"):
        assert told["result"][name] == whole["result"][name]


def test_a_checkpoint_from_before_it_brings_it_back_until_it_diverges_again(tmp_path):
    settings = (*EIGHT, *THREE, *CASES["ppo"])
    trainer = make_trainer(tmp_path, *settings, "checkpoint_every=256")  # updates 2, 4, ...
    iterate = trainer.iterate

    def crash():
        iterate()
        if trainer.update_number == 3:
            raise MemoryError

    trainer.iterate = crash
    with pytest.raises(MemoryError):
        trainer.train(False)
    assert list(record(tmp_path)["diverged"]) == ["1"]
    again = make_trainer(tmp_path, *settings)
    seen, resumed = [], again.iterate

    def look():
        seen.append((list(record(tmp_path)["diverged"]), again.alive.tolist()))
        resumed()

    again.iterate = look
    again.train(True)
    assert seen[:2] == [([], [True] * 3), (["1"], [True, False, True])]


def test_a_checkpoint_of_an_older_version_has_nobody_retired(tmp_path):
    first = make_trainer(tmp_path, *EIGHT, *THREE, *CASES["ppo"])
    stop_after(first, 2)
    with pytest.raises(Interrupted):
        first.train(False)
    state = state_of(tmp_path)
    del state["trainer"]["diverged"]
    torch.save(state, tmp_path / "checkpoint.pt")
    assert train(tmp_path, *EIGHT, *THREE, *CASES["ppo"], resume=True).alive.tolist() == [True, False, True]


def test_one_that_diverges_in_the_last_update_has_no_row_of_it_and_no_evaluation(tmp_path):
    train(tmp_path, *EIGHT, *THREE, *CASES["ppo"], "++algo.since=0.875", "evaluation.episodes=1")  # 7/8
    assert {seed: len(rows) for seed, rows in rows_of(tmp_path).items()} == {0: 8, 1: 7, 2: 8}
    told = record(tmp_path)
    assert told["diverged"]["1"]["update"] == 8
    assert told["result"]["evaluation_return"][1] is None
    assert [agent["seed"] for agent in json.loads((tmp_path / "evaluation.json").read_text())["agents"]] == [0, 2]


def test_one_that_diverges_in_the_first_update_has_no_row(tmp_path, caplog):
    train(tmp_path, *EIGHT, *THREE, *CASES["ppo"], "++algo.since=0", "evaluation.episodes=1")
    assert sorted(rows_of(tmp_path)) == [0, 2]
    assert record(tmp_path)["result"]["rows"] == [8, 0, 8]
    assert "In the first update the cause is the loss" in caplog.text


# Jobs of a batch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 6])
def test_only_its_own_job_tells_of_it(tmp_path, victim, caplog):
    own = (("seed=0", "num_seeds=2"), ("seed=5", "num_seeds=2", "optimizer.lr=1e-4"))
    settings = (*EIGHT, *spoils("apo"), "env=cartpole")
    train(tmp_path / "spoilt", *settings, f"++algo.victim={victim}", own=own)
    train(tmp_path / "whole", *settings, own=own)
    for job, seeds in (("0", (0, 1)), ("1", (5, 6))):
        ours, theirs = tmp_path / "spoilt" / job, tmp_path / "whole" / job
        assert list(record(ours)["diverged"]) == [str(seed) for seed in seeds if seed == victim]
        assert record(ours)["status"] == "done"
        assert_same_agents(ours, theirs, [k for k, seed in enumerate(seeds) if seed != victim])
    (line,) = [line for line in caplog.records if "diverged" in line.getMessage()]
    assert line.folder == tmp_path / "spoilt" / ("0" if victim == 0 else "1")


def test_a_job_whose_last_agent_diverges_fails_and_its_neighbours_are_saved(tmp_path):
    own = (("seed=0", "num_seeds=2"), ("seed=1", "num_seeds=1"))
    jobs = make_jobs(tmp_path, *EIGHT, *spoils("ppo"), "env=cartpole", "++algo.victim=1", own=own)
    trainer = trainer_of(jobs)
    with pytest.raises(DivergedError, match="update 3: loss of seed 1 is nan; there is no checkpoint yet") as caught:
        trainer.train(False)
    assert list(caught.value.runs) == [jobs[1].folder]
    assert [list(record(job.folder)["diverged"]) for job in jobs] == [["1"], ["1"]]
    state = state_of(jobs[0].folder)
    assert list(state["trainer"]["diverged"]) == [1]
    assert all(x.isfinite().all() for x in state["learner"]["tensors"].values())
    again = make_jobs(tmp_path, *EIGHT, *spoils("ppo"), "env=cartpole", "++algo.victim=1", own=own)
    alone = trainer_of(again[:1])
    alone.train(True)
    assert record(jobs[0].folder)["status"] == "done"


def test_a_run_ends_when_its_last_agent_diverges(tmp_path):
    trainer = make_trainer(tmp_path, *EIGHT, *THREE, *CASES["ppo"], "checkpoint_every=128")
    iterate = trainer.iterate

    def poison():
        for update, agent in ((4, 0), (6, 2)):
            if trainer.update_number == update:
                trainer.learner.groups[0].params["critic_head.bias"].data[agent] = math.nan
        iterate()

    trainer.iterate = poison
    line = r"update 7: \w+ of seed 2 is nan, and every other seed has diverged; the last good checkpoint is kept"
    with pytest.raises(DivergedError, match=line):
        trainer.train(False)
    state = state_of(tmp_path)
    assert state["trainer"]["update_number"] == 6
    assert sorted(state["trainer"]["diverged"]) == [0, 1]
    updates = {int(seed): entry["update"] for seed, entry in record(tmp_path)["diverged"].items()}
    assert updates == {1: 3, 0: 5, 2: 7}
    assert {seed: len(rows) for seed, rows in rows_of(tmp_path).items()} == {0: 4, 1: 2, 2: 6}


# What others see of it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "gymnasium"])
@pytest.mark.parametrize("poison", [math.nan, 1e38])
def test_environments_see_no_number_that_is_not_finite(tmp_path, backend, poison):
    settings = ("env=pendulum", f"env.backend={backend}", "env.normalize_obs=true", "num_seeds=3")
    trainer = make_trainer(tmp_path, *EIGHT, *settings, "network.torso.activation=relu")
    iterate, seen = trainer.iterate, []

    def act_badly():
        if trainer.update_number == 2:  # what acts next has numbers that make others, as 1e38 · 1e38 − 1e38 · 1e38
            for x in trainer.learner.groups[0].params.values():
                x.data[1] = poison
        iterate()
        seen.append(np.isfinite(trainer.collector.obs.numpy()).all())

    trainer.iterate = act_badly
    trainer.train(False)
    assert list(record(tmp_path)["diverged"]) == ["1"]
    assert record(tmp_path)["diverged"]["1"]["update"] == 3
    assert all(seen)


def test_retired_agents_are_not_judged():
    metrics = {"a": np.array([1.0, np.nan, np.inf, 0.0]), "b": np.array([1.0, 2.0, np.nan, -np.inf])}
    found = not_finite(metrics, np.array([True, False, True, True]))
    assert found == {2: ("a", math.inf), 3: ("b", -math.inf)}


@pytest.mark.parametrize("batching", ["auto", "loop"])
def test_an_agent_is_overwritten_by_a_copy_of_another(tmp_path, batching):
    settings = ("env=pendulum", "env.normalize_obs=true", "num_seeds=3", f"batching={batching}")
    learner = make_trainer(tmp_path, *EIGHT, *settings).learner
    before = {name: x.clone() for name, x in learner.tensors().items()}
    learner.copy_agent(2, 0)
    for name, x in learner.tensors().items():
        assert torch.equal(x, before[name][[2, 1, 2]])
    learner.groups[0].params["critic_head.bias"].data.view(-1)[0] += 1.0  # of the first alone
    assert torch.equal(learner.tensors()["critic_head.bias"][1:], before["critic_head.bias"][1:])
