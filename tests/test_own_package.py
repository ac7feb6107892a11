"""What a researcher does with code of their own: from a wheel, in an empty folder, in processes of their own.

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
CALM = '''from dataclasses import dataclass

from rlexp.algos.ppo import PPO
from rlexp.losses import weighted_mean
from rlexp.schedules import Scheduled


@dataclass(kw_only=True)
class Calm(PPO):
    """L = L_PPO + c E[V²] + s E[U V]."""

    calm_coef: Scheduled = 0.1
    noise_coef: float = 0.0

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        values = policy(batch.obs)[1]
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
DRIVER = """import contextlib, io, json, sys
from hydra.core.global_hydra import GlobalHydra
from rlexp import train

results = []
for words in json.loads(sys.argv[1]):
    GlobalHydra.instance().clear()
    sys.argv[1:] = words
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            train.main()
        except SystemExit as end:
            code = end.code
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
        shutil.copy(ROOT / "tests" / "mistakes.py", package)
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
        """What trainings print and tell, one after the other in one process, which imports torch once."""
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps([[*TINY, *words] for words in commands])],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": str(self.wheel)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return [tuple(result) for result in json.loads(done.stdout)]

    def train(self, *words):
        done = self("train", *TINY, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, command, *words):
        """What is told, in one line."""
        done = self(command, *words)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def records(self, study="*"):
        files = sorted(self.path.glob(f"outputs/{study}/*/run.json"))
        return [json.loads(file.read_text()) for file in files]

    def last(self, column, seed=0):
        """Of the only run's metrics."""
        (file,) = self.path.glob("outputs/*/*/metrics.csv")
        with open(file, newline="") as rows:
            return [float(row[column]) for row in csv.DictReader(rows) if int(row["seed"]) == seed][-1]


@pytest.fixture
def folder(tmp_path, wheel):
    return Folder(tmp_path, wheel)


@pytest.fixture
def another(tmp_path, wheel):
    return lambda name: Folder(tmp_path / name, wheel)


def test_a_single_character_is_told_by_the_next_sweep_and_refused_by_compare(folder):
    words = [*TINY, "-m", "algo=calm", "study=s"]
    folder.train(*words[len(TINY) :], "algo.calm_coef=0.1,0.2")
    assert all(record["code"] and record["commit"] is None for record in folder.records())
    folder.edit("their_pkg/calm.py", "loss + self.calm_coef", "loss - self.calm_coef")
    told = folder.refused("train", *words, "algo.calm_coef=0.1,0.2,0.3")
    assert "their_pkg/calm.py changed since 2 of these jobs were run (of 3): stale=keep" in told
    folder.train(*words[len(TINY) :], "algo.calm_coef=0.1,0.2", "seed=0,1", "stale=keep")
    told = folder.refused("compare", "outputs/s", "figures=false")
    assert "its seeds are of different code (their_pkg/calm.py is " in told
    assert folder("compare", "outputs/s", "figures=false", "allow=code").returncode == 0
    folder.train(*words[len(TINY) :], "algo.calm_coef=0.1,0.2", "stale=rerun")
    assert len(folder.records("s")) == 6


def test_each_mistake_is_one_line_with_its_place_for_one_seed_and_three(folder):
    places = {}
    lines = (ROOT / "tests" / "mistakes.py").read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if match := re.match(r"class (\w+)", line):
            name = match[1]
        if "# here" in line:
            places[name] = number
    refused = ["VectorLoss", "VectorMetric", "NumberMetric", "NoMetrics", "Nothing", "Counts", "Random", "NoGradient"]
    alone = ["Branches", "Items", "Floats", "Numpy"]

    def each(names):
        commands = [(f"algo._target_=their_pkg.mistakes.{n}", f"num_seeds={k}") for n in names for k in (1, 3)]
        return zip([n for n in names for _ in (1, 3)], [1, 3] * len(names), folder.many(*commands), strict=True)

    for name, _, (code, _, err) in each(refused):
        assert code == 1
        assert err.startswith(f"rlexp: their_pkg/mistakes.py:{places[name]}: {name}.loss: ")
        assert err.count("\n") == 1
    assert folder.records() == []
    for name, seeds, (code, out, _) in each(alone):
        assert code == 0
        told = f"their_pkg/mistakes.py:{places[name]}: {name}.loss looks at single values there"
        assert (told in out) == (seeds == 3)


def test_random_numbers_of_a_loss_are_the_agents_own(another):
    noisy = ["algo=calm", "algo.noise_coef=1.0"]
    alone, together, parts, quiet = (another(name) for name in ("alone", "together", "parts", "quiet"))
    alone.train(*noisy, "seed=1")
    together.train(*noisy, "num_seeds=2")
    parts.train(*noisy, "seed=1", "stop_at=256")
    parts.train(*noisy, "seed=1")
    quiet.train("algo=calm", "seed=1")
    assert alone.last("loss", 1) == pytest.approx(together.last("loss", 1), rel=1e-4)
    assert alone.last("loss", 1) == parts.last("loss", 1)
    assert alone.last("loss", 1) != pytest.approx(quiet.last("loss", 1), rel=1e-3)


def test_classes_of_ones_own_take_the_place_of_others(folder):
    folder.write("conf/network/theirs.yaml", "defaults: [mlp, _self_]\ntorso:\n  _target_: their_pkg.nets.Torso\n")
    folder.train("network=theirs", "optimizer._target_=torch.optim.SGD", "optimizer.momentum=0.9")
    folder.train("network.torso._target_=their_pkg.nets.Torso", "network.torso.width=8")
    folder.train("env.id=their_pkg.maze:Maze-v0", "env.kwargs.length=5")
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
        ("algo.calm_coef=1",): "algo=ppo has no such setting; of algo=calm it is one",
        ("algo=clam",): "did you mean calm?",
        ("seed=0,1",): "add -m",
        ("episodes=3",): "python -m rlexp.evaluate",
        ("bonus=rnd",): "hydra.searchpath",
        ("hydra.searchpath=[pkg://nowhere.conf]",): "there is no such package",
        ("env.id=their_pkg.maze:Mase-v0",): "did you mean Maze-v0?",
        ("env.id=MiniGrid-Empty-5x5-v0",): "pip install minigrid",
    }
    for (code, _, err), part in zip(folder.many(*told), told.values(), strict=True):
        assert code == 1
        assert part in err
        assert err.count("\n") == 1
    assert folder.records() == []
    shown = folder("train", "--help", "algo=calm").stdout
    assert re.search(r"algo\.calm_coef=0\.1 +# \* weight of E\[V²\]", shown)
    assert "weight of E[V²]" in folder("train", "--help", "algo.calm_coef", "algo=calm").stdout


def test_a_run_is_one_however_it_is_typed(folder):
    folder.train("algo=calm", "total_steps=512")
    assert "already done" in folder.train("algo=calm", "total_steps=5.12e2")
    folder.train("-m", "algo=calm", "total_steps=5_12")
    assert len(folder.records()) == 1


def test_coefficients_share_a_batch_once_they_are_annotated(folder):
    words = ["-m", "hydra/launcher=batched", "algo=calm"]
    said = folder.train(*words, "algo.calm_coef=0.1,0.2")
    assert "2 jobs (2 agents) side by side: algo.calm_coef differ" in said
    said = folder.train(*words, "algo.noise_coef=0.1,0.2")
    assert "algo.noise_coef is a plain number of their_pkg.calm.Calm: annotated as rlexp.schedules.Scheduled" in said


def test_from_one_run_to_the_next(folder):
    folder.train("algo=calm", "study=first")
    (first,) = folder.path.glob("outputs/first/*")
    folder.train("algo=calm", "study=second", "optimizer.lr=1e-3", f"init_from=outputs/first/{first.name[-8:]}")
    (second,) = folder.records("second")
    assert str(second["parent"]["folder"]).endswith(first.name)
    more = ["algo=calm", "total_steps=1024"]
    folder.train(*more, "study=first", "resume=extend")
    folder.train(*more, "study=whole")
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


def test_why_it_is_slow_and_where_it_breaks(folder):
    said = folder.train("algo=calm", "num_seeds=2", "profile=true", "total_steps=2560")
    (record,) = folder.records()
    assert record["how"]["compiled"]["value"] is False
    assert "calls, from 10,000 on it pays" in record["how"]["compiled"]["why"]
    assert record["how"]["batching"]["value"] == "stacked"
    assert {"acting and environment", "update", "rest"} <= set(record["time"]["seconds"])
    assert "eager (" in said
    (trace,) = folder.path.glob("outputs/*/*/profile/trace.json")
    assert json.loads(trace.read_text())["traceEvents"]
    assert (trace.parent / "table.txt").read_text()

    folder.edit(
        "their_pkg/calm.py", "        values =", "        print('here', len(batch.obs)); breakpoint()\n        values ="
    )
    done = folder(
        "train", *TINY, "algo=calm", "num_seeds=2", "debug=true", "study=d", input="p type(batch).__name__\nq\n"
    )
    assert "here 64" in done.stdout
    assert "'Batch'" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    folder.edit("their_pkg/calm.py", "breakpoint()", "values_of_nobody")
    done = folder("train", *TINY, "algo=calm", "debug=true", "study=d")
    assert done.returncode == 1
    assert "NameError: name 'values_of_nobody' is not defined" in done.stderr
    assert re.search(r'File ".*their_pkg/calm\.py", line \d+, in loss', done.stderr)
    assert not list(folder.path.glob("outputs/d/*"))
