"""A job: one resolved config, and the folder that its run writes to."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlexp import provenance
from rlexp.config import identity
from rlexp.errors import ConfigError
from rlexp.run_folder import RunRecord


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
        """The resolved config less what cannot change results."""
        return identity(self.cfg)

    @property
    def seeds(self) -> list[int]:
        """One an agent."""
        return [int(self.cfg.seed) + k for k in range(int(self.cfg.num_seeds))]

    def check_same(self, record: RunRecord) -> None:
        """Refuse a folder that holds a run of another config.

        Raises:
            ConfigError: names the folder.
        """
        if record.data.get("config", self.settings) != self.settings:
            raise ConfigError(f"{self.folder}: holds a run of another config; move it away, or name another study")

    def changed_modules(self, record: RunRecord) -> list[str]:
        """Modules that have changed since the run in a folder was begun."""
        return provenance.changed_modules(record.data, self.settings)

    def check_code(self, record: RunRecord) -> None:
        """Refuse a run that was made, or begun, by other code, unless `stale` says what is to become of it.

        Raises:
            ConfigError: names the files.
        """
        changed = self.changed_modules(record)
        if changed and self.cfg.stale != "keep":
            raise ConfigError(
                f"{provenance.told(changed)} changed since the run in {self.folder} was made: stale=keep takes it as "
                f"it is (or goes on with the new code), stale=rerun makes it anew in a folder of its own"
            )


def group_choices(choices: Any) -> dict[str, str]:
    """What was chosen in each config group."""
    return {str(name): str(choice) for name, choice in choices.items() if not str(name).startswith("hydra")}
