"""Sends a comparison to loggers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlexp.config.messages import compose_config, explain
from rlexp.config.schema import register_schema
from rlexp.config.search_path import register_search_path
from rlexp.errors import ConfigError
from rlexp.jobs.log import console
from rlexp.loggers.base import Subject
from rlexp.loggers.make import Loggers, make_loggers


def loggers_named(words: Sequence[str], folder: Path, config: dict[str, Any], studies: Sequence[str]) -> Loggers:
    """The loggers of `logger=wandb,mlflow` and their settings, as in training; ConfigError if one cannot work.

    folder: of the comparison's page; config: what they are told of it; studies: names.
    """
    if not words:
        return Loggers()
    chosen = [f"logger=[{word[7:]}]" if re.match(r"logger=[^\[]+,", word) else word for word in words]
    register_schema()
    register_search_path()
    try:
        cfg = compose_config(chosen)
        group = OmegaConf.to_container(cfg.logger, resolve=True) if OmegaConf.is_config(cfg.logger) else cfg.logger
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise ConfigError(explain(error, chosen)) from None
    subject = Subject("+".join(studies), "compare", folder, Path(cfg.outputs), config, kind="compare")
    return Loggers(make_loggers(group), subject)


def send(loggers: Loggers, text: str, files: Sequence[Path]) -> None:
    """Send the answer and the files of a comparison, each logger in a record of its own."""
    if not loggers.loggers:
        return
    with console():
        status = "failed"
        try:
            loggers.open({})
            loggers.verdict(text, {path.name: path for path in files if path.is_file()})
            status = "done"
        finally:
            loggers.close(status, {})
