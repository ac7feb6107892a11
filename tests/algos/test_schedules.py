import pytest

from rlexp.algos.schedules import Schedule
from rlexp.errors import ConfigError


def test_a_number_is_constant_and_a_list_is_piecewise_linear():
    assert Schedule(0.2)(0.0) == Schedule(0.2)(1.0) == 0.2
    assert Schedule([0.2, 0])(0.25) == pytest.approx(0.15)
    # knots at 0, .5, 1
    assert [Schedule([1, 1, 0])(p) for p in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("value", ["0.2", [], [0.1, "x"], None, True, float("nan"), [0.1, float("inf")]])
def test_anything_else_is_refused(value):
    with pytest.raises(ConfigError, match="not a schedule"):
        Schedule(value)
