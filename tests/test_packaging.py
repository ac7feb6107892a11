import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = ["tuned=none", "total_steps=256", "progress=none", "evaluation.episodes=1", "algo.rollout_steps=16"]

MINE = '''
from dataclasses import dataclass

from rlexp.algos.ppo import PPO
from rlexp.algos.losses import weighted_mean
from rlexp.algos.schedules import Scheduled


@dataclass(kw_only=True)
class Mine(PPO):
    """L = L_PPO + c E[ V² ]."""

    calm_coef: Scheduled = 0.0

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        calm = weighted_mean(policy(batch)[1].square(), batch.weights)
        return loss + self.calm_coef * calm, metrics | {"calm": calm, "calm_coef": self.calm_coef}
'''
MINE_YAML = """
defaults:
  - ppo
  - _self_

_target_: their_pkg.mine.Mine
calm_coef: [0.5, 0]   # * weight of E[ V² ]
"""


def train(cwd, path, *words):
    cwd.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "rlexp.train", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def only_job(cwd):
    (job,) = cwd.glob("outputs/*/*")
    return job


def test_a_wheel_holds_the_configs_and_trains(tmp_path):
    source = tmp_path / "source"
    for folder in ("rlexp", "conf"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    (source / "conf" / "local").mkdir()
    (source / "conf" / "local" / "default.yaml").write_text("# @package _global_\noutputs: mine\n")  # is not packed
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(unpacked)
    configs = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*") if path.is_file()}
    assert "config.yaml" in configs
    assert {name.removeprefix("rlexp/conf/") for name in names if name.startswith("rlexp/conf/")} == configs
    assert {"rlexp", "dist-info"} == {name.partition("/")[0].rpartition(".")[2] for name in names}

    done = train(tmp_path / "cwd", unpacked, *TINY)
    assert done.returncode == 0, done.stderr
    record = json.loads((only_job(tmp_path / "cwd") / "run.json").read_text())
    assert record["status"] == "done"
    assert record["command"][0] == str(unpacked / "rlexp" / "train.py")  # and not the checkout's
    assert record["commit"] is None


@pytest.fixture
def theirs(tmp_path):
    """A package beside this one: a file and a yaml; and the words that choose its algorithm."""
    package, algo = tmp_path / "their_pkg", tmp_path / "their_pkg" / "conf" / "algo"
    algo.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "conf" / "__init__.py").touch()
    (package / "mine.py").write_text(MINE)
    (algo / "mine.yaml").write_text(MINE_YAML)
    return ["algo=mine", "hydra.searchpath=[pkg://their_pkg.conf]"]


def test_an_algorithm_of_another_package_trains(tmp_path, theirs):
    done = train(tmp_path / "cwd", tmp_path, *theirs, *TINY)
    assert done.returncode == 0, done.stderr
    job = only_job(tmp_path / "cwd")
    assert job.parent.name == "mine_cartpole"
    with open(job / "metrics.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    assert float(last["calm"]) >= 0
    assert float(last["calm_coef"]) == 0.25  # half of the knots [0.5, 0]: the second of two updates


def test_a_bad_key_of_an_algorithm_of_another_package_is_told_with_the_nearest(tmp_path, theirs):
    failed = train(tmp_path / "cwd", tmp_path, *theirs, *TINY, "algo.calm_cof=1")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "algo.calm_cof=1" in failed.stderr
    assert "did you mean algo.calm_coef?" in failed.stderr
