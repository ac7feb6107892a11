import json
import os
import re
import signal
import subprocess
import sys

import gymnasium
import pytest
import torch
from helpers import jobs, record, status
from omegaconf import OmegaConf

from rlexp.config.schema import CONF_DIR
from rlexp.training.trainer import Trainer

TINY = ["env=cartpole", "tuned=none", "total_steps=2048", "progress=none", "evaluation.episodes=2"]
TINY += ["algo.rollout_steps=64"]
TINIER = ["tuned=none", "total_steps=256", "progress=none", "evaluation.episodes=0", "algo.rollout_steps=16"]


def start(folder, *words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "rlexp.train", *words],
        cwd=folder,
        env=os.environ | {"HYDRA_FULL_ERROR": "0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_one_line(stderr):
    return re.fullmatch(r"rlexp: [^\n]+\n", stderr) is not None


@pytest.mark.parametrize(("word", "again"), [("resume=never", " without resume=never"), ("resume=auto", "")])
def test_who_stops_a_run_is_told_the_command_that_resumes_it(cli, monkeypatch, word, again):
    iterate = Trainer.iterate
    monkeypatch.setattr(Trainer, "iterate", lambda trainer: (iterate(trainer), signal.raise_signal(signal.SIGTERM)))
    assert f"SIGTERM: saved; the same command{again} resumes from there" in cli(*TINIER, "study=s", word).out
    assert "resuming" in cli(*TINIER, "study=s").out


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("algo.clp_coef=0.1", ["did you mean algo.clip_coef?"]),
        ("env=cartpol", ["did you mean cartpole?"]),
        ("num_seeds=0", ["at least 1"]),
        ("algo.minibatches=7", ["256 rows", "nearest that fits is 8"]),
        ("seed=abc", ["Integer"]),
        ("algo.epochs", ["key=value"]),
        ("algo.epochs=abc", ["whole number"]),
        ("env.id=CartPol-v1", ["did you mean CartPole-v1?"]),
        ("optimizer.lr=-1", ["below 0"]),
        ("gae.gamma=1.5", ["[0, 1]"]),
        ("+algo.foo=1", ["rlexp.algos.ppo.PPO"]),
        ("device=cudda", ["cuda"]),
        ("resume=mst", ["did you mean must?"]),
        ("total_steps=10", ["256 rows", "at least 256"]),
        ("+foo=1", ["there is no setting foo"]),
        ("+num_seed=3", ["did you mean num_seeds?"]),
        ("+evaluation.episods=3", ["did you mean evaluation.episodes?"]),
        ("evaluation.every=0", ["evaluation.every=0: must be at least 1, or null"]),
        ("evaluation.every=2.5", ["evaluation.every=2.5: must be a whole number"]),
        ("evaluation.curve_episodes=0", ["evaluation.curve_episodes=0: must be at least 1"]),
        ("seed=0,1", ["add -m", "[0,1]"]),
        ("algo.anchor_coef=1", ["algo=ppo has no such setting", "algo=apo"]),
        ("episodes=3", ["rlexp.evaluate", "evaluation.episodes"]),
        ("baseline=ppo", ["rlexp.compare"]),
        ("curiosity.coef=1", ["no setting curiosity.coef", "hydra.searchpath"]),
        ("optimizer.weight_decai=0.1", ["did you mean optimizer.weight_decay?"]),
        ("env.id=ALE/Pong-v5", ["ale_py:ALE/Pong-v5"]),
        ("env.id=CortPole-v1", ["Gymnasium knows no such environment"]),
        ("env.id=rlexp.envs.snapshots:Maze-v0", ["rlexp.envs has no module snapshots; did you mean snapshot?"]),
        ("env.kwargs.sutton_barto=1", ["takes no sutton_barto; did you mean sutton_barto_reward?"]),
        ("network.torso._target_=rlexp.networks.mlp.MLPP", ["rlexp.networks.mlp has no MLPP; did you mean MLP?"]),
        ("algo.ppo.clip=1", ["there is no setting algo.ppo.clip; python -m rlexp.train --help algo lists the keys"]),
        ("tuned=null", ["is not the name of a yaml; tuned=none leaves it out\n"]),
        ("experiment=null", ["is not the name of a yaml; leave it out; known: annotated_breakout"]),
        ("optimizer._target_=torch.optim.sgd", ["is a module; did you mean torch.optim.SGD?"]),
    ],
)
def test_a_bad_setting_is_told_in_one_line_and_leaves_nothing(cli, monkeypatch, word, told):
    for name in [name for name in gymnasium.registry if name.startswith("ALE/")]:  # as other tests import ale_py
        monkeypatch.delitem(gymnasium.registry, name)
    result = cli(word)
    assert result.code == 1
    assert is_one_line(result.err), result.err
    for part in [word.lstrip("+"), *told]:
        assert part in result.err
    assert jobs() == []


def test_a_network_that_cannot_read_the_observations_is_told_in_one_line_and_leaves_nothing(cli):
    result = cli("network=nature_cnn")
    assert result.code == 1
    assert is_one_line(result.err), result.err
    for part in ("network", "NatureCNN", "shape (4,)", "use network=mlp"):
        assert part in result.err
    assert jobs() == []


def test_a_bad_choice_is_answered_with_those_there_are(cli):
    known = cli("env=cartpol").err.rpartition("known: ")[2].strip().split(", ")
    assert sorted(known) == sorted(path.stem for path in (CONF_DIR / "env").glob("*.yaml"))


def test_a_real_process_tells_one_line_or_on_request_the_traceback(tmp_path):
    composed, checked = start(tmp_path, "algo.clp_coef=0.1"), start(tmp_path, "algo.minibatches=7")
    in_full = start(tmp_path, "algo.minibatches=7", HYDRA_FULL_ERROR="1")
    for process, told in ((composed, "algo.clip_coef"), (checked, "algo.minibatches=7")):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert out == ""
        assert is_one_line(err), err
        assert told in err
    err = in_full.communicate(timeout=60)[1]
    assert in_full.returncode == 1
    assert "Traceback" in err
    assert "ConfigError: algo.minibatches=7" in err
    assert jobs(tmp_path) == []


# A run and its folder -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where a process of its own has trained TINY."""
    folder = tmp_path_factory.mktemp("finished")
    process = start(folder, *TINY)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 0, err
    return folder


def test_a_run_leaves_what_the_design_says(finished):
    (job,) = jobs(finished)
    assert job.parent.name == "ppo_cartpole"
    files = {str(path.relative_to(job)) for path in job.rglob("*") if path.is_file()}
    events = {name for name in files if re.fullmatch(r"(seed_0/)?events\.out\.tfevents\.[^/]+", name)}
    assert {name.startswith("seed_0/") for name in events} == {True, False}
    assert {
        name for name in files - events if not name.startswith("code.")
    } == {  # which is there while something is not committed
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "run.json",
        "train.log",
        "metrics.csv",
        "checkpoint.pt",
        "evaluation.json",
    }

    assert OmegaConf.to_container(OmegaConf.load(job / ".hydra/overrides.yaml")) == TINY
    config = OmegaConf.load(job / ".hydra/config.yaml")
    assert (config.total_steps, config.algo.rollout_steps, config.study) == (2048, 64, "ppo_cartpole")
    record = json.loads((job / "run.json").read_text())
    assert record["status"] == "done"
    assert record["seeds"] == [0]
    assert job.name.endswith(f"-{record['config_hash']}")
    header, *rows = (job / "metrics.csv").read_text().splitlines()
    assert header.startswith("seed,step,wall_time,")
    # of the 2048 rows those that follow an episode's end are dummies, and no steps
    seed, step, _ = rows[-1].split(",", 2)
    assert seed == "0"
    assert 1800 < int(step) < 2048
    assert "done" in (job / "train.log").read_text()
    (agent,) = json.loads((job / "evaluation.json").read_text())["agents"]
    assert (agent["seed"], len(agent["episodes"])) == (0, 2)
    assert torch.load(job / "checkpoint.pt", weights_only=True)["seeds"] == [0]


def test_the_same_command_again_finds_the_run_done(finished, cli, monkeypatch):
    monkeypatch.chdir(finished)
    (job,) = jobs()
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file()}
    result = cli(*TINY)
    assert result.code == 0
    assert f"already done: {job}" in result.out
    assert result.err == ""
    assert jobs() == [job]
    assert {path: path.read_bytes() for path in job.rglob("*") if path.is_file()} == before


def test_a_run_that_is_done_says_that_it_was_not_evaluated_during_training(cli):
    line, curve = "evaluation.every: it was trained without", ("evaluation.every=128", "evaluation.curve_episodes=1")
    assert line not in cli(*TINIER).out
    assert line in cli(*TINIER, *curve).out
    assert line not in cli(*TINIER, *curve, "seed=1").out
    assert line not in cli(*TINIER, *curve, "seed=1").out
    assert len(jobs()) == 2


def test_the_order_of_the_overrides_is_no_part_of_the_name(cli):
    assert "already done" not in cli(*TINIER, "gae.lam=0.9").out
    result = cli("gae.lam=0.9", *reversed(TINIER))
    assert result.code == 0
    assert "already done" in result.out
    assert len(jobs()) == 1


def test_an_id_alone_takes_nothing_that_is_known_of_the_default_environment(cli):
    tiny = [word for word in TINIER if word != "tuned=none"]
    assert cli(*tiny, "env.id=Acrobot-v1").code == 0
    assert cli(*tiny, "env.id=probes:Target-v0").code == 0
    assert cli(*tiny, "env=acrobot", "env.id=Acrobot-v1").code == 0
    alone = record(jobs()[0])
    assert [job.parent.name for job in jobs()] == ["ppo_Acrobot-v1", "ppo_Target-v0", "ppo_acrobot"]
    assert alone["config"]["gae"]["gamma"] == 0.99


def test_a_setting_that_is_taken_needs_no_plus(cli):
    assert cli(*TINIER, "optimizer.weight_decay=0.1", "env.kwargs.max_episode_steps=20", "algo.target_kl=1").code == 0
    (first,) = jobs()
    assert "optimizer.weight_decay=0.1" in first.name.split(",")
    assert record(first)["config"]["optimizer"]["weight_decay"] == 0.1
    assert record(first)["config"]["env"]["kwargs"] == {"max_episode_steps": 20}
    words = ("optimizer.weight_decay=0.1,0.2", "env.kwargs.max_episode_steps=20", "algo.target_kl=1")
    result = cli("-m", *TINIER, *words)
    assert "2 jobs: 1 done, 1 to run" in result.out
    assert cli(*TINIER, "optimizer.wieght_decay=0.1").err.endswith("did you mean optimizer.weight_decay?\n")


def test_a_config_is_one_run_however_it_is_typed(cli):
    base = [word for word in TINIER if not word.startswith("total_steps")]
    assert cli(*base, "total_steps=1_024", "gae.lam=.9").code == 0
    (first,) = jobs()
    for words in (("total_steps=1024", "gae.lam=0.9"), ("total_steps=1.024e3", "gae.lam=9e-1", "algo.vf_coef=0.5")):
        assert f"already done: {first}" in cli(*base, *words).out
    assert "1 jobs: 1 done" in cli("-m", *base, "total_steps=1024", "gae.lam=0.9,.9").out
    assert cli(*base, "total_steps=1024", "gae.lam=9e-1", "resume=never").code == 0
    assert jobs() == [first, first.with_name(first.name + "_2")]


def test_resume_never_trains_anew_beside_the_first(cli):
    assert cli(*TINIER).code == 0
    (first,) = jobs()
    before = (first / "checkpoint.pt").read_bytes()
    assert cli(*TINIER, "resume=never").code == 0
    assert jobs() == [first, first.with_name(first.name + "_2")]
    assert [status(job) for job in jobs()] == ["done", "done"]
    assert (first / "checkpoint.pt").read_bytes() == before


def test_resume_must_refuses_where_there_is_nothing(cli):
    result = cli(*TINIER, "resume=must")
    assert result.code == 1
    assert is_one_line(result.err), result.err
    assert "resume=must" in result.err
    assert jobs() == []


def test_jobs_of_a_sweep_and_single_runs_share_their_folders(cli):
    assert cli("-m", *TINIER, "algo=ppo,apo", "study=s").code == 0
    swept = jobs()
    assert len(swept) == 2
    assert [status(job) for job in swept] == ["done", "done"]
    for algo in ("ppo", "apo"):
        result = cli(*TINIER, f"algo={algo}", "study=s")
        assert result.code == 0
        assert "already done" in result.out
    assert jobs() == swept


def test_a_sweep_over_grids_is_their_union(cli):
    grids = "hydra.sweeper.grids=[['algo=ppo'],['algo=apo','algo.anchor_coef=1,5']]"
    assert cli("-m", *TINIER, "study=g", grids).code == 0
    assert [status(job) for job in jobs()] == ["done"] * 3
