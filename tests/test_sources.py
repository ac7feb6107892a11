"""Which files a config's code is in, and what of a file counts as code."""

import ast
import importlib
import sys

import pytest

from rlexp.provenance import modules, sources, syntax


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Put files below a folder that Python imports from; what tests import from there is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def call(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        importlib.invalidate_caches()
        return tmp_path

    yield call
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


ENVIRONMENT = """import gymnasium
from gymnasium.envs.registration import WrapperSpec
gymnasium.register("Thing-v0", entry_point="envs_a.thing:Thing", max_episode_steps=20,
                   additional_wrappers=(WrapperSpec("Wr", "envs_w.wr:Wr", {}),))
"""


def test_an_environments_files_are_the_same_whatever_has_been_imported(write):
    write(
        {
            "envs_a/__init__.py": ENVIRONMENT,
            "envs_a/thing.py": "from envs_a.rew import R\nclass Thing: pass\n",
            "envs_a/rew.py": "R = 1\n",
            "envs_w/__init__.py": "",
            "envs_w/wr.py": "class Wr: pass\n",
        }
    )
    config = {"env": {"_target_": "rlexp.envs.environment.Environment", "id": "envs_a:Thing-v0"}}
    before = sources.digests(config)
    assert "envs_a.thing" not in sys.modules
    importlib.import_module("envs_a.thing")
    for cached in (sources._sources, sources._digests):
        cached.cache_clear()
    assert sources.digests(config) == before
    names = ["envs_a/__init__.py", "envs_a/rew.py", "envs_a/thing.py", "envs_w/__init__.py", "envs_w/wr.py"]
    assert sorted(before) == names


def test_environments_within_environments_count_and_others_of_the_package_do_not(write):
    register = "import gymnasium as gym\ngym.register('{0}-v3', entry_point='envs_o.{0}:Env')\n"
    write(
        {
            "envs_o/__init__.py": register.format("outer") + register.format("inner") + register.format("other"),
            "envs_o/outer.py": "import gymnasium as gym\nclass Env:\n    e = lambda _: gym.make('inner-v3')\n",
            "envs_o/inner.py": register.format("late") + "class Env:\n    e = lambda _: gym.make_vec(id='late-v3')\n",
            "envs_o/late.py": "from gymnasium import make\nclass Env:\n    e = lambda _: make('CartPole-v1')\n",
            "envs_o/other.py": "class Env: pass\n",
        }
    )
    found = sources.digests({"env": {"_target_": "rlexp.envs.environment.Environment", "id": "envs_o:outer-v3"}})
    assert sorted(found) == [f"envs_o/{name}.py" for name in ("__init__", "inner", "late", "outer")]


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


def test_words_among_the_settings_of_a_target_name_modules_too(write):
    write({"c_pkg/__init__.py": "", "c_pkg/nets.py": "def make(space): pass\n", "c_pkg/more.py": "X = 1\n"})
    write({"c_pkg/partial.py": "import functools\nfrom c_pkg.more import X\nP = functools.partial(print, X)\n"})
    fetched = {"torso": {"_target_": "hydra.utils.get_method", "path": "c_pkg.nets.make"}}
    assert set(sources.digests({"network": fetched})) == {"c_pkg/__init__.py", "c_pkg/nets.py"}
    fetched = {"torso": {"_target_": "hydra.utils.get_method", "path": "pytest.raises"}}
    assert "pytest/__init__.py" in sources.digests({"network": fetched})  # installed, but asked for
    named = {
        "_target_": "torch.nn.Linear",
        "kind": ["c_pkg.more.X", "torch.nn.Tanh", "pytest.raises", "1.5", "no.such"],
    }
    assert set(sources.digests({"network": named})) == {"c_pkg/__init__.py", "c_pkg/more.py"}
    assert "c_pkg/more.py" in sources.digests({"network": {"_target_": "c_pkg.partial.P"}})
    assert sources.digests({"study": "c_pkg.more"}) == {}


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


CODE = '''"""What it is."""
import math  # of numbers
if math.TYPE_CHECKING:
    import unseen
else:
    import seen


class Loss:
    """A loss."""

    def __call__(self, x, k=(1.5, None, True, b"a", 1 << 70)):
        """Of x."""
        return f"{x!r:>{k}}" if x else "a \\\\d\\n"
'''
SAME = [
    CODE.replace("  # of numbers", ""),
    CODE.replace("\n", "\r\n"),
    CODE.replace("Of x.", "Of all\n        x."),
    CODE.replace('    """A loss."""\n\n', ""),
    CODE.replace("(1.5, None", "(\n  1.50,\n  None"),
    CODE.replace('else "a', 'else u"a'),
    CODE.replace("import unseen", "import unseen, more"),
    "\ufeff" + CODE.replace('"""What it is."""', "# what it is"),
]
OTHER = [
    CODE.replace("1.5", "1.25"),
    CODE.replace("True", "1"),
    CODE.replace("!r", "!s"),
    CODE.replace(" if x", " if not x"),
    CODE.replace('b"a"', '"a"'),
    CODE.replace("k=(", "*, k=("),
    CODE.replace("70", "71"),
    CODE.replace("import seen", "import seen, more"),
    CODE.replace("if math", "if not math"),
    CODE + "(",
]


def digest_of(tmp_path, text):
    file = tmp_path / f"{abs(hash(text))}.py"
    file.write_bytes(text.encode())
    return modules.read("own", file).digest


@pytest.mark.parametrize("text", SAME)
def test_comments_layout_and_docstrings_are_no_code(tmp_path, text):
    assert text != CODE
    assert digest_of(tmp_path, text) == digest_of(tmp_path, CODE)


def test_everything_else_is_and_no_two_edits_look_alike(tmp_path):
    assert len({digest_of(tmp_path, text) for text in [CODE, *OTHER]}) == len(OTHER) + 1


def test_a_digest_does_not_depend_on_fields_that_other_versions_of_python_add():
    tree = ast.parse("def f(x: int) -> str:\n    return [x, None, ...]\n")
    before = syntax.normalize(tree)
    tree.body[0].type_params, tree.body[0].type_comment = [], None  # as Python 3.12 has them
    type(tree.body[0])._fields, fields = (*type(tree.body[0])._fields, "added"), type(tree.body[0])._fields
    try:
        tree.body[0].added = []
        assert syntax.normalize(tree) == before
    finally:
        type(tree.body[0])._fields = fields


def test_deep_code_is_read(tmp_path):
    deep = "x = " + "+".join(["1"] * 900) + "\n"
    assert digest_of(tmp_path, deep) == digest_of(tmp_path, deep + "# one more\n")


def test_a_package_is_told_as_its_own_file(write):
    write({"e_pkg/__init__.py": "", "e_pkg/loss.py": "def f(): pass\n", "flat_e.py": "def f(): pass\n"})
    config = {"algo": {"_target_": "e_pkg.loss.f"}, "network": {"_target_": "flat_e.f"}}
    assert sorted(sources.digests(config)) == ["e_pkg/__init__.py", "e_pkg/loss.py", "flat_e.py"]
