"""Exported policies act as the policy does, where nothing of rlexp can be imported."""

import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import train, write_config

import rlexp
from rlexp import export
from rlexp.saved import load_run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SETTINGS = ("total_steps=512", "env.num_envs=2", "algo.rollout_steps=32", "algo.epochs=1", "algo.minibatches=2")
CASES = {
    "ppo": ("algo=ppo", "env=cartpole"),
    "apo": ("algo=apo", "env=cartpole", "num_seeds=2"),
    "apo_ce": ("algo=apo_ce", "env=acrobot"),
    "apo_random": ("algo=apo_random", "env=cartpole"),
    "ppo_kl": ("algo=ppo_kl", "env=cartpole"),
    "continuous, normalised": ("env.id=Float64-v0", "env.normalize_obs=true", "env.normalize_reward=true"),
    "nature_cnn": ("env.id=ALE-like-v0", "network=nature_cnn", "total_steps=128"),
    "impala_cnn": ("env.id=ALE-like-v0", "network=impala_cnn", "total_steps=128"),
    "integers in, several out": ("env.id=Integers-v0",),
    "float32": ("env=pendulum",),
}

# what somebody else runs: files in, whether both act as expected
ALONE = """
import sys, json, numpy as np
sys.modules["rlexp"] = None  # any import of it fails
import onnxruntime, torch
folder, seed = sys.argv[1:]
data = np.load(f"{folder}/expected.npz")
session = onnxruntime.InferenceSession(f"{folder}/export/seed_{seed}.onnx")
action, params = session.run(["action", "dist_params"], {"obs": data["obs"]})
one = session.run(["action"], {"obs": data["obs"][:1]})[0]
extra = {"metadata.json": ""}
program = torch.export.load(f"{folder}/export/seed_{seed}.pt2", extra_files=extra).module()
other, other_params = (x.numpy(force=True) for x in program(torch.from_numpy(data["obs"])))
for found in (action, other):
    assert found.dtype == data["action"].dtype, (found.dtype, data["action"].dtype)
    assert found.shape == data["action"].shape
    np.testing.assert_allclose(found, data["action"], rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(one, action[:1], rtol=1e-5, atol=1e-5)
for found in (params, other_params):
    np.testing.assert_allclose(found, data["params"], rtol=1e-4, atol=1e-5)
about = session.get_modelmeta().custom_metadata_map
assert json.loads(extra["metadata.json"]) == about
assert not [name for name in sys.modules if name.startswith("rlexp.")]
print(json.dumps(about))
"""


class Spaced(gym.Env):
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 5, False, {}


PIXELS = gym.spaces.Box(0, 255, (2, 36, 36), np.uint8)
SHIFTED = gym.spaces.MultiDiscrete([3, 2], start=[1, -4])
FLOATS = gym.spaces.Box(np.array([-1e-4, -2.0]), np.array([1e-4, 3.0]), dtype=np.float64)
gym.register("ALE-like-v0", lambda: Spaced(PIXELS, gym.spaces.Discrete(4, start=2)))
gym.register("Integers-v0", lambda: Spaced(gym.spaces.MultiDiscrete([3, 5]), SHIFTED))
gym.register("Float64-v0", lambda: Spaced(gym.spaces.Box(-1, 1, (), np.float64), FLOATS))


IN_CI = ("continuous, normalised",)  # the others cost as much again


@pytest.mark.parametrize(
    "case", [case if case in IN_CI else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_an_exported_policy_acts_as_the_policy_without_rlexp(tmp_path, case, capsys):
    train(tmp_path, *SETTINGS, *CASES[case])
    write_config(tmp_path, *SETTINGS, *CASES[case])
    export.main([f"run={tmp_path}"])
    said = capsys.readouterr().out
    saved = load_run(tmp_path)
    assert said.count("as the policy on 1000 observations") == 2 * len(saved.seeds)
    seed = saved.seeds[-1]
    obs = export.sample(saved).numpy()
    action = rlexp.load_policy(tmp_path, seed)(obs)
    params = saved.networks[-1](torch.from_numpy(obs), True)[0].detach().numpy()
    assert params.std(0).max() > 0  # else any constant would do
    np.savez(tmp_path / "expected.npz", obs=obs, action=action, params=params)
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    about = json.loads(done.stdout)
    record = json.loads((tmp_path / "run.json").read_text())
    assert about["config_hash"] == record["config_hash"]
    assert about["seed"] == str(seed)
    assert json.loads(about["action_space"])["type"] in ("Discrete", "MultiDiscrete", "Box")


def test_one_seed_and_one_format(tmp_path):
    train(tmp_path, *SETTINGS, "num_seeds=3")
    write_config(tmp_path, *SETTINGS, "num_seeds=3")
    export.main([f"run={tmp_path}", "seed=1", "format=torch"])
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["seed_1.pt2"]


class Wrong(torch.nn.Module):
    """Acts otherwise once it is exported."""

    def __init__(self, space):
        super().__init__()
        self.out_features = 4
        self.layer = torch.nn.Linear(space.shape[0], 4)

    def forward(self, x):
        return self.layer(x) * (2.0 if torch.compiler.is_compiling() else 1.0)


class Branching(Wrong):
    def forward(self, x):
        return self.layer(x) if x.sum() > 1e9 else self.layer(x).tanh()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Wrong", "computes other distributions than the policy"),
        ("Branching", "its network cannot be exported to torch"),
    ],
)
def test_what_would_act_otherwise_is_not_written(tmp_path, kind, said, capsys):
    words = (f"network.torso._target_={__name__}.{kind}", "~network.torso.hidden", "~network.torso.activation")
    train(tmp_path, *SETTINGS, *words)
    write_config(tmp_path, *SETTINGS, *words)
    with pytest.raises(SystemExit):
        export.main([f"run={tmp_path}", "format=torch", f"trust={__name__}"])
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "export").iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nowhere"], "run=nowhere: "),
        (["format=onnx"], "run=: name a run"),
        (["run=x", "format=tf"], "format=tf: must be onnx or torch, or both with a comma"),
        (["run=x", "seed=a"], "seed=a: must be a whole number"),
    ],
)
def test_wrong_words_are_one_line(words, said, capsys):
    with pytest.raises(SystemExit):
        export.main(words)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit):
        export.main([f"run={tmp_path}"])
    said = "needs onnxscript, which is not installed: pip install 'rlexp[export]'; format=torch needs none"
    assert capsys.readouterr().err == f"rlexp.export: format=onnx: {said}\n"
