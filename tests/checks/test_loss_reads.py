"""What a loss reads besides tensors may not change once training has begun; tensors may adapt."""

import pytest
from helpers import have_same_weights, train, weights_of
from strangers import SMALL, algo
from torch.testing import assert_close

from rlexp.errors import ObjectiveError


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize(("name", "path"), [("Halved", "c"), ("HalvedInside", r"numbers\['c'\]")])
def test_a_number_that_a_loss_reads_may_not_change(tmp_path, traced, name, path, num_seeds, compiled):
    settings = (*SMALL, algo(name), f"num_seeds={num_seeds}", f"compile={compiled}")
    with pytest.raises(ObjectiveError, match=rf"algo\.{path}: has changed from 1\.0 to 0\.5.* Scheduled.*coefficients"):
        train(tmp_path, *settings)


def test_a_setting_that_the_mechanism_reads_may_not_change(tmp_path):
    with pytest.raises(ObjectiveError, match=r"algo\.max_grad_norm: has changed from 0\.5 to 1\.0"):
        train(tmp_path, *SMALL, algo("LoosensClipping"))


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["Adaptive", "HalvedTensor"])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_tensors_adapt_alike_compiled_and_not(tmp_path, traced, name, num_seeds):
    settings = (*SMALL, algo(name), f"num_seeds={num_seeds}")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    assert eager.algo.c.max() == 2.0**-8
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-4)
    fixed = train(tmp_path / "fixed", *SMALL, "algo=ppo", f"num_seeds={num_seeds}")
    assert not have_same_weights(eager, fixed)


def test_what_a_loss_does_not_read_may_change_and_what_stays_may_be_read(tmp_path):
    assert train(tmp_path, *SMALL, algo("Counting"), "num_seeds=2").algo.updates == 8


def test_a_property_over_what_is_scheduled_may_be_read(tmp_path):
    train(tmp_path, *SMALL, algo("Derived"), "algo.vf_coef=[0.5,0.1]")
