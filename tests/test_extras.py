"""A package that is missing is one line; one that is broken says why."""

import importlib

import pytest

from rlexp.errors import ConfigError
from rlexp.extras import needing


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    with pytest.raises(ConfigError) as error, needing("video", "video=true", "; or leave it out"):
        importlib.import_module("no_such_package")
    line = "video=true: needs no_such_package, which is not installed: pip install 'rlexp[video]'; or leave it out"
    assert str(error.value) == line


def test_a_package_that_is_installed_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise ImportError('libGL.so.1: cannot open\\nshared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as error, needing("video", "video=true"):
        importlib.import_module("broken_package")
    assert (
        str(error.value) == "video=true: what it needs cannot be imported: libGL.so.1: cannot open shared object file"
    )


def test_a_module_of_rlexp_that_is_missing_is_a_bug_and_is_raised():
    with pytest.raises(ModuleNotFoundError), needing("video", "video=true"):
        importlib.import_module("rlexp.no_such_module")
