"""A package that is missing is one line; one that is broken says why."""

import importlib
import re

import pytest

from rlexp import extras
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
    why = "what it needs cannot be imported (ImportError: libGL.so.1: cannot open shared object file)"
    assert str(error.value) == f"video=true: {why}: pip install --force-reinstall 'rlexp[video]'"


@pytest.mark.parametrize("content", ["raise RuntimeError('no GL')", "def", "import os; os.nothing"])
def test_whatever_breaks_a_package_it_is_named(tmp_path, monkeypatch, content):
    package = tmp_path / "site-packages" / "scipyy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(ConfigError) as error, needing("compare", ""):
        importlib.import_module("scipyy")
    assert re.match(r"needs scipyy, which cannot be imported \(\w+Error: .+\): pip install", str(error.value))
    assert "\n" not in str(error.value)


def test_a_package_that_quits_or_lacks_a_module_of_its_own_is_broken_not_missing(tmp_path, monkeypatch):
    (tmp_path / "quits.py").write_text("raise SystemExit(3)")
    (tmp_path / "lacks.py").write_text("import json.nothing")
    monkeypatch.syspath_prepend(tmp_path)
    for module, why in (("quits", "sys.exit(3) was called"), ("lacks", "ModuleNotFoundError: No module named 'json.n")):
        with pytest.raises(ConfigError, match=re.escape(f"x=1: needs {module}, which cannot be imported ({why}")):
            extras.require(module, "video", "x=1")


def test_a_bug_of_rlexp_itself_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "PACKAGE", tmp_path)
    (tmp_path / "buggy.py").write_text("raise RuntimeError('of ours')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="of ours"), needing("compare", ""):
        importlib.import_module("buggy")


def test_a_module_of_rlexp_that_is_missing_is_a_bug_and_is_raised():
    with pytest.raises(ModuleNotFoundError), needing("video", "video=true"):
        importlib.import_module("rlexp.no_such_module")
