"""Samplers, and Optuna studies stored in a file."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from rlexp.errors import ConfigError
from rlexp.extras import not_installed
from rlexp.sweep.tune.objective import Direction
from rlexp.sweep.tune.space import Space, describe, grid

SAMPLERS = ("tpe", "cmaes", "random", "grid", "nsga2")
LOCK_TIMEOUT = 60  # seconds to wait while another process, such as optuna-dashboard, has the file locked


def _restartable(kind: Any, seed: int, **settings: Any) -> BaseSampler:
    """Draws trial n from (seed, n) and the stored trials, so that a resumed study proposes what it would have proposed.

    Optuna's samplers draw from one stream per process: after a restart, the same seed proposes the first trials again.
    """

    def before_trial(self: Any, study: optuna.Study, trial: FrozenTrial) -> None:
        state = np.random.SeedSequence([seed, trial.number]).generate_state(1)
        kind.__init__(self, seed=int(state[0]), **settings)
        kind.before_trial(self, study, trial)

    # of the same name, by which NSGA-II stores its generations
    return type(kind.__name__, (kind,), {"before_trial": before_trial})(seed=seed, **settings)


class _Grid(GridSampler):
    """Optuna's stops `optimize` after the last trial, which is an error with ask and tell."""

    def after_trial(self, *_: Any) -> None:
        pass


def make_sampler(
    name: str, seed: int, space: Space, n_startup: int = 10, n_jobs: int = 1, objectives: int = 1
) -> BaseSampler:
    """Make the sampler, which proposes the next trial.

    tpe: models good and bad trials, all keys jointly (Bergstra et al. 2011; Falkner et al. 2018), after `n_startup`
    random ones; avoids those that are running if there are several (`n_jobs`).
    cmaes: CMA-ES over the numbers (Hansen 2016), tpe over choices; learns from trials that were not pruned.
    nsga2: a genetic algorithm for several objectives (Deb et al. 2002), generations of `n_startup`, the first random.
    random: uniformly. grid: every combination once, shuffled, `grid_size` of them.

    Raises ConfigError for an unknown sampler, or one that cannot search this space.
    """
    option = f"hydra.sweeper.sampler={name}"
    if name not in SAMPLERS:
        raise ConfigError(f"{option}: no such sampler; choose from {', '.join(SAMPLERS)}")
    if not space:
        add = "add a key, as in optimizer.lr=interval(1e-4,1e-2)"
        raise ConfigError(f"hydra.sweeper.params: the search space is empty; {add}")
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
            raise ConfigError(f"{option}: {not_installed('cmaes', 'tune')}, or use tpe")

    if name == "random":
        return _restartable(RandomSampler, seed)
    if name == "nsga2":
        return _restartable(NSGAIISampler, seed, population_size=max(2, n_startup))
    tpe = _restartable(TPESampler, seed, n_startup_trials=n_startup, multivariate=True, constant_liar=n_jobs > 1)
    if name == "tpe":
        return tpe
    return _restartable(CmaEsSampler, seed, independent_sampler=tpe, warn_independent_sampling=False)


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

    Prints a warning if the study was started with another version of Optuna. Raises ConfigError if it has other
    directions, space or settings (what else may not change), or the file cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    try:
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT}}),
            study_name=name,
            directions=directions,
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
    begun_with = study.user_attrs.get("optuna")
    if begun_with is None:  # studies from before it was recorded have trials already
        begun_with = "of an unknown version" if study.get_trials(deepcopy=False) else optuna.__version__
        study.set_user_attr("optuna", begun_with)
    if begun_with != optuna.__version__:
        versions = f"was started with Optuna {begun_with} and continues with {optuna.__version__}"
        print(f"{name}: {versions}, which may propose other trials", flush=True)
    return study


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
