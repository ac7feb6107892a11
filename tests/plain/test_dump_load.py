"""The state of objects as plain data: what is told comes back, what cannot be told is refused, reading runs nothing."""

import collections
import enum
import functools
import logging
import operator
import random
import re
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from rlexp.plain.attributes import HEAD, NotPlainError
from rlexp.plain.dump import dump
from rlexp.plain.load import load


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Point(NamedTuple):
    x: int
    y: Any


class Bag(dict):
    """A dictionary with attributes."""


class Slotted:
    __slots__ = ("a", "unset")


@dataclass
class Thing:
    """Whatever an environment may keep."""

    held: Any = None
    other: Any = None

    def act(self):
        return self.held


@dataclass(frozen=True)
class Frozen:
    numbers: list[int] = field(default_factory=list)


def double(x):
    return 2 * x


def copied(x, live=None):
    thing = Thing(x)
    return load(dump(thing), Thing(live)).held


VALUES = {
    "numbers": [None, True, 0, -(2**200), 1.5, float("inf"), 2 + 3j],
    "texts": ["", "ä\ud800", b"\x00\xff", bytearray(b"ab")],
    "containers": ({1: "a", (2, "b"): [3]}, {4, 5}, frozenset({6}), slice(1, None, 2), range(3)),
    "deque": collections.deque([1, 2, 3], maxlen=3),
    "ordered": collections.OrderedDict(b=1, a=2),
    "counter": collections.Counter("abba"),
    "arrays": [np.arange(6.0).reshape(2, 3), np.array("text"), np.zeros((0, 3), np.uint8), np.float32(2.5)],
    "dtype": np.dtype("<f4"),
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, list | tuple | collections.deque):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_were(name):
    assert same(copied(VALUES[name]), VALUES[name])


def test_an_ordered_dictionary_keeps_its_order_and_a_deque_its_length():
    ordered = collections.OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert list(copied(ordered)) == ["b", "a"]
    assert copied(VALUES["deque"]).maxlen == 3


def test_classes_that_are_there_come_back():
    bag = Bag(a=1)
    bag.more = [2]
    slotted = Slotted()
    slotted.a = 3
    told = [Colour.BLUE, Point(1, [2]), bag, slotted, Frozen([4]), Thing(5)]
    living = [Colour.RED, Point(0, 0), Bag(), Slotted(), Frozen(), Thing()]
    colour, point, new, other, frozen, thing = copied(told, living)
    assert (colour, point, dict(new), new.more, other.a) == (Colour.BLUE, Point(1, [2]), {"a": 1}, [2], 3)
    assert not hasattr(other, "unset")
    assert (frozen.numbers, thing.held) == ([4], 5)
    assert thing is living[-1]  # in place


def test_an_object_that_is_nowhere_yet_is_made_if_its_class_is_known():
    more = copied([Thing(1), Thing(2)], [Thing()])
    assert [thing.held for thing in more] == [1, 2]


def test_one_object_in_two_places_stays_one_and_circles_close():
    shared, thing = [1], Thing()
    thing.held, thing.other = [shared, shared], thing
    again = load(dump(thing), Thing())
    again.held[0].append(2)
    assert again.held[1] == [1, 2]
    assert again.other is again


def test_two_objects_stay_two_where_one_was_living():
    one = Thing(0)
    a, b = copied([Thing(1), Thing(2)], [one, one])
    assert (a.held, b.held) == (1, 2)


def test_code_stays_that_of_the_living():
    thing = Thing([double, np.float32, operator.add, len, logging.getLogger("a"), Thing])
    thing.other = thing.act
    living = Thing(list(thing.held))
    living.other = living.act
    again = load(dump(thing), living)
    assert again.held == thing.held
    assert again.other() is again.held


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: np.random.default_rng(seed),
        lambda seed: np.random.Generator(np.random.MT19937(seed)),
        lambda seed: np.random.RandomState(seed),
        lambda seed: random.Random(seed),
        lambda seed: torch.Generator().manual_seed(seed),
    ],
)
def test_random_streams_go_on(make):
    def draw(stream):
        if isinstance(stream, torch.Generator):
            return torch.rand(3, generator=stream).tolist()
        return [stream.random() for _ in range(3)]

    stream = make(1)
    draw(stream)
    again = copied(stream, make(2))
    if hasattr(stream, "spawn"):
        assert draw(stream.spawn(1)[0]) == draw(again.spawn(1)[0])
    assert draw(again) == draw(stream)


def counter():
    count = 0

    def tick():
        nonlocal count
        count += 1
        return count

    return tick


class OwnHash:
    def __hash__(self):
        return 1


class Inherits(threading.Thread):
    """Keeps locks."""


UNTOLD = [counter(), iter([1]), functools.partial(double, 1), memoryview(b"a"), Inherits(), torch.nn.Linear(1, 1)]
UNTOLD += [
    re.IGNORECASE | re.MULTILINE,
    {OwnHash(): 1},
    {(1, OwnHash())},
    np.zeros(1, [("a", "f4")]),
    torch.zeros(1, requires_grad=True),
]


@pytest.mark.parametrize("value", UNTOLD, ids=lambda value: type(value).__name__)
def test_what_cannot_be_told_is_refused_when_it_is_written(value):
    with pytest.raises(NotPlainError):
        dump(Thing(value))


# Hostile samples: tables as text, read into a Thing -------------------------------------------------------------------

THING = '["object", "test_dump_load:Thing", {"held": [1]}]'
HOSTILE = [
    '["code", "os:system"]',
    '["code", "posix:system"]',
    '["code", "test_dump_load:subprocess.Popen"]',
    '["code", "subprocess"]',
    '["code", "numpy:memmap"]',
    '["code", "numpy:vectorize"]',
    '["code", "test_dump_load:OwnFile"]',
    '["object", "test_dump_load:Thing", {"__class__": [0]}]',
    '["object", "test_dump_load:Thing", {"__array_interface__": 1}]',
    '["object", "test_dump_load:Thing", {"act": 1}]',
    '["random state", [2]], ["container", "builtins:dict", [["bit_generator", "MT19937"], ["state", [3]]], {}], '
    '["container", "builtins:dict", [["pos", 1000000]], {}]',
    '["object", "subprocess:Popen", {"args": "touch gotcha"}]',
    '["object", "test_dump_load:subprocess.Popen", {"args": "touch gotcha"}]',
    '["object", "test_dump_load:OwnFile", {"path": "gotcha"}]',
    '["object", "numpy:memmap", {"filename": "gotcha", "mode": "w+"}]',
    '["object", "builtins:object", {}]',
    '["object", "threading:Thread", {}]',
    '["container", "subprocess:Popen", ["touch gotcha"], {}]',
    '["container", "test_dump_load:Thing", [], {}]',
    '["container", "collections:defaultdict", [], {"factory": [2]}], ["code", "os:getcwd"]',
    '["enum", "subprocess:Popen", "touch gotcha"]',
    '["enum", "test_dump_load:Thing", "__init__"]',
    '["enum", "test_dump_load:Colour", "__class__"]',
    '["method", [0], "os:system"]',
    '["method", [0], "test_dump_load:Thing.__init__"]',
    '["bit generator", "Popen", null, null]',
    '["bit generator", "PCG64", {"a": 1}, null]',
    '["pickle", [0, 4]]',
    '["array", "O", [1], [0, 8]]',
    '["array", "<f8", [4], [0, 32]]',
    '["array", "<f8", [1], [-8, 8]]',
    '["array", "<f8", [1000000000000], [0, 0]]',
    '["scalar", "|O8", [], [0, 8]]',
    '["objects", [2], [1]]',
    '["container", "builtins:dict", [[[0], 1]], {}]',
    '["container", "builtins:list", [[9]], {}]',
    '["object", "test_dump_load:Thing", {"held": [0]}, "more"]',
    '["nothing of the kind"]',
    "[]",
    "{}",
    "7",
]


class OwnFile:
    """A class of a module that environments are of, with side effects when it goes."""

    def __init__(self, path):
        self.path = path

    def __del__(self):
        open(self.path, "w").close()


@pytest.mark.parametrize("node", HOSTILE)
def test_hostile_tables_make_nothing_run(tmp_path, monkeypatch, node):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    table = f'{{"root": [0], "nodes": [{THING}, {node}]}}'.encode()
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever it is, the checkpoint is refused by it)
        load(len(table).to_bytes(HEAD, "little") + table, Thing())
    assert not isinstance(caught.value, pytest.fail.Exception)
    assert not list(tmp_path.iterdir())


def test_the_harness_of_hostile_samples_reads_what_is_well_formed():
    table = f'{{"root": [0], "nodes": [{THING}, ["container", "builtins:list", [7], {{}}]]}}'.encode()
    assert load(len(table).to_bytes(HEAD, "little") + table, Thing()).held == [7]


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_refused_or_read_as_other_values(tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)
    data = bytearray(dump(Thing([Colour.RED, np.arange(3.0), {1: (2, "a")}, np.random.default_rng(0)])))
    for _ in range(50):
        spoilt = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        try:
            load(bytes(spoilt[: rng.randint(0, len(spoilt))] if rng.random() < 0.3 else spoilt), Thing())
        except (MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except Exception:
            continue
    assert not list(tmp_path.iterdir())
