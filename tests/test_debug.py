"""debug=true: prints and breakpoints fire in the update itself, crashes show where, and nothing is left."""

import io
import os
import pdb
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import jobs, record

import rlexp
from rlexp.compiling import libraries
from rlexp.compiling.compile import Notes, compile_or_warn

# What a user might be at work on: prints wherever their code is called, and does what is asked for in one place.
THEIRS = """
import os
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from rlexp.algos.ppo import PPO


def here(place, value=None):
    print("IN", place, type(value).__name__)
    where, _, what = os.environ.get("DO", "").partition(" ")
    if where == place:
        if what == "break":
            breakpoint()
        elif what == "crash":
            raise KeyError("mine, in " + place)
        elif what == "exit":
            raise SystemExit(3)


@dataclass(kw_only=True)
class Mine(PPO):
    def observe(self, rollout):
        here("observe")
        return super().observe(rollout)

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        here("loss", loss)
        if os.environ.get("DO") == "loss nan":
            loss = loss + (loss.detach() * policy(batch)[1].mean() * 0).sqrt()
        return loss, metrics


class Torso(torch.nn.Module):
    def __init__(self, space):
        super().__init__()
        self.layer = torch.nn.Linear(space.shape[0], 8)
        self.out_features = 8

    def forward(self, x):
        here("network", x)
        return self.layer(x).tanh()


class World(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        here("environment")
        return np.full(2, 0.5, np.float32), 1.0, False, False, {}


if "Theirs-v0" not in gym.registry:
    gym.register("Theirs-v0", World, max_episode_steps=5)
"""
WORDS = ("env.id=theirs:Theirs-v0", "algo._target_=theirs.Mine", "network.torso._target_=theirs.Torso")
WORDS += ("~network.torso.hidden", "~network.torso.activation", "env.num_envs=2", "algo.rollout_steps=8")
WORDS += ("algo.epochs=1", "algo.minibatches=2", "total_steps=160", "torch_threads=1", "progress=none", "study=s")
WORDS += ("evaluation.episodes=1", "evaluation.max_steps=5", "compile=false")


@pytest.fixture
def debug(cli, tmp_path, monkeypatch):
    """Runs the words with what is to be done where, and what a person types: debug(do, *words, typed="")."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "breakpointhook", lambda: pdb.Pdb().set_trace(sys._getframe(1)))  # pytest has its own
    monkeypatch.delitem(sys.modules, "theirs", raising=False)

    def call(do="", *words, typed=""):
        monkeypatch.setenv("DO", do)
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        return cli(*words[:1], *WORDS, *words[1:])

    return call


def test_everything_fires_in_the_update_itself_and_no_tensor_is_a_batched_one(debug, tmp_path):
    result = debug("", "debug=true", "num_seeds=2", "env.vectorization=async")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines.count("IN loss Tensor") == 2 * 2  # agents, minibatches
    assert lines.count("IN observe NoneType") == 1
    assert lines.count("IN environment NoneType") == 2 * 2 * 7  # agents, environments, steps less one reset
    # actor and critic act in 8 steps and what comes after, and learn from two minibatches; for each of two agents
    assert lines.count("IN network Tensor") == 2 * 2 * (8 + 1 + 2)
    assert not [line for line in lines if line.startswith("IN") and "Batched" in line]
    assert [line.split(",")[0] for line in lines if "policy_loss" in line] == ["  seed 0", "  seed 1"]
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.few(3)
@pytest.mark.parametrize("place", ["loss", "observe", "network", "environment"])
@pytest.mark.parametrize("what", ["crash", "exit"])
def test_a_crash_shows_the_traceback_of_the_code_that_crashed(debug, tmp_path, place, what):
    result = debug(f"{place} {what}", "debug=true", "optimizer.amsgrad=false")  # gets its + by itself
    assert result.code == 1
    assert "theirs.py" in result.err
    assert "During handling" not in result.err
    *_, last = result.err.strip().splitlines()
    assert last == {"crash": f"KeyError: 'mine, in {place}'", "exit": "SystemExit: 3"}[what]
    assert not list(tmp_path.glob("outputs/*"))


def test_a_gradient_that_is_not_a_number_is_traced_to_its_line(debug):
    with pytest.warns(UserWarning, match=r"theirs\.py") as said:
        result = debug("loss nan", "debug=true")
    assert any("* 0).sqrt()" in str(warning.message) for warning in said)
    assert result.code == 1
    assert "returned nan values" in result.err


@pytest.mark.parametrize("place", ["loss", "observe", "network", "environment"])
def test_breakpoints_stop_there_and_quitting_is_one_quiet_line(debug, place):
    result = debug(f"{place} break", "debug=true", typed="up\np 6 * 7\n" + "c\n" * (place != "observe") + "q\n")
    assert result.code == 0
    assert result.err == ""
    assert "(Pdb) 42" in result.out
    assert result.out.count(f"IN {place}") == (1 if place == "observe" else 2)  # c went on to the next
    assert result.out.splitlines()[-1] == "(Pdb) debug: ended by the debugger"


def test_a_setting_that_cannot_be_is_still_one_line(debug):
    result = debug("", "debug=true", "gae.gamma=2")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert "gae.gamma=2" in result.err


@pytest.mark.parametrize("word", ["primary=evaluation_sampled", "evaluation.weights=best"])
def test_what_needs_evaluations_in_a_run_needs_none_here(debug, word):
    assert debug("", "debug=true", word, "evaluation.every=32").code == 0
    assert f"{word}: " in debug("", "debug=true", word).err


def test_a_sweep_is_refused_and_a_run_that_is_there_is_left_alone(debug, tmp_path):
    assert debug().code == 0
    (run,) = jobs(tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert debug("", "debug=true").code == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert jobs(tmp_path) == [run]
    result = debug("", "-m", "debug=true", "seed=0,1")
    assert result.code == 1
    assert result.err == "rlexp: debug=true: debugs one run at a terminal; leave out -m, and choose one job\n"
    assert jobs(tmp_path) == [run]


def test_a_debugger_that_is_quit_in_a_plain_run_ends_it_in_one_line(debug, tmp_path):
    result = debug("loss break", typed="q\n")  # before training, where a loss is tried
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines()[-1].startswith("(Pdb) the debugger was quit, and with it the run; debug=true")
    assert jobs(tmp_path) == []
    result = debug("observe break", typed="c\nc\nc\nq\n")  # observed three times before
    assert (result.code, result.err) == (1, "")
    (run,) = jobs(tmp_path)
    assert record(run)["status"] == "interrupted"
    assert debug().code == 0


def test_a_debugger_works_on_a_terminal(tmp_path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    path = os.pathsep.join([str(Path(rlexp.__file__).parents[1]), str(tmp_path)])
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rlexp.train", *WORDS, "debug=true"],
        cwd=tmp_path,
        env=os.environ | {"DO": "loss break", "PYTHONPATH": path, "TERM": "dumb"},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)
    said = b""
    left = [b"up\n", b"p batch.weights.shape\n", b"q\n"]
    try:
        while True:
            said += os.read(terminal, 1024)
            if left and said.endswith(b"(Pdb) "):
                os.write(terminal, left.pop(0))
                said += b"|"
    except OSError:  # it has ended
        pass
    finally:
        os.close(terminal)
    assert process.wait(30) == 0
    text = said.decode()
    assert "torch.Size([8])" in text
    assert "Traceback" not in text
    assert text.splitlines()[-1] == "debug: ended by the debugger"


def test_prints_and_breakpoints_of_what_is_compiled_are_told_once(caplog, monkeypatch, capsys):
    caplog.set_level("INFO", "rlexp")
    monkeypatch.setattr(libraries, "build", lambda *_: (_ for _ in ()).throw(RuntimeError("no g++")))

    def quiet(x):
        return (x + 1,)

    def loud(x):
        print("in", type(x).__name__)
        return (x + 1,)

    def stops(x):
        breakpoint()
        return (x + 1,)

    def told(*functions, notes=None):
        caplog.clear()
        notes = notes or Notes()
        for function in functions:
            compile_or_warn({"this": (function, torch.ones(3))}, notes)
        return [line for line in caplog.messages if "debug=true" in line]

    monkeypatch.setattr(sys, "breakpointhook", lambda *_: pytest.fail("stopped at placeholders"))
    assert told(quiet) == []
    assert len(told(loud, loud)) == 1
    assert "in FakeTensor" in capsys.readouterr().out  # it is printed all the same
    assert len(told(stops)) == 1
