"""Optimizers, whoever wrote them, work as they mean it, stacked, traced and resumed, or are refused in one line."""

import pytest
import torch
from helpers import have_same_weights, make_config, make_trainer, resumed, train, weights_of
from strangers import SMALL
from torch.testing import assert_close

from rlexp import build
from rlexp.compiling import libraries
from rlexp.errors import ConfigError
from rlexp.training import optimizer_state
from rlexp.training.optimizers import traits

BARE = ("~optimizer.eps", "~optimizer.fused")


REFUSED = {
    "LBFGS": "its step needs a closure that recomputes the loss",
    "Muon": "2D parameters",
    "SparseAdam": "dense gradients",
}


ACCEPTED = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in (*REFUSED, "Optimizer")
)


OTHERS = ("Normed", "CountsInGroup", "CountsInState", "Rebinds", "Decorated", "Projects", "HalfMomentum")


OTHERS += (
    "RateInMomentum",
    "LargeAsOne",
    "WantsRate",
    "ClipsSpikes",
    "ClipsLate",
    "SkipsNaN",
    "SkipsInfinite",
    "LateInGroup",
    "FindsOut",
)


ASIDE = ("CountsByItself", "LateByItself", "LateInArray", "MomentumAside", "Langevin", "OwnRate")


WHOLE = ("Adafactor", "Normed", "LargeAsOne", "ClipsSpikes", "ClipsLate", "SkipsNaN", "SkipsInfinite")


WHOLE += ("HalfMomentum",)  # it sorts parameters by their axes


ALONE = pytest.param(1, marks=pytest.mark.slow)  # two stacked are what one alone is, and more


FIXED = ("Rprop",)  # heed the first learning rate alone


def target(name):
    return f"strangers.{name}" if name in (*OTHERS, *ASIDE) else f"torch.optim.{name}"


def choose(name):
    return (*BARE, f"optimizer._target_={target(name)}")


def test_there_are_optimizers():
    assert {"Adam", "SGD", "Adafactor", "Rprop", "RMSprop"} <= set(ACCEPTED)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *REFUSED.items(),
        ("CountsByItself", "has state that no checkpoint contains, its attribute count, which"),
        ("LateByItself", "has state that no checkpoint contains, its attribute count, which"),
        ("LateInArray", "has state that no checkpoint contains, its attribute counts, which"),
        ("MomentumAside", "has state that no checkpoint contains, its attribute kept, which"),
        ("Langevin", "the optimizer draws random numbers"),
    ],
)
def test_optimizers_that_cannot_work_are_refused_by_name(name, why):
    with pytest.raises(ConfigError, match=rf"optimizer\._target_={target(name)}: cannot be used here: .*{why}"):
        build.check(make_config(*choose(name)))


@pytest.mark.few(6)
@pytest.mark.parametrize("name", [*ACCEPTED, *OTHERS])
def test_an_optimizer_moves_stacked_agents_as_it_would_alone(tmp_path, name):
    rate = "3e-3" if name in FIXED else "[3e-3,0,1e-3]"
    settings = (*SMALL, "total_steps=512", *choose(name), f"optimizer.lr={rate}", "network.torso.hidden=[16,16]")
    batch = train(tmp_path / "batch", *settings, "num_seeds=2")
    alone = train(tmp_path / "alone", *settings, "seed=1")
    for key, x in weights_of(alone).items():
        assert_close(weights_of(batch)[key][1], x[0], atol=5e-4, rtol=5e-3, msg=key)
    assert len(batch.learner.groups) == (2 if name in WHOLE else 1)


def test_an_optimizer_that_mixes_agents_cannot_be_made_to(tmp_path):
    with pytest.raises(ConfigError, match=r"batching=vmap: this optimizer cannot be used with stacked agents"):
        make_trainer(tmp_path, *SMALL, *choose("Adafactor"), "num_seeds=2", "batching=vmap")


@pytest.mark.few(6)
@pytest.mark.parametrize("name", [*(own for own in ACCEPTED if own not in FIXED), *OTHERS])
@pytest.mark.parametrize("num_seeds", [ALONE, 2])
def test_traced_updates_are_eager_ones_where_the_rate_touches_zero(tmp_path, traced, caplog, name, num_seeds):
    settings = (*SMALL, "total_steps=768", *choose(name), f"num_seeds={num_seeds}", "optimizer.lr=[0,3e-3,0]")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    for key, x in weights_of(eager).items():
        assert x.isfinite().all()
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-3, msg=key)
    graphs = [graphs.made for graphs in compiled.learner.graphs]
    runs_uncompiled = "the minibatch update runs uncompiled" in caplog.text
    assert all((own.get("the minibatch update") is None) == runs_uncompiled for own in graphs)


@pytest.mark.parametrize("lr", ["[1e-3,0,0]", "[0,0,1e-3]"])
def test_a_rate_of_zero_leaves_parameters_whose_gradient_was_always_zero(tmp_path, traced, lr):
    # states that are never visited: their second moments are 0, and so is the rate that optimizers divide by
    settings = (*SMALL, "total_steps=768", "env.id=FrozenLake-v1", f"optimizer.lr={lr}")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    assert any((state["exp_avg_sq"] == 0).any() for state in compiled.learner.groups[0].optimizer.state.values())
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-3, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [own for own in ACCEPTED if own not in FIXED])
def test_compiled_updates_are_eager_ones_where_the_rate_touches_zero(tmp_path, monkeypatch, name):
    monkeypatch.setitem(libraries.OPTIONS, "aot_inductor.compile_wrapper_opt_level", "O0")
    settings = (*SMALL, "total_steps=768", *choose(name), "optimizer.lr=[0,3e-3,0]")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-4, rtol=2e-3, msg=key)


def test_what_an_optimizer_keeps_does_not_say_how_its_steps_are_computed():
    params = {"p": torch.ones(3, requires_grad=True)}
    one, other = (torch.optim.Adam(params.values(), capturable=flag) for flag in (False, False))
    params["p"].grad = torch.ones(3)
    one.step()
    one.param_groups[0]["capturable"] = True  # as on another device
    optimizer_state.restore(other, params, 1, optimizer_state.state_by_agent(one, params, 1))
    assert other.param_groups[0]["capturable"] is False
    other.step()


def test_an_optimizer_that_keeps_no_state_is_compiled_too(tmp_path, traced):
    trainer = train(tmp_path, *SMALL, *choose("SGD"), "compile=true")
    assert all(trainer.learner.graphs[0].made.values())
    assert len(trainer.learner.graphs[0].made) == 2


@pytest.mark.parametrize("name", ["Rprop", "OwnRate"])
def test_a_schedule_that_would_be_without_effect_is_refused(name):
    build.check(make_config(*choose(name), "optimizer.lr=1e-3"))
    with pytest.raises(ConfigError, match=rf"optimizer\.lr=\[.*\]: .*{name} ignores changes of the learning rate"):
        build.check(make_config(*choose(name), "optimizer.lr=[1e-3,0]"))


@pytest.mark.few(4)
@pytest.mark.parametrize("name", ["SGD", "Adafactor", "Rprop", *OTHERS])
@pytest.mark.parametrize("num_seeds", [ALONE, 2])
def test_other_optimizers_resume_exactly(tmp_path, traced, name, num_seeds):
    settings = (*SMALL, *choose(name), f"num_seeds={num_seeds}", "compile=true")
    assert have_same_weights(resumed(tmp_path / "parts", *settings), train(tmp_path / "whole", *settings))


def test_traits():
    def of(name, **settings):
        return traits({"_target_": target(name), "_partial_": True, **settings})

    assert of("AdamW", weight_decay=0.1).recordable  # though rounding moves what is nearly 0 by more than a thousandth
    assert (of("Adam").elementwise, of("Adam").proportional, of("Adam").recordable) == (True, True, True)
    assert not of("Rprop").proportional
    assert not of("Adafactor").elementwise
    assert not any(of(name).elementwise for name in WHOLE if name != "LargeAsOne")  # whose tensors are small here
    unrecordable = ("CountsInGroup", "LateInGroup", "Rebinds", "Decorated", "Projects")
    assert not any(of(name).recordable for name in unrecordable)
    assert of("FindsOut").elementwise
    assert of("FindsOut").recordable
    assert not of("RateInMomentum").proportional
    assert not of("CountsInState").recordable


def test_other_optimizers_work_by_target(tmp_path):
    settings = ("~optimizer.eps", "~optimizer.fused", "optimizer._target_=torch.optim.SGD", "++optimizer.momentum=0.9")
    trainer = train(tmp_path, *SMALL, *settings, "num_seeds=2")
    assert isinstance(trainer.learner.groups[0].optimizer, torch.optim.SGD)
