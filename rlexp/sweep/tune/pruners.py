"""What ends a trial early, from reports at rungs numbered 1, 2, 3, … on its way to the end."""

import math

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from rlexp.errors import ConfigError

PRUNERS = ("none", "median", "percentile", "halving")


class Halving(BasePruner):
    """Asynchronous successive halving (Li et al. 2020, ASHA) over numbered rungs.

    Of the n trials that have reported at a rung, pruned ones too, this one goes on if it is among the best
    max(1, ⌊keep · n⌋). Optuna's own reads step numbers as resources, so that it decides at rungs 1, η, η², … only, and
    its `bootstrap_count` prunes the first trials where this one lets them pass.
    """

    def __init__(self, keep: float, n_startup: int) -> None:
        self.keep, self.n_startup = keep, n_startup

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial ends at the rung that it has reported last."""
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
    """What ends a trial at a rung, after it has reported there.

    none: never. median, percentile: when its best report so far is worse than the median (the best `keep`) of what
    trials that ran to the end had reported at this rung; these are the survivors, so it grows stricter. halving: as in
    `Halving`, against all trials that came to this rung, so it saves more and errs more.

    Args:
        name: one of PRUNERS.
        n_startup: prunes nothing until so many trials ran to the end; halving: until so many have come to the rung.
        keep: share that goes on; percentile 0.75 and halving 0.5 by default.
        objectives: how many.

    Raises:
        ConfigError: no such pruner or share, or several objectives, which Optuna does not prune by.
    """
    word = f"hydra.sweeper.pruner={name}"
    if name not in PRUNERS:
        raise ConfigError(f"{word}: there is no such pruner; there are {', '.join(PRUNERS)}")
    if name == "none":
        return NopPruner()
    if objectives > 1:
        raise ConfigError(f"{word}: pruning needs one objective, there are {objectives}; use pruner=none, or keep one")
    if keep is not None and not 0 < keep < 1:
        raise ConfigError(f"hydra.sweeper.keep={keep}: is a share between 0 and 1, as in 0.5")
    if name == "median":
        return MedianPruner(n_startup)
    if name == "percentile":
        return PercentilePruner(100 * (keep or 0.75), n_startup)
    return Halving(keep or 0.5, n_startup)
