"""Makes the loggers that a config names, and calls them so that none can end a run."""

import contextlib
import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_object, instantiate

from rlexp.config.signatures import check_call, typed
from rlexp.errors import ConfigError, LoggerError
from rlexp.loggers.base import Logger, Subject
from rlexp.text import one_line, with_article

log = logging.getLogger(__name__)

WITHOUT = "logger=none does without it"


def chosen(group: Any) -> dict[str, dict[str, Any]]:
    """Settings of the loggers that are chosen: what has no `_target_` was only set, as in conf/local. ConfigError."""
    if group is not None and not isinstance(group, Mapping):
        raise ConfigError(f"logger={group}: in a yaml write `defaults: [override /logger: {group}]`")
    for name, node in (group or {}).items():
        if not isinstance(node, Mapping):
            what = "a logger's yaml has one key, its name, with _target_ and settings below it"
            raise ConfigError(f"logger.{name}={node}: {what}; see rlexp/loggers/README.md")
    return {str(name): dict(node) for name, node in (group or {}).items() if "_target_" in node}


def make_loggers(group: Any) -> dict[str, Logger]:
    """The loggers of a resolved, plain config group, by name; a ConfigError for what cannot work, before it is used."""
    made: dict[str, Logger] = {}
    for name, node in chosen(group).items():
        path = f"logger.{name}"
        try:
            with apart():  # its module is imported here
                check_call(path, node)
                kind = get_object(node["_target_"])
                if not (isinstance(kind, type) and issubclass(kind, Logger)):
                    what = f"is {with_article(type(kind).__name__)}, not a class derived from rlexp.loggers.base.Logger"
                    raise ConfigError(f"{path}._target_={node['_target_']}: {what}")
                kind.require_installed(f"logger={name}")
                made[name] = instantiate(typed(node), _convert_="all")
                made[name].check()
        except (ConfigError, KeyboardInterrupt):
            raise
        except BaseException as error:  # user code may also call sys.exit
            raise ConfigError(
                f"logger={name}: cannot be used ({_told(error.__cause__ or error)}); {WITHOUT}"
            ) from error
    return made


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While entered, a logger's code runs: it may neither move this process nor go on as the run in a forked child."""
    process, folder = os.getpid(), os.getcwd()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(1)
        os.chdir(folder)  # paths of runs are relative to it


def _told(error: BaseException) -> str:
    """An error of user code or a library, in one line."""
    try:
        return one_line(f"{type(error).__name__}: {error}", 300)
    except Exception:  # of its __str__
        return type(error).__name__


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
    """Loggers of one run; one that fails while the run goes is left out from then on, and the log says so.

    Each gets copies: what it does with them reaches neither the run nor another logger.
    """

    def __init__(self, loggers: Mapping[str, Logger] | None = None, subject: Subject | None = None) -> None:
        self.loggers, self.subject = dict(loggers or {}), subject
        self.ids: dict[str, str] = {}  # of the records, by logger

    def open(self, ids: Mapping[str, Any]) -> None:
        """Start the records, or go on with those of an earlier launch, by logger; a LoggerError if one cannot."""
        waiting, self.loggers = self.loggers, {}
        for name, logger in waiting.items():
            try:
                with apart():
                    self.ids[name] = self._opened(name, logger, ids.get(name))
            except KeyboardInterrupt:
                raise
            except ConfigError as error:
                line = one_line(str(error))
                raise ConfigError(line if f"logger={name}" in line else f"logger={name}: {line}") from error
            except BaseException as error:  # of a library, a server, a network, or sys.exit
                raise LoggerError(f"logger={name}: cannot start ({_told(error)}); {WITHOUT}") from error
            self.loggers[name] = logger

    def _opened(self, name: str, logger: Logger, known: Any) -> str:
        """The id of the record that is begun or gone on with."""
        assert self.subject is not None
        if known is not None:
            try:
                if not isinstance(known, str):
                    raise TypeError(f"{known!r} is no id")
                return _text(logger.open(copy.deepcopy(self.subject), known))
            except Exception as error:  # the record is gone, or elsewhere
                line = "logger=%s: cannot go on with the record %s (%s); a new one begins"
                log.warning(line, name, one_line(str(known), 80), _told(error), extra={"folder": self.subject.folder})
        return _text(logger.open(copy.deepcopy(self.subject), None))

    def log(self, step: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Record metrics at a step."""
        if values:
            self._each(lambda logger: logger.log(step, unix_time, dict(values)))

    def video(self, step: int, name: str, path: Path) -> None:
        """Record an mp4 file."""
        self._each(lambda logger: logger.video(step, name, path))

    def sync(self) -> None:
        """Send what is held back."""
        self._each(lambda logger: logger.sync())

    def verdict(self, text: str, files: Mapping[str, Path]) -> None:
        """Record what `compare` found."""
        self._each(lambda logger: logger.verdict(text, dict(files)))

    def close(self, status: str, result: Mapping[str, float]) -> None:
        """End the records."""
        self._each(lambda logger: logger.close(status, dict(result)))
        self.loggers = {}

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self.loggers.items()):
            try:
                with apart():
                    call(logger)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a server that is gone, or sys.exit, must not end a training that goes well
                assert self.subject is not None
                line = "logger=%s failed (%s) and is left out from now on; the files in %s have everything"
                log.warning(line, name, _told(error), self.subject.folder, extra={"folder": self.subject.folder})
                del self.loggers[name]


def _text(id: Any) -> str:
    if not isinstance(id, str):
        raise TypeError(f"open returned {one_line(repr(id), 40)}, not the record's id as text")
    return id
