"""A compiled update that is not what its code makes is found, and refused or dropped."""

import math

import pytest
import torch
from helpers import train, weights_of
from strangers import SMALL, algo
from torch.testing import assert_close

from rlexp.compiling import verify
from rlexp.compiling.compile import Graph
from rlexp.errors import ObjectiveError


@pytest.mark.few(2)
@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize("name", ["InModule", "InModuleLate", "InSlots", "InWindow", "InClosure"])
def test_a_number_that_is_read_elsewhere_may_not_change_once_it_is_compiled(tmp_path, traced, name, num_seeds):
    settings = (*SMALL, algo(name), f"num_seeds={num_seeds}")
    train(tmp_path / "eager", *settings)
    line = rf"{name}: the compiled update differs from its code: a number that was \S+ is now \S+\. "
    with pytest.raises(ObjectiveError, match=line + r".*Scheduled.*coefficients"):
        train(tmp_path / "compiled", *settings, "compile=true")


@pytest.mark.parametrize("name", ["ppo", "apo", "ppo_kl"])
def test_compiled_updates_that_do_what_their_code_does_are_left_alone(tmp_path, traced, monkeypatch, name):
    found = []
    distance = verify.Twin.distance
    monkeypatch.setattr(verify.Twin, "distance", lambda *a: found.append(distance(*a)) or found[-1])
    train(tmp_path, *SMALL, f"algo={name}", "compile=true", "num_seeds=2", "total_steps=2560")
    assert len(found) == 6  # updates 1, 2, 4, 8, 16 of the compiled ones, and the last
    assert max(found) < 0.5


def test_a_graph_that_computes_something_else_than_its_code_is_dropped_at_once(tmp_path, traced, monkeypatch, caplog):
    def load(self):
        right = torch.no_grad()(lambda x: self.traced(*x))

        def spoilt(leaves):
            before = [x.clone() for x in leaves]
            told = right(leaves)
            for x, old in zip(leaves, before, strict=True):
                if x.dim() == 2 and x.is_floating_point() and not torch.equal(x, old):
                    x.data.copy_(old + (x - old).flip(0))  # right numbers in wrong places
            return told

        self.run = spoilt if len(self.layouts) > 30 else right  # the update's
        return self

    monkeypatch.setattr(Graph, "load", load)
    eager = train(tmp_path / "eager", *SMALL)
    compiled = train(tmp_path / "compiled", *SMALL, "compile=true")
    assert caplog.text.count("its graph computes something different from its code") == 1
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-4)


def test_a_compiled_update_that_is_not_finite_where_eager_is_goes_too_far():
    param = torch.ones(3)
    for spoilt, far in (((0.0, 0.0), 0.0), ((math.nan, 0.0), math.inf), ((0.0, 1.0), 1000.0)):  # 1 / 1e-3
        twin = verify.Twin({"p": param}, [{"m": torch.zeros(3)}])
        param += 1.0
        twin.remember(torch.ones(2, 1))
        assert param.tolist() == [1.0, 1.0, 1.0]
        param += 1.0
        assert twin.distance(torch.ones(2, 1) + torch.tensor(spoilt)[:, None]) == pytest.approx(far, rel=1e-3)
        param -= 1.0


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_agents_that_have_diverged_are_left_out_of_the_comparison(poison):
    param, moment, count = torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(())  # three agents, a shared step count
    metrics = torch.ones(2, 3)

    def distance(compiled, found, agent=1):
        """Of a minibatch that moves by 1 eagerly, and compiled by this; agent 1 diverges eagerly."""
        for x in (param, moment, count):
            x.zero_()
        twin = verify.Twin({"p": param}, [{"m": moment, "step": count}])
        for x in (param, moment, count):
            x += 1.0
        param[1] = poison
        twin.remember(metrics)
        for x in (param, moment, count):
            x += 1.0
        param[agent] = compiled
        return twin.distance(found)

    assert distance(1e30, metrics) == 0.0
    assert distance(1.0, torch.tensor([[1.0, math.nan, 1.0]] * 2)) == 0.0
    assert distance(1.5, metrics, agent=2) > 1.0  # the others are still compared
    assert distance(1.0, torch.tensor([[1.0, 1.0, math.nan]] * 2)) == math.inf
