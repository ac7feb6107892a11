"""A loss that is another one from call to call is refused."""

import pytest
from helpers import train
from strangers import SMALL, algo

from rlexp.errors import ObjectiveError


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_random_numbers_in_a_loss_are_refused(tmp_path, num_seeds):
    with pytest.raises(
        ObjectiveError, match=r"the loss draws random numbers \((rand|under vmap)\), .*policy\.rand_like"
    ):
        train(tmp_path, *SMALL, algo("Noisy"), f"num_seeds={num_seeds}")


@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize(
    ("name", "what"),
    [("OfNumPy", r"draws from self\.rng"), ("CountsCalls", r"writes self\.calls, which is lost")],
)
def test_a_loss_that_differs_from_call_to_call_is_refused(tmp_path, name, what, num_seeds):
    with pytest.raises(ObjectiveError, match=rf"strangers\.py:\d+: {name}\.loss: {what}"):
        train(tmp_path, *SMALL, algo(name), f"num_seeds={num_seeds}")


def test_random_numbers_in_other_hooks_are_refused(tmp_path):
    with pytest.raises(ObjectiveError, match=r"algo\.replay draws random numbers \(of NumPy or Python\)"):
        train(tmp_path, *SMALL, algo("DrawsInReplay"))
