"""A stranger's run folder makes nothing run: hostile samples, kept here as text."""

import shutil
import subprocess
import sys

import probes  # noqa: F401
import pytest
import torch
import yaml
from helpers import make_trainer, state_of, write_config
from process import Process

import rlexp
from rlexp import evaluate, export
from rlexp.errors import CheckpointError, TrustError
from rlexp.run.video import write_video
from rlexp.saved import load_run

SETTINGS = ("total_steps=64", "env.num_envs=2", "algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    make_trainer(path, *SETTINGS).train(False)
    write_config(path, *SETTINGS)
    return path


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("launcher", "link"),
    [
        ("alone", "train.log"),
        ("alone", "seed_0"),
        ("alone", ".hydra/config.yaml"),
        ("basic", "train.log"),
        ("batched", "train.log"),
    ],
)
def test_a_run_writes_nothing_through_a_link(tmp_path, launcher, link):
    folder = tmp_path / "outputs" / "s"
    words = () if launcher == "alone" else ("-m", "seed=0,1", f"hydra/launcher={launcher}")
    words += ("study=s", "progress=none", *SETTINGS, "compile=false", "tuned=none")
    runs = Process(tmp_path, *words, "stop_at=32")
    assert runs.wait(120) == 0, runs.communicate()
    run = sorted(folder.glob("*seed=0*") if launcher != "alone" else folder.glob("[a-z]*"))[0]
    outside = tmp_path / "outside"
    shutil.copytree(run, outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    target = outside / link if (outside / link).exists() else outside / "run.json"
    if (run / link).is_dir():
        shutil.rmtree(run / link)
    (run / link).unlink(missing_ok=True)
    (run / link).symlink_to(target)
    again = Process(tmp_path, *words)
    assert again.wait(120) == 1
    assert f"{run.relative_to(tmp_path) / link}: is a symbolic link" in "".join(again.communicate())
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


HOSTILE = [
    ("network._target_", "os.system"),
    ("network._target_", "rlexp.train.os.system"),
    ("network._target_", "rlexp.provenance.repositories.subprocess.Popen"),
    ("network._target_", "rlexp.run.checkpoint.torch.load"),
    ("network._target_", "rlexp.sweep.reserve.make_new"),
    ("network._target_", "rlexp.evaluate.run_command"),
    ("network._target_", "rlexp.run.record.RunRecord"),
    ("network._target_", "torch.nn.Linear.__init__"),
    ("network._target_", ["os.system"]),
    ("network.torso._target_", "torch.load"),
    ("network.torso._target_", "torch.nn.modules.module.torch.load"),
    ("network.torso._target_", "numpy.load"),
    ("network.torso._target_", "shutil.copy"),
    ("network.torso._target_", "builtins.open"),
    ("network.torso._target_", "builtins.eval"),
    ("network.torso._target_", "rlexp.run.writer.RunWriter"),
    ("network.torso._target_", "torch.nn.functional.relu"),
    ("network.torso._target_", "torch.nnx.Evil"),
    ("network.torso._target_", "rlexp_evil.Evil"),
    ("network.torso.hidden", [{"_target_": "builtins.open", "_args_": ["gotcha", "w"]}]),
    ("network.torso.activation", {"_target_": "pathlib.Path.touch", "_args_": ["gotcha"]}),
    ("network.torso.activation", {"deep": [[{"_target_": "pathlib.Path.touch"}]]}),
    ("network.torso.activation", "${oc.env:HOME}"),
    ("network.torso.activation", "${oc.decode:abc}"),
    ("env.normalize_obs", "${oc.env:HOME}"),
    ("network", "os.system"),
]
OF_ENVIRONMENTS = [
    ("env._target_", "os.system"),
    ("env._target_", "rlexp.networks.actor_critic.ActorCritic"),
    ("env._target_", "rlexp.envs.environment.importlib.import_module"),
    ("env.id", "antigravity:CartPole-v1"),
    ("env.id", "this.that:CartPole-v1"),
    ("env.kwargs", {"wrappers": [{"_target_": "builtins.open", "_args_": ["gotcha", "w"]}]}),
    ("env.kwargs", {"path": "${oc.env:HOME}"}),
]


def spoil(source, target, key, value):
    (target / ".hydra").mkdir(parents=True)
    config = yaml.safe_load((source / ".hydra" / "config.yaml").read_text())
    node = config
    *way, last = key.split(".")
    for word in way:
        node = node[word]
    node[last] = value
    (target / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (target / "checkpoint.pt").symlink_to(source / "checkpoint.pt")


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=lambda value: str(value)[:40])
def test_a_loaded_policy_makes_nothing_but_networks(folder, tmp_path, monkeypatch, key, value):
    spoil(folder, tmp_path / "run", key, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    before = set(sys.modules)
    with pytest.raises((TrustError, CheckpointError), match=key.partition(".")[0]):
        rlexp.load_policy(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not {name for name in set(sys.modules) - before if not name.startswith(("rlexp", "torch"))}


@pytest.mark.parametrize(("key", "value"), [*OF_ENVIRONMENTS, *HOSTILE[:2]], ids=lambda value: str(value)[:40])
def test_an_evaluation_makes_nothing_but_networks_and_environments(folder, tmp_path, monkeypatch, capsys, key, value):
    spoil(folder, tmp_path / "run", key, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    with pytest.raises(SystemExit):
        evaluate.main(["run=run", "episodes=1"])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert key in told or f"{key}[" in told
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert "antigravity" not in sys.modules


def test_what_one_trusts_by_name_is_made(tmp_path, capsys):
    settings = (*SETTINGS, "network.torso._target_=strangers.Torso", "~network.torso.hidden")
    settings = (*settings, "~network.torso.activation", "env.id=probes:Endless-v0")
    make_trainer(tmp_path, *settings).train(False)
    write_config(tmp_path, *settings)
    remedy = r"_target_=strangers\.Torso: would run code of strangers.*trust=strangers.*trust=\['strangers'\]"
    with pytest.raises(TrustError, match=remedy):
        rlexp.load_policy(tmp_path)
    assert rlexp.load_policy(tmp_path, trust=["strangers"])([0.0]) in (0, 1)
    with pytest.raises(SystemExit):
        evaluate.main([f"run={tmp_path}", "episodes=1", "trust=strangers"])
    assert "env.id=probes:Endless-v0: would run code of probes" in capsys.readouterr().err
    evaluate.main([f"run={tmp_path}", "episodes=1", "trust=strangers,probes"])
    assert "mean return 5.00" in capsys.readouterr().out


def test_an_installed_plugin_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "plug-1.dist-info").mkdir()
    (tmp_path / "plug-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (tmp_path / "plug-1.dist-info" / "entry_points.txt").write_text("[rlexp]\nplug = strangers\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = (*SETTINGS, "network.torso._target_=strangers.Torso", "~network.torso.hidden")
    settings = (*settings, "~network.torso.activation")
    make_trainer(tmp_path / "run", *settings).train(False)
    write_config(tmp_path / "run", *settings)
    rlexp.load_policy(tmp_path / "run")


@pytest.mark.parametrize(
    "text", ["", "null", "[1, 2]", "a: {", "env: 3", "env: {}", "\x00", "!!python/object:os.system {}"]
)
def test_a_damaged_config_is_told_in_one_line(folder, tmp_path, text):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml: cannot be read"):
        rlexp.load_policy(tmp_path)


def test_nothing_is_written_through_a_link(folder, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(folder, run)
    elsewhere.mkdir()
    saved = load_run(run)
    for name, write in (
        ("export", lambda: export.export(saved, 0, "torch")),
        ("videos", lambda: write_video(run, "x", 0, [])),
    ):
        (run / name).symlink_to(elsewhere)
        with pytest.raises(TrustError, match=f"{name}: is a symbolic link"):
            write()
        (run / name).unlink()
        (run / name).mkdir()
        (run / name / ".tmp").symlink_to(elsewhere / "file")
        with pytest.raises(TrustError, match=r"\.tmp: is a symbolic link"):
            write()
    assert not list(elsewhere.iterdir())


def test_a_checkpoint_without_seeds_is_told_in_one_line(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    torch.save(state_of(folder) | {"seeds": []}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="its checkpoint does not fit its config"):
        rlexp.load_policy(tmp_path / "run", seed=0)
