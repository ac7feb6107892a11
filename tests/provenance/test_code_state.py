"""Code of one's own is part of what a run is: an edit is told by the next command and refused by `compare`."""

import subprocess

import pytest
from helpers import jobs, record, status
from process import Process

from rlexp.compare import __main__ as compare
from rlexp.provenance import code_state, sources

TERMS = "SCALE = 1.0\n"
CALM = """from dataclasses import dataclass

from rlexp.algos.ppo import PPO
from their_pkg.terms import SCALE


@dataclass(kw_only=True)
class Calm(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + SCALE * policy(batch)[0].square().mean(), metrics
"""
WORDS = (
    "algo._target_=their_pkg.calm.Calm",
    "study=s",
    "tuned=none",
    "progress=none",
    "total_steps=256",
    "env=cartpole",
)
WORDS += ("env.num_envs=2", "algo.rollout_steps=32", "algo.epochs=1", "algo.minibatches=2", "evaluation.episodes=1")


@pytest.fixture
def package(tmp_path):
    """A package of a user's own, in the folder where commands are typed."""
    folder = tmp_path / "their_pkg"
    folder.mkdir()
    for name, text in {"__init__": "", "terms": TERMS, "calm": CALM, "other": "X = 1\n"}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def run(tmp_path, package):
    def call(*words):
        process = Process(tmp_path, *words, *WORDS)
        return process.wait(120), process.output.read_text()

    return call


def edit(file, old, new):
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.slow
def test_an_edited_objective_is_told_by_the_next_sweep_and_refused_by_compare(
    run, package, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run("-m", "seed=0,1")[0] == 0
    edit(package / "other.py", "1", "2")  # which nothing imports
    assert run("-m", "seed=0,1")[0] == 0
    for name, old, new in (("terms", "1.0", "2.0"), ("calm", "loss +", "loss -")):
        edit(package / f"{name}.py", old, new)
        code, said = run("-m", "seed=0,1,2")
        assert code == 1
        assert f"rlexp: their_pkg/{name}.py changed since 2 of these jobs ran (of 3): stale=keep keeps" in said
        assert len(jobs()) == 2
        if name == "terms":
            edit(package / "terms.py", new, old)
    code, said = run("-m", "seed=0,1,2", "stale=keep")
    assert (code, [status(job) for job in jobs()]) == (0, ["done"] * 3)
    assert "their_pkg/calm.py changed since 2 of these jobs ran: they are kept" in said
    with pytest.raises(SystemExit):
        compare.main(["outputs/s", "figures=false"])
    told = capsys.readouterr().err
    assert "its seeds ran different code (their_pkg/calm.py is " in told
    assert "in seed 0, 1" in told
    compare.main(["outputs/s", "figures=false", "allow=code"])
    assert "pools seeds that ran different code" in capsys.readouterr().out
    assert run("-m", "seed=0,1,2", "stale=rerun")[0] == 0
    assert [job.name[-2:] for job in jobs()].count("_2") == 2
    assert run("-m", "seed=0,1,2", "stale=rerun")[0] == 0
    assert sum((job / "run.json").exists() for job in jobs()) == 5
    compare.main(["outputs/s", "figures=false"])


def test_no_run_goes_on_in_the_middle_with_other_code_unless_told_to(run, package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("stop_at=128")[0] == 0
    edit(package / "calm.py", "loss +", "loss -")
    before = {path: path.read_bytes() for path in jobs()[0].rglob("*") if path.is_file()}
    code, said = run()
    assert code == 1
    assert "their_pkg/calm.py changed since the run in outputs/s/" in said
    assert {path: path.read_bytes() for path in jobs()[0].rglob("*") if path.is_file()} == before
    assert run("stale=keep")[0] == 0
    assert [list(own) for own in record(jobs()[0])["made_by"]] == [["their_pkg/calm.py"]]


def test_a_run_keeps_commits_and_what_is_not_committed(run, package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True, capture_output=True)

    git("init")
    git("add", "their_pkg")
    git("commit", "-m", "x")
    assert run("seed=0")[0] == 0
    (first,) = jobs()
    (repository,) = record(first)["repositories"]
    assert (repository["path"], len(repository["commit"])) == (str(tmp_path), 40)
    edit(package / "terms.py", "1.0", "2.0")
    assert run("seed=1")[0] == 0
    second = next(job for job in jobs() if job != first)
    assert record(second)["repositories"][0]["dirty"] is True
    assert "+SCALE = 2.0" in (second / f"code.{tmp_path.name}.patch").read_text()
    assert record(first)["code"] == record(second)["code"]


def test_runs_made_before_digests_were_of_files_say_nothing():
    config = {"algo": {"_target_": "rlexp.algos.apo.APO"}}
    for old in ({}, {"sources": {"rlexp.algos.apo": "1e389dc3"}}, {"sources": {}}):
        assert code_state.changed_files(old, config) == []
    assert code_state.changed_files({"sources": {"gone.py": "1e389dc3", **sources.digests(config)}}, config) == [
        "gone.py"
    ]
