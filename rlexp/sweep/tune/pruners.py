"""Pruners: stop a trial early, by its reports at rungs numbered 1, 2, 3, …"""

import math

import optuna
from optuna.pruners import BasePruner, NopPruner, PercentilePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from rlexp.config.declaration import is_number
from rlexp.errors import ConfigError

PRUNERS = ("none", "median", "percentile", "halving")


class Halving(BasePruner):
    """Asynchronous successive halving (ASHA, Li et al. 2020) over numbered rungs.

    Of the n trials that have reported at a rung, including pruned ones, a trial continues if it is among the best
    max(1, ⌊keep · n⌋). Optuna's SuccessiveHalvingPruner reads step numbers as resources, so that it decides only at
    rungs 1, η, η², …, and its `bootstrap_count` prunes the first trials, which this one lets pass.
    """

    def __init__(self, keep: float, n_startup: int) -> None:
        self.keep, self.n_startup = keep, n_startup

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to prune the trial at the last rung that it reported."""
        rung = trial.last_step
        if rung is None:
            return False
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        value = sign * trial.intermediate_values[rung]
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        others = [sign * t.intermediate_values[rung] for t in trials if rung in t.intermediate_values]
        better = sum(other > value for other in others)
        enough = len(others) >= self.n_startup
        return math.isnan(value) or (enough and better >= max(1, math.floor(self.keep * (len(others) + 1))))


def make_pruner(name: str, n_startup: int = 5, keep: float | None = None, objectives: int = 1) -> BasePruner:
    """Make the pruner that decides whether a trial stops after reporting at a rung.

    none: never. median, percentile: stops a trial whose best report so far is worse than the median (the best `keep`)
    of what completed trials, `n_startup` at least, reported at this rung; these are the survivors, so it grows
    stricter. halving: see `Halving`; compares with all trials that reached this rung, so it saves more and errs more.

    Raises ConfigError for an unknown pruner, `keep` out of range, and several objectives: Optuna cannot prune them.
    """
    option = f"hydra.sweeper.pruner={name}"
    if name not in PRUNERS:
        raise ConfigError(f"{option}: no such pruner; choose from {', '.join(PRUNERS)}")
    if name == "none":
        return NopPruner()
    if objectives > 1:
        raise ConfigError(f"{option}: pruning needs one objective, not {objectives}; use pruner=none, or one measure")
    if keep is not None and not (is_number(keep) and 0 < keep < 1):
        raise ConfigError(f"hydra.sweeper.keep={keep}: must be a fraction between 0 and 1, as in 0.5")
    if name == "halving":
        return Halving(keep or 0.5, n_startup)
    return PercentilePruner(50 if name == "median" else 100 * (keep or 0.75), n_startup)
