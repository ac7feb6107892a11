"""Makes jobs from points of a search space: trials on tuning seeds, the best on evaluation seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution

from rlexp.config.identity import key_of
from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError
from rlexp.sweep.compose import Composer
from rlexp.sweep.plan import ImpossibleError, Planned, plan
from rlexp.sweep.tune.settings import TuningSettings
from rlexp.sweep.tune.space import as_overrides, describe, space

Params = Mapping[str, Any]


class TrialJobs:
    """Makes the jobs of one tuning in a study, from overrides, including those that are searched.

    Raises ConfigError for overrides that cannot be parsed, and for a config group that is not searched by name.
    """

    def __init__(self, words: Sequence[str], study: str, composer: Composer, settings: TuningSettings) -> None:
        self.study, self.composer, self.settings = study, composer, settings
        self.space, self.fixed = space(words, composer.parser)
        for key, x in self.space.items():
            if composer.chooses(key) and not isinstance(x, CategoricalDistribution):
                raise ConfigError(f"{key}={describe(x)}: is a config group; list the names, as in {key}=a,b")

    def check(self) -> DictConfig:
        """Check trials in which each key takes both ends of its interval, or every choice; returns the first's config.

        Each is checked with the first value of all other keys, and if that is invalid, with their last. Raises
        ConfigError if it is invalid with both. So is the run of the best, should it be one of these.
        """
        space: dict[str, Any] = self.space
        ends = {
            key: x.choices if isinstance(x, CategoricalDistribution) else (x.low, x.high) for key, x in space.items()
        }
        low, high = ({key: values[index] for key, values in ends.items()} for index in (0, -1))
        each = [{key: value} for key, values in ends.items() for value in values]
        first, *_ = [_either(self.trial, low | changed, high | changed) for changed in each]
        if self.settings.evaluation_seeds:
            _either(self.best, low, high)
        return first.cfg

    def trial(self, params: Params, stop_at: int | None = None) -> Planned:
        """Plan one trial, which pauses at `stop_at` rows per agent; raises ImpossibleError for values that conflict."""
        words = [*self.fixed, *as_overrides(params, self.space)]
        words = [word for word in words if key_of(word) != "evaluation.every"]
        if "evaluation" not in self.settings.measures and not any(w.startswith("evaluation.") for w in words):
            words.append("evaluation.episodes=0")
        words.append("evaluation.every=null")  # trials are not judged by it
        words += [f"seed={TUNING_SEED}", f"num_seeds={self.settings.num_seeds}", f"study={self.study}/trials"]
        (planned,) = plan(self.composer, [words if stop_at is None else [*words, f"stop_at={stop_at}"]])
        if planned.fresh:
            raise ConfigError("resume=never: trials resume from rung to rung; to start over, name another study=...")
        return planned

    def best(self, params: Params) -> Planned:
        """Plan the run of these params on evaluation seeds."""
        seeds = ["seed=0", f"num_seeds={self.settings.evaluation_seeds}", f"study={self.study}"]
        return plan(self.composer, [[*self.fixed, *as_overrides(params, self.space), *seeds]])[0]

    def describe(self, params: Params) -> str:
        """Params as one line of overrides."""
        return " ".join(as_overrides(params, self.space))


def _either(job: Callable[[Params], Planned], params: Params, others: Params) -> Planned:
    try:
        return job(params)
    except ImpossibleError as error:
        try:
            return job(others)
        except ImpossibleError:
            raise error from None
