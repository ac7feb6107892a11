import re

import pytest

from rlexp.config.imports import import_problem
from rlexp.envs import Environment
from rlexp.errors import ConfigError


@pytest.fixture(scope="module", autouse=True)
def theirs(tmp_path_factory):
    package = tmp_path_factory.mktemp("theirs") / "odd_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text("WIDTH = 8\n\n\nclass Torso:\n    pass\n")
    (package / "broken.py").write_text("import sys\nfrom torch import nope\n")
    (package / "angry.py").write_text("raise RuntimeError('not here')\n")
    (package / "quits.py").write_text("raise SystemExit(4)\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package.parent)
        yield


BROKEN = "cannot be imported: odd_pkg/broken.py:2: ImportError: cannot import name 'nope' from 'torch'"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            "odd_pkgg.nets.Torso",
            "there is no module odd_pkgg, installed or in the working directory; did you mean odd_pkg?",
        ),
        ("odd_pkg.nett.Torso", "odd_pkg has no module nett; did you mean nets?"),
        ("odd_pkg.nets.torso", "odd_pkg.nets has no torso; did you mean Torso?"),
        ("odd_pkg.nets.Quite", "odd_pkg.nets has no Quite"),
        ("odd_pkg.nets.Torso.mak", "odd_pkg.nets.Torso has no mak"),
        ("odd_pkg.nets", "is a module; did you mean odd_pkg.nets.Torso?"),
        ("odd_pkg.nets.WIDTH", "is 8, which is not a class or function"),
        ("odd_pkg.broken.Torso", BROKEN),
        ("odd_pkg.quits.Torso", "cannot be imported: odd_pkg/quits.py:1: sys.exit(4) was called"),
    ],
)
def test_what_cannot_be_imported_is_told_by_the_part_that_is_not_there(target, told):
    assert import_problem(target).partition(" (")[0] == told


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("broken", BROKEN),
        ("angry", "cannot be imported: odd_pkg/angry.py:1: RuntimeError: not here"),
        ("quits", "cannot be imported: odd_pkg/quits.py:1: sys.exit(4) was called"),
    ],
)
def test_what_an_environments_module_raises_keeps_its_place(module, told):
    with pytest.raises(ConfigError, match=re.escape(f"env.id=odd_pkg.{module}:Maze-v0: {told}")):
        Environment(id=f"odd_pkg.{module}:Maze-v0")


@pytest.mark.parametrize("group", ["algo", "optimizer", "network.torso"])
def test_a_module_that_quits_as_it_is_imported_does_not_end_the_command_as_if_it_had_trained(cli, group):
    for flags in ((), ("-m", "seed=0,1")):
        result = cli(*flags, "progress=none", "compile=false", f"{group}._target_=odd_pkg.quits.X")
        assert result.code == 1
        assert f"{group}._target_=odd_pkg.quits.X: cannot be imported: " in result.err
        assert "sys.exit(4) was called" in result.err
