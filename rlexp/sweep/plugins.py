"""Registers this project's sweepers, launchers and search path with Hydra."""

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


def register_plugins() -> None:
    """Register the plugins under their names in conf/hydra/."""
    for plugin in (PluginSearchPath, Grids, Optuna, Basic, Joblib, Batched, Submitit, Ray):
        Plugins.instance().register(plugin)
        # under a name below hydra_plugins, too, as Hydra instantiates no others
        Plugins.instance().class_name_to_class[f"hydra_plugins.rlexp.{plugin.__name__}"] = plugin
    # Hydra would take its builtin configs of the same names for schemas of the files in conf/hydra/
    store = ConfigStore.instance().repo["hydra"]
    for path in (CONF_DIR / "hydra").rglob("*.yaml"):
        store.get(path.parent.name, {}).pop(path.name, None)
