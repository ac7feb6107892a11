"""Which modules a module imports, however it does."""

import pytest

from rlexp.provenance import modules, sources


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nK = importlib.import_module('a_pkg.k').K\n",
        "from importlib import import_module\nK = import_module('.k', __package__).K\n",
        "K = __import__('a_pkg.k', fromlist=['K']).K\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    K: float\nelse:\n    from a_pkg.k import K\n",
        "import typing\nif not typing.TYPE_CHECKING:\n    from .k import K\n",
        "def late():\n    from . import k\n",
        "import importlib\nK = importlib.import_module(name='a_pkg.k').K\n",
        "for n in ('.no', '.k'):\n    import_module(n, __package__)\n",
        "def late(act='a_pkg.k.K'):\n    return instantiate({'_target_': act})\n",
        "try:\n    from a_pkg.k import K\nexcept ImportError:\n    K = 1\n",
        "import a_pkg.lazy\n",
        "from a_pkg.inits import K\n",
        "import link\n",
        "import spaced.inner\n",
    ],
)
def test_imports_are_followed_however_they_are_written(write, text):
    folder = write(
        {
            "a_pkg/__init__.py": "",
            "a_pkg/own.py": text,
            "a_pkg/k.py": "K = 1.0\n",
            "a_pkg/lazy/__init__.py": "import importlib\ndef __getattr__(n):\n    if n in ('k2',): return 1\n",
            "a_pkg/lazy/k2.py": "from a_pkg.k import K\n",
            "a_pkg/inits/__init__.py": "from ..k import K\n",
            "elsewhere/real_v1.py": "import a_pkg.k\n",
            "spaced/inner.py": "import a_pkg.k\n",
        }
    )
    (folder / "link.py").symlink_to(folder / "elsewhere" / "real_v1.py")
    assert "a_pkg.k" in modules.closure(["a_pkg.own"])


def test_what_type_checkers_alone_see_what_is_installed_and_what_is_registered_does_not_count(write):
    text = "from typing import TYPE_CHECKING\nimport pytest, json, torch\nif TYPE_CHECKING:\n    from b_pkg import k\n"
    text += "def f():\n    'b_pkg.k'\n    return '.k', 'b_pkg.k:K', 'pytest.raises', '1.5', 'no.such'\n"
    text += "register('K-v0', entry_point='b_pkg.k:K', kwargs={'kind': 'b_pkg.k.K'})\n"
    write({"b_pkg/__init__.py": "", "b_pkg/own.py": text, "b_pkg/k.py": ""})
    assert set(modules.closure(["b_pkg.own"])) == {"b_pkg", "b_pkg.own"}
    assert "pytest" in modules.closure(["pytest"])  # unless it is what a config names


def test_a_package_that_lists_its_modules_does_not_make_each_a_part_of_the_others(write):
    init = "from zoo.a import A\nfrom zoo.b import B\nfrom zoo.patch import patch\npatch()\nALL = 'zoo.b.B'\n"
    write({"zoo/__init__.py": init, "zoo/a.py": "A = 1", "zoo/b.py": "B = 1", "zoo/patch.py": "def patch(): pass\n"})
    write({"through.py": "from zoo import A\n"})
    assert set(modules.closure(["zoo.a"])) == {"zoo", "zoo.a", "zoo.patch"}  # which its own code uses
    assert set(modules.closure(["through"])) == {"through", "zoo", "zoo.a", "zoo.b", "zoo.patch"}


def test_a_package_uses_what_it_imports_under_another_name(write):
    write({"as_pkg/__init__.py": "from as_pkg.k import K as L\nX = L\n", "as_pkg/k.py": "K = 1", "as_pkg/own.py": ""})
    assert set(modules.closure(["as_pkg.own"])) == {"as_pkg", "as_pkg.k", "as_pkg.own"}


def test_links_count_by_their_name_and_by_what_they_lead_to(write):
    folder = write(
        {"real/one.py": "X = 1\n", "real_pkg/__init__.py": "", "real_pkg/inner.py": "Y = 1\n", "d/own.py": ""}
    )
    (folder / "d" / "sym.py").symlink_to(folder / "real" / "one.py")
    (folder / "sympkg").symlink_to(folder / "real_pkg")
    found = modules.closure(["d.sym", "sympkg.inner"])
    assert set(found) == {"d.sym", "sympkg", "sympkg.inner"}
    before = modules.read("d.sym", found["d.sym"]).digest
    (folder / "real" / "one.py").write_text("X = 2\n")
    modules.read.cache_clear()
    assert modules.read("d.sym", found["d.sym"]).digest != before


def test_imports_are_followed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    texts = {
        "pkg/__init__.py": "",
        "pkg/a.py": "from . import b\nfrom .sub.c import X\nimport json, other, pytest\n",
        "pkg/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg import types\n",
        "pkg/sub/__init__.py": "",
        "pkg/sub/c.py": "from ..d import *\ndef late():\n    import pkg.e\n",
        "pkg/d.py": "X = (",  # broken
        "pkg/e.py": "",
        "pkg/types.py": "",
        "pkg/unused.py": "",
        "other.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = sources.closure(["pkg.a"])
    assert set(found) == {"pkg", "pkg.a", "pkg.b", "pkg.sub", "pkg.sub.c", "pkg.d", "pkg.e", "other"}
