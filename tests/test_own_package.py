"""What a researcher does with code of their own: from a wheel, in an empty folder, in processes of their own.

Commands that could be typed one after the other without an edit between them share one, which imports torch once.
RLEXP_WHEEL=path/to.whl tries another version's wheel.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUPPORT = ROOT / "tests" / "support"
CALM = '''from dataclasses import dataclass

from rlexp.algos.ppo import PPO
from rlexp.algos.losses import weighted_mean
from rlexp.algos.schedules import Scheduled


@dataclass(kw_only=True)
class Calm(PPO):
    """L = L_PPO + c E[V²] + s E[U V]."""

    calm_coef: Scheduled = 0.1
    noise_coef: float = 0.0

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        values = policy(batch)[1]
        calm = weighted_mean(values.square(), batch.weights)
        noise = weighted_mean(policy.rand_like(values) * values, batch.weights)
        return loss + self.calm_coef * calm + self.noise_coef * noise, metrics | {"calm": calm}
'''
NETS = """import torch


class Torso(torch.nn.Module):
    def __init__(self, space, width=32):
        super().__init__()
        self.out_features = width
        self.layer = torch.nn.Linear(space.shape[0], width)

    def forward(self, x):
        return self.layer(x).tanh()
"""
MAZE = """import gymnasium
import numpy as np


class Maze(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length=10):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.length
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action):
        self.left -= 1
        return self.observe(), float(action), self.left == 0, False, {}


gymnasium.register("Maze-v0", Maze)
"""
YAML = """defaults: [ppo, _self_]
_target_: their_pkg.calm.Calm
calm_coef: 0.1        # * weight of E[V²]
"""
DRIVER = """import contextlib, importlib, io, json, sys, traceback
from hydra.core.global_hydra import GlobalHydra

results = []
for command, *words in json.loads(sys.argv[1]):
    GlobalHydra.instance().clear()
    sys.argv[1:] = words
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            room = command in ("compare", "study")
            importlib.import_module(f"rlexp.{command}.__main__" if room else f"rlexp.{command}").main()
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            code = 1
            traceback.print_exc()
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""
TINY = ["tuned=none", "total_steps=512", "progress=none", "evaluation.episodes=1", "algo.rollout_steps=32"]
TINY += ["algo.epochs=2", "env.num_envs=4", "algo.minibatches=2"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Where a wheel of this project is unpacked, as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    path = os.environ.get("RLEXP_WHEEL")
    if path is None:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
        subprocess.run(build, check=True, capture_output=True, timeout=120)
        (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


class Folder:
    """An empty folder with a package of one's own, and commands typed there."""

    def __init__(self, path, wheel):
        self.path, self.wheel = path, wheel
        package = path / "their_pkg"
        package.mkdir(parents=True)
        texts = {"__init__": "", "calm": CALM, "nets": NETS, "maze": MAZE}
        for name, text in texts.items():
            (package / f"{name}.py").write_text(text)
        shutil.copy(SUPPORT / "mistakes.py", package)
        self.write("conf/algo/calm.yaml", YAML)

    def write(self, name, text):
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def edit(self, name, old, new):
        text = (self.path / name).read_text()
        assert text.count(old) == 1
        (self.path / name).write_text(text.replace(old, new))

    def __call__(self, command, *words, **options):
        return subprocess.run(
            [sys.executable, "-m", f"rlexp.{command}", *words],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": str(self.wheel)},
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    def many(self, *commands):
        """What commands end with, print and tell, one after the other in one process, which imports torch once."""
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(commands)],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": str(self.wheel)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return [tuple(result) for result in json.loads(done.stdout)]

    def train(self, *commands):
        """What trainings print that all come to their end."""
        done = self.many(*(("train", *TINY, *words) for words in commands))
        assert [code for code, _, _ in done] == [0] * len(commands), done
        return [out for _, out, _ in done]

    def records(self, study="*"):
        files = sorted(self.path.glob(f"outputs/{study}/*/run.json"))
        return [json.loads(file.read_text()) for file in files]

    def last(self, study, column, seed=0):
        """Of the metrics of a study's only run."""
        (file,) = self.path.glob(f"outputs/{study}/*/metrics.csv")
        with open(file, newline="") as rows:
            return [float(row[column]) for row in csv.DictReader(rows) if int(row["seed"]) == seed][-1]


@pytest.fixture
def folder(tmp_path, wheel):
    return Folder(tmp_path, wheel)


@pytest.mark.slow
def test_a_single_character_is_told_by_the_next_sweep_and_refused_by_compare(folder):
    words = ["-m", *TINY, "algo=calm", "study=s", "algo.calm_coef=0.1,0.2"]
    done = folder("train", *words)
    assert done.returncode == 0, done.stderr
    assert all(record["code"] and record["commit"] is None for record in folder.records())
    folder.edit("their_pkg/calm.py", "loss + self.calm_coef", "loss - self.calm_coef")
    told, kept, refused, pooled, rerun = folder.many(
        ("train", *words[:-1], "algo.calm_coef=0.1,0.2,0.3"),
        ("train", *words, "seed=0,1", "stale=keep"),
        ("compare", "outputs/s", "figures=false"),
        ("compare", "outputs/s", "figures=false", "allow=code"),
        ("train", *words, "stale=rerun"),
    )
    assert [code for code, _, _ in (told, kept, refused, pooled, rerun)] == [1, 0, 1, 0, 0]
    assert told[2].count("\n") == refused[2].count("\n") == 1
    assert "their_pkg/calm.py changed since 2 of these jobs ran (of 3): stale=keep" in told[2]
    assert "its seeds ran different code (their_pkg/calm.py is " in refused[2]
    assert len(folder.records("s")) == 6


@pytest.mark.slow
def test_each_mistake_is_one_line_with_its_place_for_one_seed_and_three(folder):
    places = {}
    lines = (SUPPORT / "mistakes.py").read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if match := re.match(r"class (\w+)", line):
            name = match[1]
        if "# here" in line:
            places[name] = number
    refused = ["VectorLoss", "VectorMetric", "NumberMetric", "NoMetrics", "Nothing", "Counts", "Random", "NoGradient"]
    alone = ["Branches", "Items", "Floats", "Numpy"]
    cases = [(name, seeds) for name in refused + alone for seeds in (1, 3)]
    short = ("train", *TINY, "total_steps=128")
    commands = [(*short, f"algo._target_=their_pkg.mistakes.{n}", f"num_seeds={k}") for n, k in cases]
    for (name, seeds), (code, out, err) in zip(cases, folder.many(*commands), strict=True):
        assert code == (name in refused)
        if name in refused:
            assert err.startswith(f"rlexp: their_pkg/mistakes.py:{places[name]}: {name}.loss: ")
            assert err.count("\n") == 1
        else:
            told = f"their_pkg/mistakes.py:{places[name]}: {name}.loss reads single values there"
            assert (told in out) == (seeds == 3)
    trained = [record["config"]["algo"]["_target_"].rpartition(".")[2] for record in folder.records()]
    assert sorted(trained) == sorted(alone * 2)


@pytest.mark.slow
def test_random_numbers_of_a_loss_are_the_agents_own(folder):
    noisy = ["algo=calm", "algo.noise_coef=1.0"]
    folder.train(
        [*noisy, "seed=1", "study=alone"],
        [*noisy, "num_seeds=2", "study=together"],
        ["algo=calm", "seed=1", "study=quiet"],
        [*noisy, "seed=1", "study=parts", "stop_at=256"],
    )
    folder.train([*noisy, "seed=1", "study=parts"])  # in another process
    alone = folder.last("alone", "loss", 1)
    assert alone == pytest.approx(folder.last("together", "loss", 1), rel=1e-4)
    assert alone == folder.last("parts", "loss", 1)
    assert alone != pytest.approx(folder.last("quiet", "loss", 1), rel=1e-3)


def test_classes_of_ones_own_take_the_place_of_others(folder):
    folder.write("conf/network/theirs.yaml", "defaults: [mlp, _self_]\ntorso:\n  _target_: their_pkg.nets.Torso\n")
    folder.train(
        ["network=theirs", "optimizer._target_=torch.optim.SGD", "optimizer.momentum=0.9"],
        ["network.torso._target_=their_pkg.nets.Torso", "network.torso.width=8"],
        ["env.id=their_pkg.maze:Maze-v0", "env.kwargs.length=5"],
    )
    made = [record["config"] for record in folder.records()]
    torsos = [config["network"]["torso"] for config in made if config["env"]["id"] == "CartPole-v1"]
    assert sorted(torso.get("width", 0) for torso in torsos) == [0, 8]
    assert all("hidden" not in torso for torso in torsos)
    assert [c["optimizer"] for c in made if "SGD" in c["optimizer"]["_target_"]] == [
        {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 3e-4, "momentum": 0.9}
    ]


def test_what_is_misspelt_or_meant_for_others_is_one_line(folder):
    told = {
        ("algo=calm", "algo.calm_cof=1"): "did you mean algo.calm_coef?",
        ("algo.calm_coef=1",): "algo=ppo has no such setting; algo=calm has it",
        ("algo=clam",): "did you mean calm?",
        ("seed=0,1",): "add -m",
        ("episodes=3",): "python -m rlexp.evaluate",
        ("curiosity=rnd",): "hydra.searchpath",
        ("hydra.searchpath=[pkg://nowhere.conf]",): "there is no such package",
        ("env.id=their_pkg.maze:Mase-v0",): "did you mean Maze-v0?",
        ("env.id=MiniGrid-Empty-5x5-v0",): "is registered by minigrid; use env.id=minigrid:MiniGrid-Empty-5x5-v0",
    }
    shown = [("train", "--help", "algo=calm"), ("train", "--help", "algo.calm_coef", "algo=calm")]
    *said, (_, whole, _), (_, one, _) = folder.many(*(("train", *TINY, *words) for words in told), *shown)
    for (code, _, err), part in zip(said, told.values(), strict=True):
        assert code == 1
        assert part in err
        assert err.count("\n") == 1
    assert folder.records() == []
    assert re.search(r"algo\.calm_coef=0\.1 +# \* weight of E\[V²\]", whole)
    assert "weight of E[V²]" in one


def test_a_run_is_one_however_it_is_typed(folder):
    _, again, _ = folder.train(
        ["algo=calm", "total_steps=512"],
        ["algo=calm", "total_steps=5.12e2"],
        ["-m", "algo=calm", "total_steps=5_12"],
    )
    assert "already done" in again
    assert len(folder.records()) == 1


@pytest.mark.slow
def test_coefficients_share_a_batch_once_they_are_annotated(folder):
    words = ["-m", "hydra/launcher=batched", "algo=calm"]
    annotated, plain = folder.train([*words, "algo.calm_coef=0.1,0.2"], [*words, "algo.noise_coef=0.1,0.2"])
    assert "2 jobs (2 agents) side by side: algo.calm_coef differ" in annotated
    assert (
        "algo.noise_coef is a plain number of their_pkg.calm.Calm: annotate as rlexp.algos.schedules.Scheduled" in plain
    )


@pytest.mark.slow
def test_from_one_run_to_the_next(folder):
    more = ["algo=calm", "total_steps=1024"]
    folder.train(["algo=calm", "study=first"], [*more, "study=whole"])
    (first,) = folder.path.glob("outputs/first/*")
    folder.train(
        ["algo=calm", "study=second", "optimizer.lr=1e-3", f"init_from=outputs/first/{first.name[-8:]}"],
        [*more, "study=first", "resume=extend"],
    )
    (second,) = folder.records("second")
    assert str(second["parent"]["folder"]).endswith(first.name)
    extended, whole = (
        next(path.parent for path in folder.path.glob(f"outputs/{study}/*total_steps=1024*/metrics.csv"))
        for study in ("first", "whole")
    )
    rows = []
    for job in (extended, whole):
        with open(job / "metrics.csv", newline="") as file:
            rows.append(
                [
                    {k: v for k, v in r.items() if k not in ("wall_time", "steps_per_second")}
                    for r in csv.DictReader(file)
                ]
            )
    assert rows[0] == rows[1]
    assert (first / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_why_it_is_slow_and_where_it_breaks(folder):
    values, broken = "        values =", "        if self.noise_coef > 1.0:\n            values_of_nobody\n"
    folder.edit("their_pkg/calm.py", values, broken + values)
    words = ("train", *TINY, "algo=calm", "num_seeds=2")
    raises = (*words, "algo.noise_coef=2", "study=d", "debug=true")
    (code, said, told), (failed, _, trace) = folder.many((*words, "profile=true", "total_steps=2560"), raises)
    assert code == 0, told
    (record,) = folder.records()
    assert record["how"]["compiled"]["value"] is False
    assert "calls, worthwhile from 10,000" in record["how"]["compiled"]["why"]
    assert record["how"]["batching"]["value"] == "stacked"
    assert {"acting and environment", "update", "rest"} <= set(record["time"]["seconds"])
    assert "eager (" in said
    (file,) = folder.path.glob("outputs/*/*/profile/trace.json")
    assert json.loads(file.read_text())["traceEvents"]
    assert (file.parent / "table.txt").read_text()

    assert failed == 1
    assert "NameError: name 'values_of_nobody' is not defined" in trace
    assert re.search(r'File ".*their_pkg/calm\.py", line \d+, in loss', trace)
    folder.edit("their_pkg/calm.py", "values_of_nobody", "print('here', len(batch.obs)); breakpoint()")
    done = folder(*raises, input="p type(batch).__name__\nq\n")
    assert "here 64" in done.stdout
    assert "'Batch'" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(folder.path.glob("outputs/d/*"))
