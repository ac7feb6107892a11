"""State of several agents, divided and joined."""

import collections

import pytest
import torch

from rlexp.plain.by_agent import EACH, LIST, SHARED, Division, join_agents, select_agents


def state(*agents):
    """Of agents, by number."""
    rows = torch.tensor(agents, dtype=torch.float32)
    return {
        "plain": 7,
        "scalar": torch.tensor(7),
        "rows": rows,
        "blocks": rows.repeat_interleave(3)[:, None],
        "shared": torch.ones(4, 2),
        "each": [torch.full((3 + agent,), float(agent)) for agent in agents],
        "empty": [[] for _ in agents],
        "names": ["a", "b"],
        "tuple": (rows + 30, "text", [rows + 40]),
        "counter": collections.Counter(a=2),
    }


DIVISION = Division.found([(state(0), state(0, 1))], 1)


def same(one, other):
    return repr(one) == repr(other)


def test_the_division_is_found_from_two_numbers_of_agents():
    parts = {kind: {path for path, found in DIVISION.kinds.items() if found == kind} for kind in (EACH, SHARED, LIST)}
    assert parts[EACH] == {("each",), ("empty",)}
    assert parts[SHARED] == {("shared",)}
    assert parts[LIST] == {("names",), ("tuple",), ("tuple", 2)}
    assert not DIVISION.flaw


@pytest.mark.parametrize("agents", [2, 3, 4])
def test_dividing_gives_what_an_agent_alone_has_and_joining_undoes_it(agents):
    whole = state(*range(agents))
    parts = [select_agents(whole, slice(k, k + 1), agents, DIVISION) for k in range(agents)]
    assert all(same(part, state(k)) for k, part in enumerate(parts))
    assert isinstance(parts[0]["counter"], collections.Counter)
    assert same(join_agents(parts, DIVISION, equal=True), whole)
    assert same(join_agents(parts[::-1], DIVISION, equal=True), state(*reversed(range(agents))))


def test_populations_are_divided_likewise():
    division = Division.found([(state(0, 1), state(0, 1, 2, 3))], 2)
    parts = [select_agents(state(0, 1, 2, 3), part, 4, division) for part in (slice(0, 2), slice(2, 4))]
    assert [same(part, state(*agents)) for part, agents in zip(parts, [(0, 1), (2, 3)], strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("once", "twice", "told"),
    [
        (
            {"x": torch.zeros(8, 1)},
            {"x": torch.zeros(8, 2)},
            r"x has the shapes \(8, 1\) and \(8, 2\) of 1 agent",
        ),
        ({"a": 1}, {"a": 1, "b": 2}, "it has other entries of 1 agent and of 2: a and a, b"),
        ({"x": [1]}, {"x": [1, 2, 3]}, "its part x has 1 and 3 entries of 1 agent and of 2"),
        ({"n": 1}, {"n": 2}, "its part n is shared by all agents, and depends on how many there are"),
        ({"x": torch.ones(3)}, {"x": torch.zeros(3)}, "its part x is shared by all agents, and depends on"),
    ],
)
def test_what_cannot_be_divided_is_told(once, twice, told):
    division = Division.found([(once, twice)], 1)
    with pytest.raises(ValueError, match=told):
        select_agents(twice, slice(0, 1), 2, division)
    assert select_agents(twice, slice(0, 2), 2, division) is twice


@pytest.mark.parametrize(
    ("first", "later", "told"),
    [
        ((torch.zeros(1), torch.zeros(1)), (torch.ones(1), torch.ones(2)), "is one for all agents at first and rows"),
        (([0], [0]), ([0], [0, 0]), "is a list for all agents at first and an entry for each agent later"),
        (({}, {}), ({0: 1.0}, {0: 1.0, 1: 1.0}), "has other entries of 1 agent and of 2"),
    ],
)
def test_a_part_that_is_of_another_kind_later_is_told(first, later, told):
    division = Division.found([first, later], 1)
    with pytest.raises(ValueError, match=told):
        select_agents(later[1], slice(0, 1), 2, division)


def test_a_list_that_begins_empty_is_what_it_is_once_it_has_grown():
    first, later = ([], []), ([torch.zeros(1)], [torch.zeros(2)])
    division = Division.found([first, later], 1)
    (kept,) = select_agents([torch.tensor([3.0, 4.0])], slice(1, 2), 2, division)
    assert kept.tolist() == [4.0]
    division = Division.found([first, ([0.5], [0.5, 0.7])], 1)
    assert select_agents([3.0, 4.0], slice(1, 2), 2, division) == [4.0]


def test_one_entry_per_population_is_no_row_of_each_agent():
    division = Division.found([({"x": torch.zeros(1, 3)}, {"x": torch.zeros(2, 3)})], 2)
    assert "its part x has the shapes (1, 3) and (2, 3) of 2 agents and of 4" in division.flaw


def test_what_is_not_a_number_is_equal_to_itself():
    shared = {"x": torch.tensor([1.0, float("nan")]), "n": float("nan")}
    division = Division.found([(shared, {"x": shared["x"].clone(), "n": float("nan")})], 1)
    assert not division.flaw
    assert join_agents([shared, {"x": shared["x"].clone(), "n": float("nan")}], division, equal=True) is not None


@pytest.mark.parametrize(
    "late", [torch.zeros(2), torch.zeros(2, 3), [torch.zeros(2)], [1.0, 2.0], {"a": 1}, {0: torch.tensor(1.0)}]
)
@pytest.mark.parametrize("first", [None, {}, []])
def test_what_comes_later_may_be_anybodys_and_is_told(first, late):
    division = Division.found([({"x": first}, {"x": first})] * 2, 1)
    with pytest.raises(ValueError, match=r"its part x\S* was not there, or was of another kind, when the objective"):
        select_agents({"x": late}, slice(0, 1), 2, division)


def test_rlexps_own_classes_keep_rows_of_each_agent_whenever_they_come():
    parts = select_agents({"x": torch.arange(4), "late": [torch.arange(2)]}, slice(1, 2), 2, Division())
    assert (parts["x"].tolist(), parts["late"][0].tolist()) == ([2, 3], [1])
    with pytest.raises(ValueError, match=r"its part x has the shape \(3,\), not that of 2 agents' rows"):
        select_agents({"x": torch.zeros(3)}, slice(0, 1), 2, Division())


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (lambda n: torch.arange(float(n)), [1.0]),  # of each agent
        (lambda n: torch.tensor([5.0, 6.0]), [5.0, 6.0]),  # shared
        (lambda n: [float(k) for k in range(n)], [1.0]),
        (lambda n: "same", "same"),
    ],
)
def test_a_list_that_grows_has_entries_of_one_kind(entry, wanted):
    pairs = [([entry(1)] * k, [entry(2)] * k) for k in range(3)]
    part = select_agents([entry(2)] * 9, slice(1, 2), 2, Division.found(pairs, 1))
    plain = [x.tolist() if isinstance(x, torch.Tensor) else x for x in part]
    assert plain == [wanted] * 9


def test_an_entry_of_a_list_of_several_kinds_has_its_own():
    once, twice = ([torch.zeros(1), torch.ones(3)], [torch.zeros(2), torch.ones(3)])
    division = Division.found([(once, twice)], 1)
    assert [len(x) for x in select_agents(twice, slice(0, 1), 2, division)] == [1, 3]
    with pytest.raises(ValueError, match=r"its part 2 was not there"):
        select_agents([*twice, torch.zeros(2)], slice(0, 1), 2, division)


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0, 2.0, 6.0])),  # time first
        ([1.0], [5.0, 1.0]),
        ([{"w": torch.ones(2)}], [{"w": torch.ones(2) + 0.1}, {"w": torch.ones(2)}]),
    ],
)
def test_rows_that_are_not_the_first_agents_are_told(once, twice):
    division = Division.found([({"x": once}, {"x": twice})], 1)
    assert "its part x does not begin with the first agent's part, or that depends on how many" in division.flaw
    division = Division.found([({"x": once}, {"x": [*once, *once] if isinstance(once, list) else once.repeat(2)})], 1)
    assert not division.flaw


def test_an_entry_that_was_each_agents_stays_so():
    with pytest.raises(ValueError, match="its part x began with an entry for each agent and has 3 of 2"):
        select_agents({"x": [1, 2, 3]}, slice(0, 1), 2, Division({("x",): EACH}))


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"n": 1}, {"n": 2}, "its part n is shared by all agents, and differs"),
        ({"n": torch.tensor(1.00001)}, {"n": torch.tensor(1.00002)}, "its part n is shared"),
        ({"n": [1, 2]}, {"n": [1, 3]}, "its part n.1 is shared"),
        ({"n": [1, 2]}, {"n": [1]}, "its part n has other lengths"),
        ({"a": 1}, {}, "it has other entries"),
        ({"x": torch.zeros(1)}, {"x": None}, "its part x is a plain value in one agent and a tensor in another"),
        ({"x": None}, {"x": {}}, "its part x is a dictionary in one agent and a plain value in another"),
    ],
)
def test_agents_that_cannot_be_joined_are_told(one, other, told):
    with pytest.raises(ValueError, match=told):
        join_agents([one, other], equal=True)


def test_without_equal_what_is_shared_is_the_firsts():
    assert join_agents([{"n": 1}, {"n": 2}]) == {"n": 1}
