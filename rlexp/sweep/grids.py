"""A multirun over several grids: their union, where Hydra's own sweeper knows only one product.

A comparison is seldom a product: the baseline lacks the settings of the new term. Hence, in conf/experiment/*.yaml,

    hydra:
      sweeper:
        grids:
          - [algo=ppo]
          - [algo=apo, "algo.anchor_coef=1,5", "algo.direction=forward,reverse"]

is five jobs. `params` and the command line hold for every grid; the command line wins over `params`, and `params` win
over grids.
"""

import importlib
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rlexp.errors import ConfigError

NAMESPACE = "hydra_plugins.rlexp"  # Hydra takes plugins from modules below hydra_plugins only


@dataclass
class GridsConf:
    """The keys below hydra.sweeper."""

    _target_: str = f"{NAMESPACE}.Grids"
    params: dict[str, str] | None = None
    grids: list[list[str]] | None = None


class Grids(Sweeper):
    """Every job of every grid, once, handed to the launcher together."""

    __module__ = NAMESPACE

    hydra_context: HydraContext
    launcher: Launcher

    def __init__(self, params: Mapping[str, str] | None = None, grids: Sequence[Sequence[str]] | None = None) -> None:
        self.params = params or {}
        self.grids = grids or [[]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; raises the first one's error once the last one has ended."""
        common = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        jobs = union(([*grid, *common] for grid in self.grids), parser)
        self.validate_batch_is_legal(jobs)
        assert self.config is not None  # set by `setup`
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises what the job raised
        return results


def union(grids: Iterable[Sequence[str]], parser: OverridesParser) -> list[list[str]]:
    """The jobs of all grids, each as a list of overrides; of overrides of one key the last one holds.

    Raises:
        ConfigError: an interval or another sweep that is no list of values.
    """
    jobs: dict[frozenset[str], list[str]] = {}
    for grid in grids:
        choices: dict[str, list[str]] = {}
        for override in parser.parse_overrides(list(grid)):
            key = override.get_key_element()
            name = key.lstrip("+")
            if not override.is_sweep_override():
                choices[name] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                choices[name] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ConfigError(f"{override.input_line}: a grid needs a list of values, as in key=1,2,3")
        for job in itertools.product(*choices.values()):
            jobs.setdefault(frozenset(job), list(job))
    return list(jobs.values())


def register_sweeper() -> None:
    """Make hydra/sweeper=grids known to Hydra, and this module under the name that Hydra will look it up by."""
    root, _, name = NAMESPACE.partition(".")
    try:
        namespace = importlib.import_module(root)  # there is one where another plugin is installed
    except ImportError:
        namespace = sys.modules[root] = ModuleType(root)
        namespace.__path__ = []
    sys.modules[NAMESPACE] = sys.modules[__name__]
    setattr(namespace, name, sys.modules[__name__])
    Plugins.instance().register(Grids)
    ConfigStore.instance().store(group="hydra/sweeper", name="grids", node=GridsConf, provider="rlexp")
