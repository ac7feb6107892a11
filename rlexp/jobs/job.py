"""A job: one resolved config and the folder of its run."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlexp.config.declaration import Declared, are_limits
from rlexp.config.identity import identity
from rlexp.config.schema import seeds_of
from rlexp.errors import ConfigError
from rlexp.jobs.extend_from import is_extending, stages_of
from rlexp.jobs.init_from import check_same_parent, identity_of_initial
from rlexp.provenance import code_state
from rlexp.run.record import RunRecord


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """A run's identity: its config without the keys that cannot change results, and the run that it starts from.

    The parent run is identified by content, not by path; ConfigError if there is none. Without init_from or rescaled
    schedules no key is added, so that hashes of earlier versions stay valid.
    """
    settings = identity(cfg)
    if cfg.get("init_from") is not None:
        settings["init_from"] = identity_of_initial(cfg, settings)
    if is_extending(cfg) and (stages := stages_of(cfg, settings)):
        settings["extended_at"] = stages
    return settings


@dataclass(eq=False)
class Job:
    """A config and the folder of its run."""

    cfg: DictConfig  # composed; its `hydra` node is ignored
    folder: Path
    overrides: list[str] = field(default_factory=list)  # as typed
    choices: dict[str, str] = field(default_factory=dict)  # in each config group
    in_sweep: bool = False  # errors are recorded in the folder, where the sweep finds them

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The run's identity; see `settings_of`."""
        return settings_of(self.cfg)

    @property
    def seeds(self) -> list[int]:
        """Seeds, one per agent."""
        return seeds_of(self.cfg)

    @property
    def declared(self) -> Declared:
        """What it declares; see `run.declared.declare`, as an earlier launch may have declared otherwise."""
        limits = OmegaConf.select(self.cfg, "env.limits")
        limits = OmegaConf.to_container(limits) if OmegaConf.is_config(limits) else limits
        entry = {"primary": self.cfg.primary, "margin": self.cfg.margin}
        return Declared.read(entry | {"limits": limits if are_limits(limits) else None})

    def check_same(self, record: RunRecord) -> None:
        """Refuse (ConfigError) a folder with a run of another config."""
        if record.data.get("config", self.settings) != self.settings:
            raise ConfigError(f"{self.folder}: has a run of another config; move it away, or use another study")

    def changed_files(self, record: RunRecord) -> list[str]:
        """Files whose code has changed since the run in the folder started."""
        return code_state.changed_files(record.data, self.settings)

    def check_code(self, record: RunRecord) -> None:
        """Refuse (ConfigError) a run whose code or initial parameters have changed since, unless stale=keep."""
        check_same_parent(self.cfg, self.folder, record.data)
        changed = self.changed_files(record)
        if changed and self.cfg.stale != "keep":
            raise ConfigError(
                f"{', '.join(changed)} changed since the run in {self.folder} was made: stale=keep keeps it (or "
                f"resumes it with the new code), stale=rerun trains from scratch in a new folder"
            )
