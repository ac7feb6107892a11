"""Settings of the Optuna sweeper."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlexp.config.declaration import is_number
from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError
from rlexp.sweep.tune.objective import AGGREGATES, MEASURES

SEARCH = "search"  # tag of a list in a grid that its tuning searches, instead of a tuning for each of its values


@dataclass(kw_only=True)
class TuningSettings:
    """The keys of hydra.sweeper, explained in conf/hydra/sweeper/optuna.yaml; raises ConfigError for a bad value."""

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

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("n_trials", "n_jobs", "n_startup", "num_seeds", "seed", "prune_after", "evaluation_seeds"):
            value, least = getattr(self, name), int(name not in ("seed", "prune_after", "evaluation_seeds"))
            if type(value) is not int or value < least:
                raise ConfigError(f"hydra.sweeper.{name}={value}: must be a whole number, at least {least}")
        if self.evaluation_seeds > TUNING_SEED:
            raise ConfigError(f"hydra.sweeper.evaluation_seeds={self.evaluation_seeds}: must be at most {TUNING_SEED}")
        if not isinstance(self.rungs, Sequence) or not all(is_number(rung) and 0 < rung < 1 for rung in self.rungs):
            raise ConfigError(
                f"hydra.sweeper.rungs={self.rungs}: must be a list of fractions between 0 and 1, as [0.5]"
            )
        self.rungs = [] if self.pruner == "none" else sorted(self.rungs)
        if self.pruner != "none" and not self.rungs:
            raise ConfigError(f"hydra.sweeper.pruner={self.pruner}: needs rungs; set hydra.sweeper.rungs=[0.5]")
        self.measures = [self.measure] if isinstance(self.measure, str) else list(self.measure or [])
        if not self.measures:
            raise ConfigError(f"hydra.sweeper.measure=[]: empty; choose from {', '.join(MEASURES)}")
        known = {"measure": [*MEASURES], "aggregate": [*AGGREGATES]}
        for key, value in [*(("measure", measure) for measure in self.measures), ("aggregate", self.aggregate)]:
            if value not in known[key]:
                raise ConfigError(f"hydra.sweeper.{key}={value}: no such {key}; choose from {', '.join(known[key])}")
        if self.rungs and "evaluation" in self.measures:
            raise ConfigError(
                "hydra.sweeper.measure=evaluation: only known after training; judge rungs by final or area"
            )
