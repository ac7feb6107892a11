"""Registers this project's sweepers, launchers and search path with Hydra."""

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

NAMESPACE = "hydra_plugins.rlexp"  # Hydra accepts plugins from modules below hydra_plugins only


def register_plugins() -> None:
    """Register the plugins under their names in conf/hydra/."""
    root, _, name = NAMESPACE.partition(".")
    try:
        namespace = importlib.import_module(root)  # exists if another plugin is installed
    except ImportError:
        namespace = sys.modules[root] = ModuleType(root)
        namespace.__path__ = []
    module = sys.modules[NAMESPACE] = ModuleType(NAMESPACE)
    setattr(namespace, name, module)
    for plugin in (PluginSearchPath, Grids, Optuna, Basic, Joblib, Batched, Submitit, Ray):
        plugin.__module__ = NAMESPACE
        setattr(module, plugin.__name__, plugin)
        Plugins.instance().register(plugin)
    # Hydra would take its builtin configs of the same names for schemas of the files in conf/hydra/
    store = ConfigStore.instance().repo["hydra"]
    for path in (CONF_DIR / "hydra").rglob("*.yaml"):
        store.get(path.parent.name, {}).pop(path.name, None)
