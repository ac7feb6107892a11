"""Registers this project's sweepers and launchers with Hydra."""

from hydra.core.plugins import Plugins

from rlexp.config.search_path import register_search_path
from rlexp.sweep.grids import Grids
from rlexp.sweep.launchers.base import Basic
from rlexp.sweep.launchers.batched import Batched
from rlexp.sweep.launchers.joblib import Joblib
from rlexp.sweep.launchers.ray import Ray
from rlexp.sweep.launchers.submitit import Submitit
from rlexp.sweep.tune.sweeper import Optuna


def register_plugins() -> None:
    """Register the plugins under their names in conf/hydra/, and where yamls are found."""
    register_search_path()
    for plugin in (Grids, Optuna, Basic, Joblib, Batched, Submitit, Ray):
        Plugins.instance().register(plugin)
        # under a name below hydra_plugins, too, as Hydra instantiates no others
        Plugins.instance().class_name_to_class[f"hydra_plugins.rlexp.{plugin.__name__}"] = plugin
