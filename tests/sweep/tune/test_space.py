"""What is typed as a sweep becomes a search space, and what is drawn comes back as Hydra reads it."""

import math
import random

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from searches import PARSER, refusal, searched

from rlexp.sweep.tune.space import as_overrides, describe, grid, grid_size, space


def values_of(*words):
    return [override.value() for override in PARSER.parse_overrides(list(words))]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("interval(-1e-3,2)", FloatDistribution(-0.001, 2)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("tag(log,int(interval(1,512)))", IntDistribution(1, 512, log=True)),
        ("int(tag(log,interval(1,512)))", IntDistribution(1, 512, log=True)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(1,10,3)", IntDistribution(1, 7, step=3)),  # 1 4 7
        ("range(10,1,-3)", IntDistribution(4, 10, step=3)),  # 10 7 4
        ("range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("range(0,0.9,0.3)", FloatDistribution(0, 0.9, step=0.3)),  # Hydra lists 3 · 0.2999… < 0.9000…2 too
        ("float(range(1,4))", FloatDistribution(1, 3, step=1)),
        ("2,4.5,true,null", CategoricalDistribution([2, 4.5, True, None])),
        ("tag(search,choice(2,4.5))", CategoricalDistribution([2, 4.5])),
        ("tag(search,range(4))", IntDistribution(0, 3)),
        ("relu,'a b'", CategoricalDistribution(["relu", "'a b'"])),
        ("choice([1e-3,0],[3e-4,0])", CategoricalDistribution(["[0.001,0]", "[0.0003,0]"])),
        ("choice({a:1},x)", CategoricalDistribution(["{a:1}", "x"])),
        ("0.1,inf", CategoricalDistribution([0.1, "inf"])),  # JSON, which the dashboard reads, has no infinity
        ("1,1.0,true", CategoricalDistribution(["1", "1.0", "True"])),  # equal to Python
        ("1,2,1", CategoricalDistribution([1, 2])),
        ("sort(3,1,2)", CategoricalDistribution([1, 2, 3])),
    ],
)
def test_a_sweep_is_a_distribution(value, expected):
    (found,) = searched(f"a={value}").values()
    assert found == expected
    assert "\n" not in describe(found)


def test_what_is_no_sweep_is_fixed_and_the_last_of_a_key_holds():
    words = ["a=interval(0,1)", "b=1,2", "c=[1,2]", "~d", "e=x y", "+a@p.q=1,2", "a=5", "++b=3,4", "f=glob(*)", "f=1"]
    found, fixed = space(words, PARSER)
    assert found == {"++b": CategoricalDistribution([3, 4]), "+a@p.q": CategoricalDistribution([1, 2])}
    assert fixed == ["a=5", "c=[1,2]", "~d", "e=x y", "f=1"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("tag(log,interval(0,1))", "0.0 has no logarithm; start above 0"),
        ("tag(log,int(interval(0.5,8)))", "0 has no logarithm; start above 0"),
        ("interval(1,1)", "is empty; give a lower and a higher bound"),
        ("interval(2,1)", "is empty"),
        ("interval(0,inf)", "is empty"),
        ("interval(nan,1)", "is empty"),
        ("int(interval(0.2,0.8))", "is empty"),
        ("tag(log2,interval(1,2))", "unknown tag log2; there is log"),
        ("tag(log,range(1,9))", "cannot have the tag log; tags are log, of intervals"),
        ("tag(log,choice(1,2))", "cannot have the tag log; tags are log, of intervals"),
        ("range(5,1)", "is empty; the stop must be beyond the start"),
        ("range(0,1,0)", "has no end"),
        ("range(0,inf)", "has no end"),
        ("shuffle(1,2)", "the sampler decides the order; leave shuffle out"),
        ("shuffle(range(1,9))", "the sampler decides the order"),
        ("glob(*)", "list the names themselves, as in key=a,b,c"),
    ],
)
def test_a_sweep_that_cannot_be_searched_is_refused_in_one_line(value, reason):
    assert refusal(searched, f"lr={value}").startswith(f"lr={value}: {reason}")


@pytest.mark.parametrize("word", ["lr=interval(1)", "lr=[1", "lr"])
def test_what_hydra_cannot_read_is_refused_in_one_line(word):
    assert word in refusal(searched, word)


def test_a_range_lists_what_hydra_lists():
    rng = random.Random(0)
    for _ in range(300):
        start, step = rng.choice([0, 1, 0.1, -0.3, 0.95]), rng.choice([1, 3, 0.1, 0.3, 0.01, 0.25])
        stop = round(start + step * rng.randint(1, 20) + rng.choice([0, 0.05]), 3)
        word = f"range({start},{stop},{step})"
        (override,) = PARSER.parse_overrides([f"a={rng.choice([word, f'float({word})'])}"])
        listed = list(override.sweep_iterator())
        found = searched(override.input_line)
        (values,) = grid(found).values()
        assert [word for value in values for word in as_overrides({"a": value}, found)] == [f"a={x!r}" for x in listed]
        (distribution,) = found.values()
        assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
        assert grid_size(found) == len(listed)


def test_params_come_back_as_hydra_reads_them():
    rng = random.Random(0)
    floats = [10 ** rng.uniform(-12, 12) * rng.choice([-1, 1]) for _ in range(300)] + [0.0, 1e22, 1.0, 5e-324, math.inf]
    for value in [*floats, 0, -7, 10**12, True, False, None]:
        (word,) = as_overrides({"a.b": value})
        (read,) = values_of(word)
        assert read == value
        assert type(read) is type(value)
    assert as_overrides({"a": np.float64(0.1), "b": np.int64(3)}) == ["a=0.1", "b=3"]


@pytest.mark.parametrize(
    "choice",
    [
        *("relu", "a/b.c-d", "'1'", "'true'", '"null"', "'nan'", "'a,b=c'", r"'it\'s'", r"a\,b", "''"),
        *("[1,[a,'1']]", "{a:{b:1e-3}}", "${env.id}", "1e-3", "007", "1_000", "nan", "-inf"),
    ],
)
@pytest.mark.parametrize("form", ["choice({},other)", "{},other"])
def test_a_choice_comes_back_as_hydra_reads_it(choice, form):
    (override,) = PARSER.parse_overrides(["+k=" + form.format(choice)])
    (expected,) = values_of(f"+k={choice}")
    (found,) = searched(override.input_line).values()
    (word,) = as_overrides({"+k": found.choices[0]})
    (read,) = PARSER.parse_overrides([word])
    assert not read.is_sweep_override()
    assert read.get_key_element() == "+k"
    np.testing.assert_equal(read.value(), expected)


def test_steps_are_written_as_hydra_lists_them():
    found = searched("a=range(0,1,0.1)")
    assert 3 * 0.1 == 0.30000000000000004
    assert as_overrides({"a": 3 * 0.1}, found) == ["a=0.3"]
    assert as_overrides({"a": 3 * 0.1}) == ["a=0.30000000000000004"]


def test_drawn_numbers_have_six_digits_within_their_bounds():
    found = {"lr": FloatDistribution(1.23456789e-5, 1e-2, log=True)}
    assert as_overrides({"lr": 0.00031622776601683794}, found) == ["lr=0.000316228"]
    assert as_overrides({"lr": 1.23456789e-5}, found) == ["lr=1.23457e-05"]
    assert as_overrides({"lr": 1.2345678901e-5}, {"lr": FloatDistribution(0, 1.234567e-5)}) == ["lr=1.234567e-05"]
