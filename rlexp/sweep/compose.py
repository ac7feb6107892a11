"""Composes the configs of a sweep's jobs from their overrides."""

import copy
import functools
from collections.abc import Sequence

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from rlexp.config.messages import with_plus
from rlexp.config.replaced import drop_replaced


class Composer:
    """Composes configs of jobs as Hydra's loader does, but only once for all jobs that choose the same groups."""

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(config_loader=loader)
        self.compose = functools.cache(lambda words: loader.load_sweep_config(config, list(words)))
        self.chooses = functools.cache(lambda key: bool(loader.get_group_options(key)))  # from a config group

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Compose the config of one job."""
        parsed = self.parser.parse_overrides(list(overrides))
        changes = [o for o in parsed if o.type == OverrideType.CHANGE and o.package is None]
        plain = [o for o in changes if not (o.is_hydra_override() or self.chooses(o.key_or_group))]  # set a value
        config = copy.deepcopy(self.compose(tuple(str(o.input_line) for o in parsed if o not in plain)))
        try:
            for override in plain:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:  # Hydra's error message is better
            try:
                return self.loader.load_sweep_config(self.config, list(overrides))
            except HydraException as error:
                better = with_plus(error, list(overrides), self)
                if better is None:
                    raise
                return self(better)
        naming = config.hydra.job.config.override_dirname
        with read_write(config.hydra):
            config.hydra.overrides.task = list(overrides)
            config.hydra.job.override_dirname = get_overrides_dirname(
                overrides=parsed, exclude_keys=naming.exclude_keys, item_sep=naming.item_sep, kv_sep=naming.kv_sep
            )
        return drop_replaced(config, config.hydra)
