"""Words of all commands but `train`."""

import pytest

from rlexp.commands import boolean, names, parse, positive
from rlexp.errors import ConfigError

KNOWN = {"what": names, "yes": boolean, "episodes": positive, "out": str}


def test_words_are_folders_and_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "what=a").mkdir()  # as jobs are named
    words = ["s", "what=a", "what=b, c,,b", "yes=true", "episodes=3", "out=x=y"]
    settings = {"what": ["b", "c"], "yes": True, "episodes": 3, "out": "x=y"}
    assert parse(words, KNOWN, "a folder") == (["s", "what=a"], settings)
    assert parse(["what=a"], KNOWN) == ([], {"what": ["a"]})  # a command that takes no folder
    assert parse(["s", f"out={'x' * 300}"], KNOWN, "a folder")[1] == {"out": "x" * 300}  # longer than any file's name


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("wat=x", "wat=x: no such setting or folder; did you mean what?"),
        ("zzz=x", "zzz=x: no such setting or folder; known: episodes, out, what, yes"),
        ("yes=x", "yes=x: must be true or false"),
        ("episodes=0", "episodes=0: must be a whole number of at least 1"),
        ("episodes=1.5", "episodes=1.5: must be a whole number of at least 1"),
        ("yes=true", "name a study: a folder"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(word, told):
    with pytest.raises(ConfigError) as error:
        parse([word], KNOWN, "a folder")
    assert str(error.value) == told


def test_a_setting_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r"^yes=false: yes= is given twice; leave one out$"):
        parse(["s", "yes=true", "yes=false"], KNOWN, "a folder")
