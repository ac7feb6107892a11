"""Compiled equals eager, within rounding; the library belongs to the graph; without a compiler training goes on."""

import signal
import subprocess
import sys

import probes  # noqa: F401  (registers them)
import pytest
import torch
from helpers import make_trainer, record, stop_after, train, weights_of
from torch.testing import assert_close

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.compiling import libraries
from rlexp.compiling.compile import Graph, cache_folder, compile_or_warn
from rlexp.signals import Interrupted

SMALL = ("total_steps=1024", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")
MLP = ("network.torso.hidden=[64]",)  # a layer less is a third less to compile
CASES = {
    "alone": (
        "algo._target_=test_compile.Draws",
        "env=cartpole",
        "env.backend=gymnasium",
        "algo.clip_vloss=true",
        "algo.clip_coef=[0.2,0.1]",
    ),
    "stacked": ("algo=apo", "env=pendulum", "env.normalize_obs=true", "env.normalize_reward=true"),
    "pixels": ("env.id=Pixels-v0", "network=nature_cnn", "network.torso.features=16", "num_seeds=2"),
}
OWN = {"stacked": (("optimizer.lr=1e-3", "gae.gamma=0.9"), ("optimizer.lr=[3e-3,0]", "seed=1", "algo.anchor_coef=0.1"))}


class Draws(PPO):
    """The loss, times random numbers."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        noise = weighted_mean(policy.randn_like(batch.returns), batch.weights)
        return loss * (noise + policy.rand_like(noise)), metrics


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RLEXP_CACHE", str(tmp_path / "cache"))
    # what calls the kernels, left unoptimised: half the time of the compiler, and the same arithmetic
    monkeypatch.setitem(libraries.OPTIONS, "aot_inductor.compile_wrapper_opt_level", "O0")


# of pixels only the convolutions are their own, and one agent alone is one of those stacked; each takes half a minute
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in ("pixels", "alone") else case for case in CASES]
)
def test_compiled_is_eager_and_resumes_exactly(tmp_path, monkeypatch, case):
    builder = libraries.Builder
    settings, own = (*SMALL, *(MLP if case != "pixels" else ()), *CASES[case]), OWN.get(case, ((),))
    eager = train(tmp_path / "eager", *settings, own=own)
    beside = []
    monkeypatch.setattr(libraries, "Builder", lambda *graph: beside.append(graph) or builder(*graph))
    whole = train(tmp_path / "whole", *settings, "compile=true", own=own)
    assert all(all(graphs.made.values()) for graphs in whole.learner.graphs)
    assert len(list(cache_folder().glob("*.so"))) == 2
    assert len(beside) == 1  # the other one in this process, at the same time
    for name, tensor in weights_of(eager).items():
        assert_close(weights_of(whole)[name], tensor, atol=2e-4, rtol=2e-3, msg=name)

    first = make_trainer(tmp_path / "parts", *settings, "compile=true", own=own)
    stop_after(first, 2)
    with pytest.raises(Interrupted):
        first.train(False)
    second = train(tmp_path / "parts", *settings, "compile=true", resume=True, own=own)
    assert all(torch.equal(weights_of(second)[name], tensor) for name, tensor in weights_of(whole).items())


def test_constants_of_another_dtype_make_another_library():
    dtypes = (torch.float32, torch.float64)
    graphs = [Graph(lambda x, dtype=dtype: (x * torch.tensor([2.0], dtype=dtype),), torch.ones(3)) for dtype in dtypes]
    assert graphs[0].code == graphs[1].code
    assert graphs[0].key != graphs[1].key


@pytest.mark.slow
def test_a_library_belongs_to_its_graph_and_is_found_again():
    x = torch.arange(4.0)

    def double(x, out):
        out.copy_(x * 2)
        return (x.sum(),)

    def triple(x, out):
        out.copy_(x * 3)
        return (x.sum(),)

    out = torch.zeros(4)
    graph = Graph(double, x, out)
    graph.build()
    graph.load()
    assert out.sum() == 0  # tracing and compiling touch nothing
    assert graph.run([x, out])[0] == 6
    assert out.tolist() == [0, 2, 4, 6]

    assert not Graph(triple, x, out).is_built  # an edited function never meets the library of the old one
    out.zero_()
    Graph(double, x, out).load().run([x, out])
    assert out.tolist() == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="differing"):
        graph.leaves(x.double(), out)


def test_what_cannot_be_compiled_runs_without_and_says_so_once(tmp_path, caplog, monkeypatch):
    def depends(x):
        return (x if x.sum() > 0 else -x,)

    assert compile_or_warn({"this": (depends, torch.ones(2))}) == {"this": None}
    assert "this runs uncompiled" in caplog.text
    held = torch.ones(2)
    compile_or_warn({"that": (lambda x: (x * held,), torch.ones(2))})
    assert "that runs uncompiled: it reads a tensor that is not one of its arguments" in caplog.text

    def stopped():
        raise Interrupted(signal.SIGINT)

    caplog.clear()
    with pytest.raises(Interrupted):  # the signal reached the compiler, too, whose complaint is nobody's
        compile_or_warn({"this": (depends, torch.ones(2))}, check_stop=stopped)
    assert "uncompiled" not in caplog.text

    monkeypatch.setattr(libraries, "build", lambda *_: (_ for _ in ()).throw(RuntimeError("no g++")))
    monkeypatch.setattr(sys, "executable", "/bin/false")  # the process that would compile beside
    caplog.clear()
    trainer = train(tmp_path / "run", *SMALL, *MLP, "compile=true")
    assert trainer.update_number == trainer.num_updates
    assert [r.getMessage() for r in caplog.records if "uncompiled" in r.getMessage()] == [
        "the minibatch update runs uncompiled: RuntimeError: no g++",
        "acting runs uncompiled: RuntimeError: no g++",
    ]
    told = record(tmp_path / "run")
    assert told["how"]["compiled"]["value"] is False
    why = {"acting: RuntimeError: no g++", "the minibatch update: RuntimeError: no g++"}
    assert set(told["how"]["compiled"]["why"].split("; ")) == why
    assert told["time"]["seconds"]["compiling"] > 0  # and acting is not blamed for it


@pytest.mark.slow
def test_a_library_that_ends_whoever_loads_it_is_tried_in_another_process(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RLEXP_CACHE", str(tmp_path))
    source = tmp_path / "deadly.cpp"
    source.write_text("__attribute__((constructor)) static void die() { *(volatile int *)0 = 1; }")
    real = libraries.build

    def build(traced, layouts, library, options):
        real(traced, layouts, library, options)
        subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)

    x = torch.ones(3)
    with monkeypatch.context() as patched:
        patched.setattr(libraries, "build", build)
        assert compile_or_warn({"it": (lambda x: (x + 1,), x)}) == {"it": None}
    (line,) = [own.getMessage() for own in caplog.records if own.levelname == "WARNING"]
    assert line.startswith("it runs uncompiled: OSError: a process that loads ")
    assert "is killed by signal 11" in line
    assert not list(tmp_path.glob("loads-*"))

    graph = compile_or_warn({"it": (lambda x: (x + 2,), x)})["it"]
    assert torch.equal(graph.run(graph.leaves(x))[0], x + 2)
    assert len(list(tmp_path.glob("loads-*"))) == 1
