"""Random streams: whose they are, and who may draw from those that all share."""

import random

import numpy as np
import pytest
import torch

from rlexp.errors import ObjectiveError
from rlexp.seeding import curve_seeds, env_seeds, evaluation_seeds, no_global_randomness, seeded


def test_evaluation_seeds_are_apart_from_training_seeds():
    training = {s for seed in range(2000) for s in env_seeds(seed, 16)}
    assert not training & set(evaluation_seeds(200))
    assert not training & set(curve_seeds(200))
    assert not set(evaluation_seeds(1000)) & set(curve_seeds(1000))
    assert curve_seeds(3) == curve_seeds(10)[:3]
    assert len(training) > 31_990  # and neighbouring seeds share none but by chance


def test_streams_that_all_share_are_afterwards_as_they_were():
    def draw():
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

    with seeded(1):
        expected = [draw(), draw()]
    with seeded(1):
        drawn = [draw()]
        with seeded(2):
            draw()
        drawn.append(draw())
    assert drawn == expected


def test_who_draws_is_told_a_way_out_that_it_has():
    for who, way_out in (("the loss", "use policy.rand_like(x) or randn_like(x)"), ("algo.adapt", "streams")):
        with pytest.raises(ObjectiveError) as refused, no_global_randomness(who):
            np.random.rand()  # noqa: NPY002
        assert way_out in str(refused.value)
        assert "Dropout" not in str(refused.value)


def test_the_second_of_two_normal_numbers_which_numpy_holds_back_is_a_draw():
    with seeded(0):
        np.random.randn()  # noqa: NPY002
        with pytest.raises(ObjectiveError, match="NumPy"), no_global_randomness("the loss"):
            np.random.randn()  # noqa: NPY002
