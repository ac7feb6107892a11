"""A job: one resolved config, and the folder that its run writes to."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlexp.config.identity import identity
from rlexp.config.schema import seeds_of
from rlexp.errors import ConfigError
from rlexp.jobs.extend_from import is_extending, stages_of
from rlexp.jobs.init_from import check_same_parent, identity_of_initial
from rlexp.provenance import code_state
from rlexp.run.record import RunRecord


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """What makes a run what it is: its config less what cannot change results, and the run that it starts from.

    That is known by what it is, not by where it lies. Where init_from is null and nothing is extended over another
    schedule, nothing enters that earlier versions did not know.

    Raises:
        ConfigError: there is no such run to start or to go on from.
    """
    settings = identity(cfg)
    if cfg.get("init_from") is not None:
        settings["init_from"] = identity_of_initial(cfg, settings)
    if is_extending(cfg) and (stages := stages_of(cfg, settings)):
        settings["extended_at"] = stages
    return settings


@dataclass
class Job:
    """What there is to train."""

    cfg: DictConfig  # composed; Hydra's own settings are not looked at
    folder: Path
    overrides: list[str] = field(default_factory=list)  # as typed
    choices: dict[str, str] = field(default_factory=dict)  # made in each config group
    in_sweep: bool = False  # one of several: an error is left in its folder, where the sweep finds it

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved config less what cannot change results, with the run that it starts from."""
        return settings_of(self.cfg)

    @property
    def seeds(self) -> list[int]:
        """One an agent."""
        return seeds_of(self.cfg)

    def check_same(self, record: RunRecord) -> None:
        """Refuse a folder that holds a run of another config.

        Raises:
            ConfigError: names the folder.
        """
        if record.data.get("config", self.settings) != self.settings:
            raise ConfigError(f"{self.folder}: holds a run of another config; move it away, or name another study")

    def changed_files(self, record: RunRecord) -> list[str]:
        """Files whose code has changed since the run in a folder was begun."""
        return code_state.changed_files(record.data, self.settings)

    def check_code(self, record: RunRecord) -> None:
        """Refuse a run that was made, or begun, by other code or from other parameters, unless `stale` allows it.

        Raises:
            ConfigError: names the files.
        """
        check_same_parent(self.cfg, self.folder, record.data)
        changed = self.changed_files(record)
        if changed and self.cfg.stale != "keep":
            raise ConfigError(
                f"{', '.join(changed)} changed since the run in {self.folder} was made: stale=keep takes it as "
                f"it is (or goes on with the new code), stale=rerun makes it anew in a folder of its own"
            )
