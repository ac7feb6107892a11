import json
import shutil
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import probes  # noqa: F401
import pytest
import torch
from helpers import make_trainer, record, weights_of, write_config

import rlexp
from rlexp import evaluate
from rlexp.errors import CheckpointError
from rlexp.files import file_digest
from rlexp.seeding import evaluation_seeds

SETTINGS = ("total_steps=2048", "env.num_envs=4", "algo.rollout_steps=64", "evaluation.episodes=5")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of three seeds, and its trainer."""
    folder = tmp_path_factory.mktemp("run")
    settings = (*SETTINGS, "num_seeds=3", "env.normalize_obs=true")
    trainer = make_trainer(folder, *settings)
    trainer.train(False)
    write_config(folder, *settings)
    return folder, trainer


def test_training_ends_with_an_evaluation_on_the_fixed_seeds(run):
    folder, _ = run
    content = json.loads((folder / "evaluation.json").read_text())
    assert [agent["seed"] for agent in content["agents"]] == [0, 1, 2]
    for agent in content["agents"]:
        assert [e["seed"] for e in agent["episodes"]] == evaluation_seeds(5)
        assert agent["mean_return"] == pytest.approx(np.mean([e["return"] for e in agent["episodes"]]))
        assert all(e["finished"] and e["return"] == e["length"] for e in agent["episodes"])  # CartPole pays 1 a step


def test_a_loaded_policy_plays_the_recorded_evaluation_by_hand(run):
    folder, _ = run
    policy = rlexp.load_policy(folder, seed=2)
    recorded = json.loads((folder / "evaluation.json").read_text())["agents"][2]["episodes"]
    for episode in recorded[:2]:
        env = gym.make("CartPole-v1")
        obs, _ = env.reset(seed=episode["seed"])
        total, ended = 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            total, ended = total + reward, terminated or truncated
        assert total == episode["return"]


def test_evaluation_moves_nothing(run):
    folder, trainer = run
    before = {name: x.clone() for name, x in weights_of(trainer).items()}
    saved = (folder / "checkpoint.pt").read_bytes()
    evaluate.main([f"run={folder}", "episodes=3"])
    assert (folder / "checkpoint.pt").read_bytes() == saved
    assert all(torch.equal(before[name], x) for name, x in weights_of(trainer).items())


def test_evaluation_repeats_and_can_be_sampled(run, capsys):
    folder, _ = run
    results = []
    for deterministic in ("true", "true", "false", "false"):
        evaluate.main([f"run={folder}", "episodes=4", f"deterministic={deterministic}"])
        results.append(json.loads((folder / "evaluation.json").read_text()))
    assert results[0] == results[1]
    assert results[2] == results[3]
    assert results[0]["agents"] != results[2]["agents"]
    assert "seed 2: mean return" in capsys.readouterr().out


def test_an_evaluation_vouches_for_no_file_but_its_own(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    known = record(folder)["files"]
    (folder / "metrics.csv").write_text("edited by hand\n")
    evaluate.main([f"run={folder}", "episodes=2"])
    assert record(folder)["files"] == {**known, "evaluation.json": file_digest(folder / "evaluation.json")} != known


def test_what_is_not_given_is_as_the_run_had_it(run, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    evaluate.main([f"run={folder}", "deterministic=false", "max_steps=9"])
    known = (folder / "evaluation.json").read_text()
    assert json.loads(known)["settings"] == {"episodes": 5, "deterministic": False, "max_steps": 9}
    capsys.readouterr()
    evaluate.main([f"run={folder}"])
    assert json.loads((folder / "evaluation.json").read_text())["settings"]["episodes"] == 5
    assert (
        "evaluation.json is replaced; it was of episodes=5, deterministic=false, max_steps=9, and this one is of "
        "episodes=5, deterministic=true, max_steps=100000\n"
    ) in capsys.readouterr().out
    evaluate.main([f"run={folder}"])
    assert "is replaced" not in capsys.readouterr().out
    own = json.loads((folder / "run.json").read_text())
    own["config"]["evaluation"] |= {"episodes": 2, "deterministic": False, "max_steps": 2_000_000}
    (folder / "run.json").write_text(json.dumps(own))
    (folder / "evaluation.json").write_text(100_000 * "[")  # damaged
    evaluate.main([f"run={folder}"])
    found = json.loads((folder / "evaluation.json").read_text())["settings"]
    assert found == {"episodes": 2, "deterministic": False, "max_steps": 2_000_000}


@pytest.mark.parametrize(
    "evaluation",
    [None, {}, [], {"episodes": 0, "deterministic": 0, "max_steps": True}, {"episodes": -5, "max_steps": 1e9}],
)
def test_settings_that_a_run_does_not_have_are_the_defaults(evaluation):
    record = SimpleNamespace(data={"config": {"evaluation": evaluation}})
    assert evaluate._own_settings(record) == {"episodes": 20, "deterministic": True, "max_steps": 100_000}


def test_single_and_batched_observations(run):
    policy = rlexp.load_policy(run[0])
    assert policy(np.zeros(4, np.float32)).shape == ()
    assert policy(np.zeros((7, 4))).shape == (7,)


def test_a_run_is_found_by_the_hash_that_its_folder_ends_in(run, tmp_path):
    (tmp_path / "algo=ppo-0123abcd").symlink_to(run[0])
    assert rlexp.load_policy(tmp_path / "0123abcd").shape == rlexp.load_policy(run[0]).shape


def test_long_episodes_are_cut_and_it_is_said(tmp_path, caplog):
    trainer = make_trainer(tmp_path, "env=pendulum", "total_steps=512", "algo.rollout_steps=64", "env.num_envs=2")
    trainer.settings.evaluation.update(episodes=2, max_steps=50)
    with caplog.at_level("WARNING", logger="rlexp"):
        trainer.train(False)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert [e["length"] for e in content["agents"][0]["episodes"]] == [50, 50]
    assert not any(e["finished"] for e in content["agents"][0]["episodes"])
    assert "2 evaluation episodes were cut" in caplog.text


def test_what_is_not_there_is_named(run, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="there is no run in that folder"):
        rlexp.load_policy(tmp_path)
    with pytest.raises(CheckpointError, match=r"seed=7: the run in .* has seeds 0 to 2"):
        rlexp.load_policy(run[0], seed=7)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"it is a study; one of its runs is {tmp_path}/one"):
        rlexp.load_policy(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        rlexp.load_policy(tmp_path / "none")
    for words in (["episodes=3"], ["run="], [f"run={tmp_path}"], [f"run={run[0]}", "episods=3"]):
        with pytest.raises(SystemExit) as stop:
            evaluate.main(words)
        assert stop.value.code == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("id", ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"])
def test_a_loaded_policy_acts_where_actions_are_looked_up(tmp_path, id):
    settings = (f"env.id={id}", "total_steps=128", "env.num_envs=4", "algo.rollout_steps=16", "algo.minibatches=2")
    make_trainer(tmp_path, *settings).train(False)
    write_config(tmp_path, *settings)
    policy = rlexp.load_policy(tmp_path)
    env = gym.make(id)
    obs, _ = env.reset(seed=0)
    action = policy(obs)
    assert action in env.action_space
    env.step(action)
    assert isinstance(policy(np.array([obs, obs])), np.ndarray)


@pytest.mark.parametrize("word", ["episodes=0", "max_steps=0"])
def test_an_evaluation_of_nothing_is_refused(run, capsys, word):
    with pytest.raises(SystemExit):
        evaluate.main([f"run={run[0]}", word])
    assert capsys.readouterr().err == f"rlexp.evaluate: {word}: must be a whole number of at least 1\n"


def test_an_evaluation_without_end_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        evaluate.main([f"run={run[0]}", f"episodes={10**20}"])
    assert capsys.readouterr().err == f"rlexp.evaluate: episodes={10**20}: must be at most 1,000,000\n"


def test_an_evaluation_in_parts_is_the_one_at_once(run, monkeypatch):
    folder, trainer = run
    results = []
    for together in (None, 2):
        monkeypatch.setattr(type(trainer.environment), "evaluation_envs", together)
        evaluate.main([f"run={folder}", "episodes=5"])
        results.append(json.loads((folder / "evaluation.json").read_text()))
    assert results[0] == results[1]


def test_a_seed_that_diverged_has_no_policy_and_the_others_have_theirs(tmp_path, capsys):
    settings = (*SETTINGS, "num_seeds=3", "algo._target_=diverging.SpoilsPPO", "++algo.victim=0")
    trainer = make_trainer(tmp_path, *settings)
    trainer.train(False)
    write_config(tmp_path, *settings)
    line = r"seed=0: it diverged in update 3, at step \d+: loss is nan, in .*; use seed=1 or seed=2$"
    with pytest.raises(CheckpointError, match=line):
        rlexp.load_policy(tmp_path, seed=0)
    obs = np.ones((5, 4), np.float32)
    assert (rlexp.load_policy(tmp_path)(obs) == rlexp.load_policy(tmp_path, seed=1)(obs)).all()
    before = json.loads((tmp_path / "evaluation.json").read_text())["agents"]
    evaluate.main([f"run={tmp_path}", "episodes=5"])
    again = json.loads((tmp_path / "evaluation.json").read_text())["agents"]
    assert [agent["seed"] for agent in again] == [1, 2]
    assert again == before
    assert "seed 0: has diverged" in capsys.readouterr().out
    pytest.importorskip("imageio_ffmpeg")
    evaluate.main([f"run={tmp_path}", "episodes=1", "video=true", "seed=2"])  # of which alone something is told
    assert "seed 0" not in capsys.readouterr().out
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    diverged = state["trainer"]["diverged"]
    diverged |= {1: diverged[0], 2: diverged[0]}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="all of its seeds have diverged"):
        rlexp.load_policy(tmp_path)
