"""Which files a config's code is in."""

import importlib
import sys

from rlexp.provenance import sources

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


def test_a_module_that_quits_as_it_is_imported_ends_nothing_here(write):
    write({"quits_e.py": "raise SystemExit(0)\n"})
    config = {"algo": {"_target_": "quits_e.Loss"}, "env": {"_target_": "quits_e.Env", "id": "quits_e:Maze-v0"}}
    assert sorted(sources.digests(config)) == ["quits_e.py"]


def test_a_package_is_told_as_its_own_file(write):
    write({"e_pkg/__init__.py": "", "e_pkg/loss.py": "def f(): pass\n", "flat_e.py": "def f(): pass\n"})
    config = {"algo": {"_target_": "e_pkg.loss.f"}, "network": {"_target_": "flat_e.f"}}
    assert sorted(sources.digests(config)) == ["e_pkg/__init__.py", "e_pkg/loss.py", "flat_e.py"]


def test_what_trains_is_hashed_and_nothing_else():
    training = set(sources.training())
    assert {
        "rlexp.training.trainer",
        "rlexp.training.learner",
        "rlexp.algos.losses",
        "rlexp.training.collector",
        "rlexp.envs.environment",
    } <= training
    assert not {name for name in training if name.startswith(("rlexp.sweep", "rlexp.compare", "rlexp.compare.report"))}
    assert not training & {
        "rlexp.train",
        "rlexp.study",
        "rlexp.study.status",
        "rlexp.compare.figures",
        "rlexp.compare.verdict",
    }
    config = {"algo": {"_target_": "rlexp.algos.apo.APO"}, "optimizer": {"_target_": "torch.optim.Adam"}}
    files = ("apo", "ppo", "episode_memory", "episode_scores")
    assert set(sources.digests(config)) == {f"rlexp/algos/{name}.py" for name in files}
