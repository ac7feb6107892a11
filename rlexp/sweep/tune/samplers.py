"""Optuna without a sweeper: samplers, and studies kept in a file.

What is searched is in `space.py`, what ends a trial early in `pruners.py`, what a trial is worth in `objective.py`.
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
PATIENCE = 60  # seconds to wait while somebody else, such as optuna-dashboard, has the file locked


# Samplers ------------------------------------------------------------------------------------------------------------


class _Restartable(BaseSampler):
    """Draws trial n from (seed, n) and what is stored, so that a study gone on with asks what it would have asked.

    Optuna's samplers draw from one stream a process: the same seed after a restart proposes the first trials again.
    """

    def __init__(self, seed: int, make: Callable[[int], BaseSampler]) -> None:
        self.seed, self.make = seed, make
        self.number = -1

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self.number:
            state = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)
            self.sampler, self.number = self.make(int(state[0])), trial.number
        return self.sampler

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.number = -1  # a trial taken up again draws anew what it has not drawn yet
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Space:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)


class _Grid(GridSampler):
    """Optuna's stops `optimize` after the last one, which raises an error where trials are asked and told."""

    def after_trial(self, *_: Any) -> None:
        pass


def make_sampler(
    name: str, seed: int, space: Space, n_startup: int = 10, n_jobs: int = 1, objectives: int = 1
) -> BaseSampler:
    """What proposes the next trial.

    tpe: models good and bad trials, all keys together (Bergstra et al. 2011; Falkner et al. 2018).
    cmaes: CMA-ES over the numbers (Hansen 2016), tpe over choices; learns from trials that were not pruned.
    nsga2: a genetic algorithm for several objectives (Deb et al. 2002).
    random: evenly. grid: every combination once, in a shuffled order, `grid_size` of them.

    Args:
        name: one of SAMPLERS.
        seed: of the proposals; trial n is a function of seed, n and the trials before it.
        space: what is searched.
        n_startup: trials at random before tpe has a model; size of a generation of nsga2, the first being random.
        n_jobs: trials at a time; with several, tpe stays away from those under way (`constant_liar`).
        objectives: how many.

    Raises:
        ConfigError: no such sampler, or one that cannot search this space.
    """
    word = f"hydra.sweeper.sampler={name}"
    if name not in SAMPLERS:
        raise ConfigError(f"{word}: there is no such sampler; there are {', '.join(SAMPLERS)}")
    if seed < 0:
        raise ConfigError(f"hydra.sweeper.seed={seed}: is a whole number, 0 or more")
    if not space:
        raise ConfigError(
            "hydra.sweeper.params: nothing is searched; add a key, as in optimizer.lr=interval(1e-4,1e-2)"
        )
    if name == "grid":
        return _Grid(grid(space), seed)
    if name == "cmaes":
        if objectives > 1:
            raise ConfigError(f"{word}: knows one objective, not {objectives}; use nsga2 or tpe")
        if all(isinstance(x, CategoricalDistribution) for x in space.values()):
            raise ConfigError(
                f"{word}: searches numbers, and {', '.join(space)} is chosen from a list; use tpe or grid"
            )
        if importlib.util.find_spec("cmaes") is None:
            raise ConfigError(f"{word}: needs the package cmaes; pip install 'rlexp[tune]', or use tpe")

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
    """The study of that name in an SQLite file, begun or gone on with; every report is on disk when it returns.

    One that goes on under another version of Optuna than it was begun under says so.

    Args:
        path: of the file.
        name: of the study.
        directions: one an objective.
        space: what is searched, which may not change.
        sampler: may change between launches.
        pruner: may change between launches.
        settings: whatever else may not change, as JSON: fixed overrides, measure, seeds, rungs.

    Raises:
        ConfigError: a study of other directions, space or settings, or a file that cannot be read.
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
        raise ConfigError(f"{path}: cannot be read as Optuna studies ({line}); move it away") from None
    if list(directions) != (begun := [direction.name.lower() for direction in study.directions]):
        raise ConfigError(
            f"{path}: study {name!r} was begun to {', '.join(begun)}, not to {', '.join(directions)}; "
            f"begin another one with study=<another name>"
        )
    _hold(study, "spaces", {key: describe(x) for key, x in space.items()}, path)
    _hold(study, "settings", dict(settings or {}), path)
    _note_version(study)
    return study


def _storage(path: Path) -> optuna.storages.RDBStorage:
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})


def _hold(study: optuna.Study, what: str, now: dict[str, Any], path: Path) -> None:
    """Record on the first launch what later ones must agree with."""
    now = json.loads(json.dumps(now))
    begun = study.user_attrs.get(what)
    if begun is None:
        study.set_user_attr(what, now)
    elif begun != now:
        keys = [key for key in begun | now if begun.get(key) != now.get(key)]
        differing = "; ".join(f"{key} was {begun.get(key, '—')} and is {now.get(key, '—')}" for key in keys)
        raise ConfigError(
            f"{path}: study {study.study_name!r} was begun with other {what} ({differing}); "
            f"take that, or begin another one with study=<another name>"
        )


def _note_version(study: optuna.Study) -> None:
    """Record Optuna's version on the first launch, and tell later ones that have another."""
    begun = study.user_attrs.get("optuna")
    if begun is None:  # studies of before it was recorded have trials already
        begun = "of an unknown version" if study.get_trials(deepcopy=False) else optuna.__version__
        study.set_user_attr("optuna", begun)
    if begun != optuna.__version__:
        print(
            f"{study.study_name}: was begun under Optuna {begun} and goes on under {optuna.__version__}, "
            f"which may propose other trials",
            flush=True,
        )


def unfinished(study: optuna.Study, space: Space) -> list[optuna.Trial]:
    """Trials that a killed process left running, to go on with and tell; nobody else may be at work on the study.

    Params that had not been drawn yet are drawn now, and are what they would have been.
    """
    trials = []
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial = optuna.Trial(study, frozen._trial_id)
        for key, distribution in space.items():
            trial._suggest(key, distribution)
        trials.append(trial)
    return trials
