"""Every file of `conf/`: it composes, what it names is built, its values arrive, its keys are explained."""

import importlib.util
from functools import cache

import pytest
import torch
import yaml
from helpers import compose_config
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

import rlexp.train  # noqa: F401  (registers the schema and the resolvers)
from rlexp import build, parts
from rlexp.algos.advantages import GAE
from rlexp.algos.base import Algorithm
from rlexp.config.identity import config_hash, identity
from rlexp.config.schema import CONF_DIR
from rlexp.errors import ConfigError
from rlexp.spaces import storage_dtype
from rlexp.sweep.grids import union

GROUPS = ("algo", "env", "network", "gae", "optimizer", "bonus", "tuned", "experiment")
FILES = [f"{group}/{path.stem}" for group in GROUPS for path in sorted((CONF_DIR / group).glob("*.yaml"))]
NEEDS = {  # what a file cannot do without, where the default environment is none for it
    "network/nature_cnn": ["env=breakout"],
    "network/impala_cnn": ["env=breakout"],
    "tuned/cleanrl_continuous": ["env=hopper"],
}


@cache
def make(*overrides):
    return compose_config("study=x", *overrides)


def names(group):
    return [file.partition("/")[2] for file in FILES if file.startswith(f"{group}/")]


def tuned_pair(name):
    """The algo=... env=... that the file's name stands for; None where it is to be chosen by name."""
    pairs = [[f"algo={a}", f"env={e}"] for a in names("algo") for e in names("env") if f"{a}_{e}" == name]
    algo = name.partition("_")[0]
    assert pairs or algo not in names("algo"), f"conf/tuned/{name}.yaml: there is no such environment"
    return pairs[0] if pairs else None


def choice(file):
    group, _, name = file.partition("/")
    if group == "tuned" and (pair := tuned_pair(name)):
        return pair  # which picks the file by itself
    return [*NEEDS.get(file, []), f"{group}={name}"]


def read(file):
    """The file's text, and the files of its group that it builds on."""
    text = (CONF_DIR / f"{file}.yaml").read_text()
    parents = [p for p in (yaml.safe_load(text) or {}).get("defaults", []) if isinstance(p, str) and p != "_self_"]
    return text, [f"{file.partition('/')[0]}/{parent}" for parent in parents]


def values_of(file):
    """Dotted key -> value, of the file over those that it builds on."""

    def leaves(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    text, parents = read(file)
    own = OmegaConf.to_container(OmegaConf.create(text))
    inherited = {key: value for parent in parents for key, value in values_of(parent).items()}
    return inherited | dict(leaves({key: value for key, value in own.items() if key not in ("defaults", "hydra")}))


def comments_of(file):
    """Dotted key -> whether a comment stands on its line, in the file or in one that it builds on."""
    text, parents = read(file)
    lines, found = text.splitlines(), {}
    for parent in parents:
        found |= comments_of(parent)

    def walk(node, prefix=""):
        for key, value in node.value:
            name = prefix + key.value
            if key.value == "defaults" or key.value.startswith("_"):
                continue
            found[name] = found.get(name, False) or " # " in lines[key.start_mark.line]
            if isinstance(value, yaml.MappingNode):
                walk(value, f"{name}.")

    walk(yaml.compose(text))
    return found


# Gymnasium takes other graphics of Mario for newer versions
@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
# Box2D's SWIG wrapper
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
@pytest.mark.parametrize("file", FILES)
def test_every_yaml_composes_and_what_it_names_is_built(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo drops its log
    cfg = make(*choice(file))
    module = cfg.env.id.rpartition(":")[0]
    if cfg.env.install and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")  # it is in no extra
    build.check(cfg)
    environment = parts.build_environment(cfg)
    try:
        observation_space, action_space = environment.probe()
    except ConfigError as error:
        if "system Qt 5" not in str(error):
            raise
        pytest.skip("Qt 5 is not installed")  # which no Python package brings
    network = parts.network_builder(cfg, observation_space, action_space)()
    obs = torch.as_tensor(observation_space.sample()).to(storage_dtype(observation_space))
    params, values = network(obs[None])
    assert params.shape == (1, network.distribution.num_params)
    assert values.shape == (1,)
    assert isinstance(instantiate(cfg.algo, _convert_="all"), Algorithm)
    assert isinstance(instantiate(cfg.gae, _convert_="all"), GAE)
    optimizer = OmegaConf.to_container(cfg.optimizer)
    rate = optimizer.pop("lr")
    assert rate
    assert isinstance(instantiate(optimizer)(network.parameters(), lr=1e-3), torch.optim.Optimizer)


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(("tuned/", "experiment/"))])
def test_tuned_values_and_experiments_arrive_over_the_groups(file):
    cfg, values = make(*choice(file)), values_of(file)
    values.pop("study", None)  # which `make` sets
    assert values or file == "tuned/none"
    for key, value in values.items():
        assert OmegaConf.select(cfg, key) == value, key


def lowest(word, parser):
    """An override, or of one that is searched in an interval that with its lowest value."""
    (override,) = parser.parse_overrides([word])
    searched = override.is_sweep_override() and not override.is_discrete_sweep()
    return f"{override.get_key_element()}={override.value().start}" if searched else word


# derived from another, or nearly, which takes seconds each
ALIKE = {"apo_ablation", "apo_cartpole", "apo_sparse_shared", "lucky", "tune_fair_values"}
ALIKE |= {"forgetting_deterministic", "forgetting_starts"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in names("experiment")]
)
def test_every_grid_of_an_experiment_composes_and_is_accepted(name, monkeypatch):
    monkeypatch.setattr("rlexp.envs.ids.is_missing", lambda extra: False)  # whatever is installed here
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        sweeper = compose("config", [f"experiment={name}"], return_hydra_config=True).hydra.sweeper
        common = [f"experiment={name}", *(f"{key}={value}" for key, value in (sweeper.params or {}).items())]
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        first, *others = sweeper.get("arms") or [[]]  # each grid with the first, and the first grid with each other
        crossed = [[*grid, *first] for grid in sweeper.grids or [[]]]
        crossed += [[*sweeper.grids[0], *arm] for arm in others]
        grids = [union([[lowest(word, parser) for word in (*grid, *common)]], parser) for grid in crossed]
    hashes = set()
    for grid in grids:
        for job in (grid[0], grid[-1]):  # they differ in every key that the grid varies
            cfg = make(*job)
            build.check(cfg)
            assert cfg.env.timeout or sum(map(len, grids)) == 1  # one that hangs may not hold up the others
            if not hashes:
                assert config_hash(identity(cfg)) == config_hash(identity(make(*job, "env.timeout=null")))
            hashes.add((cfg.study, config_hash(identity(cfg))))
    assert len(hashes) == sum(len({tuple(grid[0]), tuple(grid[-1])}) for grid in grids)


@pytest.mark.parametrize(
    "file", [file for file in FILES if not file.startswith(("tuned/", "experiment/", "bonus/none"))]
)
def test_every_key_of_a_group_is_explained(file):
    explained = comments_of(file)
    assert explained
    assert [key for key, comment in explained.items() if not comment] == []
