"""Whoever runs the jobs leaves what a single run leaves, and says in one line what it cannot do."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers import jobs, last_metrics, record, status
from sweeps import named

import rlexp
from rlexp.config.schema import CONF_DIR
from rlexp.sweep.launchers.submitit import Submitit


def test_a_launcher_that_cannot_start_blames_no_job(sweep):
    pytest.importorskip("submitit", reason="extra slurm is not installed")
    result = sweep("seed=0,1", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=abc")
    assert result.code == 1
    assert "could not start any job" in result.err
    assert jobs() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("hydra/launcher=joblib", "hydra.launcher.n_jobs=0"),
            "hydra.launcher.n_jobs=0: must be a whole number, not 0",
        ),
        (("hydra/launcher=batched", "hydra.launcher.max_agents=all"), "hydra.launcher.max_agents=all: must be a whole"),
        (("study=s", "hydra.sweep.dir="), "hydra.sweep.dir"),
    ],
)
def test_what_a_launcher_cannot_do_is_told_in_one_line(sweep, words, told):
    result = sweep("seed=0,1", *words)
    assert result.code == 1
    assert re.fullmatch(r"rlexp: [^\n]+\n", result.err)
    assert told in result.err
    assert not Path("outputs").exists()


def test_less_than_a_minute_is_a_minute_on_slurm_where_0_is_no_limit():
    assert [Submitit("slurm", timeout_min=n).parameters["time"] for n in (0.5, 90)] == [1, 90]


def same_as_alone(job):
    """Whether a job left what the same job, run alone, left in the study `alone`."""
    twin = Path("outputs/alone") / job.name
    left, wanted = ({re.sub(r"(tfevents).*", r"\1", str(p.relative_to(f))) for p in f.rglob("*")} for f in (job, twin))
    assert left == wanted
    ours, theirs = (last_metrics(folder, record(job)["seeds"][0]) for folder in (job, twin))
    for name in ("wall_time", "steps_per_second"):
        del ours[name], theirs[name]
    return ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("joblib", marks=pytest.mark.slow),
        pytest.param("submitit_local", marks=pytest.mark.slow),
        pytest.param("ray", marks=pytest.mark.slow),
        "batched",
    ],
)
def test_launchers_leave_what_a_single_run_leaves_and_survive_what_befalls_a_job(sweep, launcher):
    pytest.importorskip({"submitit_local": "submitit", "batched": "torch"}.get(launcher, launcher), reason="extra")
    assert sweep("algo=apo", "study=alone", "env.id=CartPole-v1").code == 0
    deadly = [] if launcher == "batched" else ["poison:Killed-v0"]  # which runs in the sweep's own process
    ids = ",".join([*deadly, "poison:Raises-v0", "CartPole-v1"])
    result = sweep("algo=apo", f"env.id={ids}", f"hydra/launcher={launcher}")
    assert result.code == 1
    assert status(named("Raises")) == "failed"
    assert "poison.py" in record(named("Raises"))["traceback"]
    (job,) = [job for job in Path("outputs/s").iterdir() if "CartPole-v1" in job.name]
    assert same_as_alone(job)
    if deadly:
        assert status(named("Killed")) == "failed"
        assert "its process was killed or ran out of memory" in record(named("Killed"))["error"]


@pytest.mark.slow
def test_processes_share_the_cores(sweep, monkeypatch):
    joblib = pytest.importorskip("joblib", reason="extra joblib is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    words = ("seed=0,1", "env.id=poison:Tells-v0", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert sweep(*words).code == 0
    assert {int(line) for line in Path("threads").read_text().split()} == {max(1, joblib.cpu_count() // 2)}
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert sweep(*words).code == 0  # not by the processes that work in the first folder


@pytest.mark.slow
def test_batches_in_processes_leave_what_single_runs_leave_and_survive_what_befalls_one(sweep, monkeypatch):
    joblib = pytest.importorskip("joblib", reason="extra joblib is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    words = ("algo=apo", "env.id=poison:Tells-v0")
    assert sweep(*words, "seed=3", "study=alone").code == 0
    Path("threads").unlink()
    in_two = ("hydra/launcher=batched", "hydra.launcher.n_jobs=2")
    result = sweep(*words, "seed=0,1,2,3", *in_two)
    assert result.code == 0, result.err
    assert result.out.count("2 jobs (2 agents) side by side: seed differ") == 2
    assert "2 batches: at most 2 agents in one (max_agents, n_jobs)" in result.out
    assert re.search(r"\[4/4\] done: \S+seed=\d\S+, return ", result.out)
    left = [job for job in jobs() if job.parent.name == "s"]
    assert [record(job)["agents_together"] for job in left] == [2] * 4
    assert [same_as_alone(job) for job in left if record(job)["seeds"] == [3]] == [True]
    assert {int(line) for line in Path("threads").read_text().split()} == {max(1, joblib.cpu_count() // 2)}

    result = sweep("algo=apo", "env.id=poison:Killed-v0", *in_two)  # nor does it train in this process
    assert result.code == 1
    assert "its process was killed" in record(named("Killed"))["error"]


@pytest.mark.parametrize("words", [("joblib",), ("batched", "hydra.launcher.n_jobs=2"), ("ray",), ("submitit_local",)])
def test_what_is_not_installed_is_told_before_anything_starts(sweep, monkeypatch, words):
    for module in ("joblib", "ray", "submitit"):
        monkeypatch.setitem(sys.modules, module, None)
    result = sweep("seed=0,1", f"hydra/launcher={words[0]}", *words[1:])
    assert result.code == 1
    assert re.fullmatch(r"rlexp: hydra/launcher: .* is not installed: pip install 'rlexp\[\w+\]'\n", result.err)
    assert not Path("outputs").exists()


def test_more_threads_than_cores_are_refused(sweep):
    pytest.importorskip("joblib", reason="extra joblib is not installed")
    result = sweep("seed=0,1", "torch_threads=64", "hydra/launcher=joblib")
    assert result.code == 1
    assert re.search(r"torch_threads=64 with 2 jobs at a time is 128 threads on \d+ cores", result.err)
    assert jobs() == []


def test_settings_that_are_named_to_the_user_are_there():
    known = {
        kind: {key for path in (CONF_DIR / "hydra" / kind).glob("*.yaml") for key in yaml.safe_load(path.read_text())}
        for kind in ("sweeper", "launcher")
    }
    for path in Path(rlexp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            for kind, key in re.findall(r"hydra\.(sweeper|launcher)\.(\w+)", text):
                assert key in known[kind], f"{path}:{node.lineno} names hydra.{kind}.{key}"
