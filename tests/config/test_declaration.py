"""What a study declares: which measures and margins are valid, and what edited files say."""

import re

import pytest
from helpers import compose_config

from rlexp import build
from rlexp.config.declaration import PRIMARY, Declared
from rlexp.errors import ConfigError

MARGINS = {"margin=5%": "5%", "margin=2.5%": "2.5%", "margin=10": 10, "margin=1e-2": 0.01, "margin=null": None}


@pytest.mark.parametrize("word", MARGINS)
def test_a_margin_is_a_number_or_a_share(word):
    cfg = compose_config("study=x", word)
    build.check(cfg)
    assert cfg.margin == MARGINS[word]


@pytest.mark.parametrize("word", ["0", "-1", "nan", "inf", "0%", "100%", "-5%", "five", "'5'", "5%%"])
def test_another_margin_is_refused_in_one_line(word):
    with pytest.raises(ConfigError, match=r"^margin=\S+: must be a positive number in the score's units, a percentage"):
        build.check(compose_config("study=x", f"margin={word}"))


def test_an_unknown_measure_is_refused_with_the_nearest():
    for name in PRIMARY:
        build.check(compose_config("study=x", f"primary={name}", "evaluation.every=100"))
    with pytest.raises(ConfigError, match=r"^primary=evalution: must be one of .*; did you mean evaluation\?$"):
        build.check(compose_config("study=x", "primary=evalution"))


def test_a_measure_that_no_run_would_have_is_refused():
    words = ("study=x", "primary=evaluation_sampled")
    with pytest.raises(ConfigError, match=r"^primary=evaluation_sampled: .*; set evaluation\.every$"):
        build.check(compose_config(*words))
    build.check(compose_config(*words, "seed=1000"))  # a tuning's trial, which nothing compares


def test_a_share_is_of_the_span_from_no_skill_to_mastery():
    assert Declared(margin="5%").margin_within((-500.0, -100.0)) == pytest.approx(20)  # .05 · 400
    assert Declared(margin="5%").margin_within(None) is None
    assert Declared(margin=7).margin_within((0.0, 1.0)) == Declared(margin=7).margin_within(None) == 7
    assert Declared().margin_within((0.0, 1.0)) is None


@pytest.mark.parametrize("declared", [Declared(), Declared("area", "5%"), Declared("final", 3.0, (None, 500.0))])
def test_an_entry_is_read_as_it_was_written(declared):
    assert Declared.read(declared.entry) == declared


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ([], "declared is [], not an object"),
        ({}, "declared.primary=None is none of evaluation, "),
        ({"primary": ["final"]}, "declared.primary=['final'] is none of"),
        ({"primary": "final", "margin": [1]}, "declared.margin=[1] must be a positive number"),
        ({"primary": "final", "margin": True}, "declared.margin=True must be a positive number"),
        ({"primary": "final", "limits": "ab"}, "declared.limits=ab are not [low, high]"),
        ({"primary": "final", "limits": [2, 1]}, "declared.limits=[2, 1] are not [low, high]"),
    ],
)
def test_an_edited_entry_is_told(entry, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        Declared.read(entry)
