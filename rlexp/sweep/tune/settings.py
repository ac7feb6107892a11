"""Settings of the Optuna sweeper."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError


@dataclass(kw_only=True)
class TuningSettings:
    """The keys of hydra.sweeper, explained in conf/hydra/sweeper/optuna.yaml.

    Raises:
        ConfigError: a value out of range.
    """

    sampler: str = "tpe"
    n_trials: int = 30
    n_jobs: int = 1
    n_startup: int = 10
    seed: int = 0
    measure: str | Sequence[str] | None = "final"
    aggregate: str = "mean"
    num_seeds: int = 3
    pruner: str = "none"
    rungs: Sequence[float] = (0.25, 0.5)
    keep: float | None = None
    prune_after: int = 5
    evaluation_seeds: int = 10
    measures: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Check the ranges."""
        self.measures = [self.measure] if isinstance(self.measure, str) else list(self.measure or [])
        for name, least in (
            ("n_trials", 1),
            ("n_jobs", 1),
            ("n_startup", 1),
            ("num_seeds", 1),
            ("evaluation_seeds", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"hydra.sweeper.{name}={value}: must be a whole number, at least {least}")
        if self.evaluation_seeds > TUNING_SEED:
            raise ConfigError(f"hydra.sweeper.evaluation_seeds={self.evaluation_seeds}: must be at most {TUNING_SEED}")
        self.rungs = [] if self.pruner == "none" else sorted(self.rungs)
        if not all(0 < rung < 1 for rung in self.rungs):
            raise ConfigError(f"hydra.sweeper.rungs={list(self.rungs)}: must be fractions between 0 and 1")
        if self.pruner != "none" and not self.rungs:
            raise ConfigError(f"hydra.sweeper.pruner={self.pruner}: needs rungs; set hydra.sweeper.rungs=[0.5]")

    def trial_settings(self) -> dict[str, Any]:
        """Settings that define the trials, and so may not change between launches."""
        return {key: value for key, value in asdict(self).items() if key in ("measures", "aggregate", "num_seeds")} | {
            "rungs": list(self.rungs)
        }
