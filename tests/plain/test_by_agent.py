"""State of several agents, divided and joined."""

import pytest
import torch

from rlexp.plain.by_agent import join_agents, select_agents


def state(first, count=7):
    """Of two agents, whose numbers begin with `first`."""
    rows = torch.arange(2.0) + first
    return {
        "plain": count,
        "scalar": torch.tensor(count),
        "rows": rows,
        "blocks": rows.repeat_interleave(3)[:, None],
        "each": [torch.full((3,), first + 10.0), torch.full((5,), first + 11.0)],
        "names": ["a", "b", "c"],
        "tuple": (rows + 30, "text"),
    }


def test_each_tensor_is_divided_wherever_it_is():
    second = select_agents(state(0), slice(1, 2), 2)
    assert second["plain"] == 7
    assert second["scalar"].shape == ()
    assert second["rows"].tolist() == [1]
    assert second["blocks"].tolist() == [[1], [1], [1]]
    assert [x.tolist() for x in second["each"]] == [[11] * 5]
    assert second["names"] == ["a", "b", "c"]
    assert second["tuple"][0].tolist() == [31]


def test_joining_undoes_dividing():
    whole = state(0)
    joined = join_agents([select_agents(whole, slice(k, k + 1), 2) for k in range(2)], equal=True)
    assert repr(joined) == repr(whole)
    both = join_agents([state(0), state(5)], equal=True)
    assert [x[0].item() for x in both["each"]] == [10, 11, 15, 16]


def test_what_is_not_per_agent_cannot_be_divided():
    with pytest.raises(ValueError, match=r"shape \(3,\) is not per agent, of which there are 2"):
        select_agents((torch.zeros(3),), slice(0, 1), 2)
    with pytest.raises(ValueError, match="a list of 3 that holds tensors has not one entry for each of 2 agents"):
        select_agents([{"x": torch.zeros(2)}, 1, 2], slice(0, 1), 2)


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"n": 1}, {"n": 2}, "share a value that differs between them: 1, 2"),
        ({"n": torch.tensor(1.00001)}, {"n": torch.tensor(1.00002)}, "share a value that differs"),
        ({"n": [1, 2]}, {"n": [1, 3]}, "share a value that differs"),
        ({"a": 1}, {}, "different entries"),
    ],
)
def test_agents_that_cannot_be_joined_are_told(one, other, told):
    with pytest.raises(ValueError, match=told):
        join_agents([one, other], equal=True)


def test_without_equal_what_is_shared_is_the_firsts():
    assert join_agents([{"n": 1}, {"n": 2}]) == {"n": 1}
