"""Points of a search space as jobs: trials on tuning seeds, and the best of them on evaluation seeds."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution

from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError
from rlexp.sweep.plan import Composer, ImpossibleError, Planned, plan
from rlexp.sweep.tune.space import as_overrides, describe, space

if TYPE_CHECKING:
    from rlexp.sweep.tune.settings import TuningSettings


class TrialJobs:
    """Makes the jobs of one tuning.

    Args:
        words: overrides, those that are searched among them.
        study: name of the study.
        composer: makes configs of overrides.
        settings: of the sweeper.

    Raises:
        ConfigError: an override that cannot be read, or a config group that is not searched by name.
    """

    def __init__(self, words: Sequence[str], study: str, composer: Composer, settings: "TuningSettings") -> None:
        self.study, self.composer, self.settings = study, composer, settings
        self.space, self.fixed = space(words, composer.parser)
        for key, x in self.space.items():
            if composer.chooses(key) and not isinstance(x, CategoricalDistribution):
                raise ConfigError(f"{key}={describe(x)}: is chosen by name; list the names, as in {key}=a,b")

    def check(self) -> DictConfig:
        """Compose and check configs in which each key takes both ends or every choice.

        Each is tried with the first value of all other keys, then with their last.

        Returns:
            The first.

        Raises:
            ConfigError: the first value that can be in neither way.
        """
        space: dict[str, Any] = self.space
        ends = {
            key: x.choices if isinstance(x, CategoricalDistribution) else (x.low, x.high) for key, x in space.items()
        }
        low, high = ({key: values[place] for key, values in ends.items()} for place in (0, -1))
        each = [(key, value) for key, values in ends.items() for value in values]
        possible = [self._either(low | {key: value}, high | {key: value}) for key, value in each]
        return possible[0].job.cfg

    def _either(self, params: Mapping[str, Any], others: Mapping[str, Any]) -> Planned:
        """The trial of these params, or if it cannot be that of the others."""
        try:
            return self.trial(params)
        except ImpossibleError as error:
            try:
                return self.trial(others)
            except ImpossibleError:
                raise error from None

    def trial(self, params: Mapping[str, Any], stop_at: int | None = None) -> Planned:
        """One trial, which pauses at so many environment steps an agent.

        Raises:
            ImpossibleError: values that cannot be together.
            ConfigError: resume=never, by which each rung would begin anew.
        """
        words = self._words(params)
        (planned,) = plan(self.composer, [words if stop_at is None else [*words, f"stop_at={stop_at}"]])
        if planned.anew:
            raise ConfigError("resume=never: a tuning goes on from rung to rung; name another study=... to begin anew")
        return planned

    def best(self, params: Mapping[str, Any]) -> Planned:
        """The same on evaluation seeds."""
        seeds = ["seed=0", f"num_seeds={self.settings.evaluation_seeds}", f"study={self.study}"]
        return plan(self.composer, [[*self.fixed, *as_overrides(params, self.space), *seeds]])[0]

    def shown(self, params: Mapping[str, Any]) -> str:
        """Params for people."""
        return " ".join(as_overrides(params, self.space))

    def _words(self, params: Mapping[str, Any]) -> list[str]:
        words = [*self.fixed, *as_overrides(params, self.space)]
        if "evaluation" not in self.settings.measures and not any(w.startswith("evaluation.") for w in words):
            words.append("evaluation.episodes=0")
        return [*words, f"seed={TUNING_SEED}", f"num_seeds={self.settings.num_seeds}", f"study={self.study}/trials"]
