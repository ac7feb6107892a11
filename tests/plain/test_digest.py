import functools

import numpy as np
import pytest
import torch

from rlexp.plain.digest import digest


class Held:
    def __init__(self, a):
        self.a = a

    def get(self):
        return self.a


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


def function_of(a):
    return lambda: a


MAKERS = [
    lambda a: a,
    lambda a: [Held(0), Held(1), Held(a)],
    lambda a: {1: {"b": Slotted(a)}},
    lambda a: functools.partial(max, a),
    lambda a: Held(a).get,
    function_of,
    lambda a: np.r_[np.zeros(5000), a, np.zeros(5000)],
    lambda a: np.array([Held(a), None], object),
    lambda a: torch.full((100,), float(a)),
    lambda a: {a, 100},
]


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_text_for_the_same_and_another_for_others(make):
    kept = [make(1), make(1), make(2)]
    one, same, other = map(digest, kept)
    assert one == same
    assert one != other
    assert len(one) < 100


def test_what_cannot_be_looked_into_is_like_itself_alone():
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert digest([one]) == digest([one])
    assert digest([one]) != digest([other])


def test_circles_come_to_an_end():
    held = Held(None)
    held.a = [held]
    assert digest(held) == digest(held)
