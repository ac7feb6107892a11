"""Samplers, and Optuna studies stored in a file.

Search spaces are in `space.py`, pruners in `pruners.py`, the objective in `objective.py`.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from rlexp.errors import ConfigError
from rlexp.sweep.tune.objective import Direction
from rlexp.sweep.tune.space import Space, describe, grid

SAMPLERS = ("tpe", "cmaes", "random", "grid", "nsga2")
LOCK_TIMEOUT = 60  # seconds to wait while another process, such as optuna-dashboard, has the file locked


# Samplers ------------------------------------------------------------------------------------------------------------


class _Restartable(BaseSampler):
    """Draws trial n from (seed, n) and the stored trials, so that a resumed study proposes what it would have proposed.

    Optuna's samplers draw from one stream per process: after a restart, the same seed proposes the first trials again.
    """

    def __init__(self, seed: int, make: Callable[[int], BaseSampler]) -> None:
        self.seed, self.make = seed, make
        self.number = -1

    def _sampler_for(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self.number:
            state = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)
            self.sampler, self.number = self.make(int(state[0])), trial.number
        return self.sampler

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.number = -1  # a resumed trial restarts its stream, and draws the params that it has not drawn yet
        self._sampler_for(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Space:
        return self._sampler_for(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        return self._sampler_for(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler_for(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler_for(trial).after_trial(study, trial, state, values)


class _Grid(GridSampler):
    """Optuna's stops `optimize` after the last trial, which is an error with ask and tell."""

    def after_trial(self, *_: Any) -> None:
        pass


def make_sampler(
    name: str, seed: int, space: Space, n_startup: int = 10, n_jobs: int = 1, objectives: int = 1
) -> BaseSampler:
    """Make the sampler, which proposes the next trial.

    tpe: models good and bad trials, all keys jointly (Bergstra et al. 2011; Falkner et al. 2018).
    cmaes: CMA-ES over the numbers (Hansen 2016), tpe over choices; learns from trials that were not pruned.
    nsga2: a genetic algorithm for several objectives (Deb et al. 2002).
    random: uniformly. grid: every combination once, shuffled, `grid_size` of them.

    Args:
        name: one of SAMPLERS.
        seed: of the proposals; trial n is a function of seed, n and the trials before it.
        space: the search space.
        n_startup: random trials before tpe has a model; nsga2: generation size, the first being random.
        n_jobs: trials at a time; with several, tpe avoids those that are running (`constant_liar`).
        objectives: number of objectives.

    Raises:
        ConfigError: unknown sampler, or one that cannot search this space.
    """
    option = f"hydra.sweeper.sampler={name}"
    if name not in SAMPLERS:
        raise ConfigError(f"{option}: no such sampler; choose from {', '.join(SAMPLERS)}")
    if seed < 0:
        raise ConfigError(f"hydra.sweeper.seed={seed}: must be an integer, at least 0")
    if not space:
        raise ConfigError(
            "hydra.sweeper.params: the search space is empty; add a key, as in optimizer.lr=interval(1e-4,1e-2)"
        )
    if name == "grid":
        return _Grid(grid(space), seed)
    if name == "cmaes":
        if objectives > 1:
            raise ConfigError(f"{option}: supports one objective, not {objectives}; use nsga2 or tpe")
        if all(isinstance(x, CategoricalDistribution) for x in space.values()):
            raise ConfigError(
                f"{option}: searches numbers, but {', '.join(space)} is chosen from a list; use tpe or grid"
            )
        if importlib.util.find_spec("cmaes") is None:
            raise ConfigError(f"{option}: needs the package cmaes: pip install 'rlexp[tune]', or use tpe")

    def make(seed: int) -> BaseSampler:
        if name == "random":
            return RandomSampler(seed)
        if name == "nsga2":
            return NSGAIISampler(population_size=max(2, n_startup), seed=seed)
        tpe = TPESampler(n_startup_trials=n_startup, multivariate=True, constant_liar=n_jobs > 1, seed=seed)
        if name == "tpe":
            return tpe
        return CmaEsSampler(seed=seed, independent_sampler=tpe, warn_independent_sampling=False)

    return _Restartable(seed, make)


# Studies -------------------------------------------------------------------------------------------------------------


def open_study(
    path: Path,
    name: str,
    directions: Sequence[Direction],
    space: Space,
    sampler: BaseSampler,
    pruner: BasePruner,
    settings: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Create or resume a study in an SQLite file; every report is on disk when the call returns.

    Prints a warning if the study was started with another version of Optuna.

    Args:
        path: of the file.
        name: of the study.
        directions: one per objective.
        space: the search space, which may not change.
        sampler: may change between launches.
        pruner: may change between launches.
        settings: whatever else may not change, as JSON: fixed overrides, measure, seeds, rungs.

    Raises:
        ConfigError: the study has other directions, space or settings, or the file cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = optuna.create_study(
            storage=_storage(path),
            study_name=name,
            directions=[optuna.study.StudyDirection[direction.upper()] for direction in directions],
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
    except (RuntimeError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        line = str(error.__cause__ or error).partition("\n")[0]
        raise ConfigError(f"{path}: cannot be read as an Optuna database ({line}); move it away") from None
    if list(directions) != (first := [direction.name.lower() for direction in study.directions]):
        raise ConfigError(
            f"{path}: study {name!r} was started to {', '.join(first)}, not to {', '.join(directions)}; "
            f"start another with study=<another name>"
        )
    _require_unchanged(study, "spaces", {key: describe(x) for key, x in space.items()}, path)
    _require_unchanged(study, "settings", dict(settings or {}), path)
    _check_version(study)
    return study


def _storage(path: Path) -> optuna.storages.RDBStorage:
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT}})


def _require_unchanged(study: optuna.Study, what: str, now: dict[str, Any], path: Path) -> None:
    """Record settings on the first launch; refuse others on later ones."""
    now = json.loads(json.dumps(now))
    first = study.user_attrs.get(what)
    if first is None:
        study.set_user_attr(what, now)
    elif first != now:
        keys = [key for key in first | now if first.get(key) != now.get(key)]
        differing = "; ".join(f"{key} was {first.get(key, '—')} and is {now.get(key, '—')}" for key in keys)
        raise ConfigError(
            f"{path}: study {study.study_name!r} was started with other {what} ({differing}); "
            f"use the same, or start another with study=<another name>"
        )


def _check_version(study: optuna.Study) -> None:
    """Record Optuna's version on the first launch; warn on later ones if it differs."""
    first = study.user_attrs.get("optuna")
    if first is None:  # studies from before it was recorded have trials already
        first = "of an unknown version" if study.get_trials(deepcopy=False) else optuna.__version__
        study.set_user_attr("optuna", first)
    if first != optuna.__version__:
        print(
            f"{study.study_name}: was started with Optuna {first} and continues with {optuna.__version__}, "
            f"which may propose other trials",
            flush=True,
        )


def unfinished(study: optuna.Study, space: Space) -> list[optuna.Trial]:
    """Trials that a killed process left running, to be resumed; no other process may work on the study.

    Params that had not been drawn yet are drawn now, with the values that they would have had.
    """
    trials = []
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial = optuna.Trial(study, frozen._trial_id)
        for key, distribution in space.items():
            trial._suggest(key, distribution)
        trials.append(trial)
    return trials
