"""Hydra's plugins of this project: makes the sweepers, launchers and the search path here known to it."""

import importlib
import sys
from types import ModuleType

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from rlexp.config.schema import CONF_DIR
from rlexp.config.search_path import PluginSearchPath
from rlexp.sweep.grids import Grids
from rlexp.sweep.launchers.base import Basic
from rlexp.sweep.launchers.batched import Batched
from rlexp.sweep.launchers.joblib import Joblib
from rlexp.sweep.launchers.ray import Ray
from rlexp.sweep.launchers.submitit import Submitit
from rlexp.sweep.tune.sweeper import Optuna

NAMESPACE = "hydra_plugins.rlexp"  # Hydra takes plugins from modules below hydra_plugins only


def register_plugins() -> None:
    """Make them known under the names that conf/hydra/ gives them."""
    root, _, name = NAMESPACE.partition(".")
    try:
        namespace = importlib.import_module(root)  # there is one where another plugin is installed
    except ImportError:
        namespace = sys.modules[root] = ModuleType(root)
        namespace.__path__ = []
    module = sys.modules[NAMESPACE] = ModuleType(NAMESPACE)
    setattr(namespace, name, module)
    for plugin in (PluginSearchPath, Grids, Optuna, Basic, Joblib, Batched, Submitit, Ray):
        plugin.__module__ = NAMESPACE
        setattr(module, plugin.__name__, plugin)
        Plugins.instance().register(plugin)
    # Hydra's own, or those of its plugins, would be taken for schemas of files in conf/hydra/ that have the same names
    store = ConfigStore.instance().repo["hydra"]
    for path in (CONF_DIR / "hydra").rglob("*.yaml"):
        store.get(path.parent.name, {}).pop(path.name, None)
