"""Makes the loggers that a config names, and calls them so that none can end a run."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_object, instantiate

from rlexp.config.signatures import check_call, typed
from rlexp.errors import ConfigError
from rlexp.loggers.base import Logger, Subject
from rlexp.text import one_line, with_article

log = logging.getLogger(__name__)


def chosen(group: Any) -> dict[str, dict[str, Any]]:
    """Settings of the loggers that are chosen: what has no `_target_` was only set, as in conf/local. ConfigError."""
    if not isinstance(group or {}, Mapping):
        raise ConfigError(f"logger={group}: must be names of yamls in conf/logger/, as in logger=[wandb,mlflow]")
    return {str(name): dict(node) for name, node in (group or {}).items() if _has_target(node)}


def _has_target(node: Any) -> bool:
    return isinstance(node, Mapping) and "_target_" in node


def make_loggers(group: Any) -> dict[str, Logger]:
    """The loggers of a resolved, plain config group, by name; a ConfigError for what cannot work, before it is used."""
    made: dict[str, Logger] = {}
    for name, node in chosen(group).items():
        path = f"logger.{name}"
        check_call(path, node)
        kind = get_object(node["_target_"])
        if not (isinstance(kind, type) and issubclass(kind, Logger)):
            what = f"is {with_article(type(kind).__name__)}, not a class derived from rlexp.loggers.base.Logger"
            raise ConfigError(f"{path}._target_={node['_target_']}: {what}")
        kind.require_installed(f"logger={name}")
        made[name] = instantiate(typed(node), _convert_="all")
        made[name].check()
    return made


def tagged(group_of: Callable[[str], str], seeds: list[int], values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Metrics by tag: charts/return, of several seeds their mean, and each one's as seeds/return/3; NaN left out.

    group_of: TensorBoard's group of a metric; values: name -> one per seed.
    """
    found: dict[str, float] = {}
    for name, column in values.items():
        there = {seed: float(x) for seed, x in zip(seeds, column, strict=True) if not np.isnan(x)}
        if there:
            found[f"{group_of(name)}/{name}"] = float(np.mean(list(there.values())))
        if len(seeds) > 1 and group_of(name) != "run":
            found |= {f"seeds/{name}/{seed}": x for seed, x in there.items()}
    return found


class Loggers:
    """Loggers of one run; one that fails while the run goes is left out from then on, and the log says so."""

    def __init__(self, loggers: Mapping[str, Logger] | None = None) -> None:
        self.loggers = dict(loggers or {})
        self.ids: dict[str, str] = {}  # of the records, by logger

    def open(self, subject: Subject, ids: Mapping[str, str]) -> None:
        """Start the records, or go on with those of an earlier launch; a ConfigError if one cannot."""
        for name, logger in self.loggers.items():
            try:
                self.ids[name] = logger.open(subject, ids.get(name))
            except ConfigError:
                raise
            except Exception as error:  # of a library, a server, a network
                why = one_line(f"{type(error).__name__}: {error}", 300)
                raise ConfigError(f"logger={name}: cannot start ({why}); logger=none leaves it out") from error

    def log(self, step: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Record metrics at a step."""
        if values:
            self._each(lambda logger: logger.log(step, unix_time, values))

    def video(self, step: int, name: str, path: Path) -> None:
        """Record an mp4 file."""
        self._each(lambda logger: logger.video(step, name, path))

    def sync(self) -> None:
        """Send what is held back."""
        self._each(lambda logger: logger.sync())

    def verdict(self, text: str, files: Mapping[str, Path]) -> None:
        """Record what `compare` found."""
        self._each(lambda logger: logger.verdict(text, files))

    def close(self, status: str, result: Mapping[str, float]) -> None:
        """End the records."""
        self._each(lambda logger: logger.close(status, result))
        self.loggers = {}

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self.loggers.items()):
            try:
                call(logger)
            except Exception as error:  # a server that is gone must not end a training that goes well
                why = one_line(f"{type(error).__name__}: {error}", 300)
                log.warning("logger=%s failed (%s): the run goes on without; metrics.csv has everything", name, why)
                del self.loggers[name]
