"""One tuning: trials asked of Optuna, trained by a launcher, judged at rungs, told back."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra.plugins.launcher import Launcher
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from rlexp.config import NOT_IDENTITY, TUNING_SEED
from rlexp.errors import ConfigError, UserError
from rlexp.run_folder import RunRecord, key_of
from rlexp.sweep.dispatch import dispatch, write_plan
from rlexp.sweep.objective import MEASURES, check_measures, score
from rlexp.sweep.plan import Composer, Planned, plan
from rlexp.sweep.pruners import make_pruner
from rlexp.sweep.search import make_sampler, open_study, unfinished
from rlexp.sweep.space import as_overrides, as_trained, grid_size, space
from rlexp.wording import number

if TYPE_CHECKING:
    from rlexp.sweep.optuna_sweeper import TuningSettings

log = logging.getLogger(__name__)


class Tuning:
    """Searches one space for the overrides of one job.

    Args:
        words: overrides, those that are searched among them.
        name: of this tuning among those of the study.
        folder: of the study.
        study: its name.
        composer: makes configs of overrides.
        launcher: trains.
        settings: of the sweeper.

    Raises:
        ConfigError: a setting that cannot be.
    """

    def __init__(
        self,
        words: Sequence[str],
        name: str,
        folder: Path,
        study: str,
        composer: Composer,
        launcher: Launcher,
        settings: "TuningSettings",
    ) -> None:
        self.name, self.folder, self.study_name = name, folder, study
        self.composer, self.launcher, self.settings = composer, launcher, settings
        self.space, self.fixed = space(words, composer.parser)
        objectives = len(settings.measures)
        sampler = make_sampler(
            settings.sampler, settings.seed, self.space, settings.n_startup, settings.n_jobs, objectives
        )
        pruner = make_pruner(settings.pruner, settings.prune_after, settings.keep, objectives)
        (probe,) = plan(self.composer, [self._trial_words(self._any_params())])
        cfg = probe.job.cfg
        rows = int(cfg.env.num_envs) * int(cfg.algo.rollout_steps)  # a run pauses after a whole update
        updates = int(cfg.total_steps) // rows
        self.rungs = [rows * max(1, round(share * updates)) for share in settings.rungs]  # environment steps an agent
        check_measures(settings.measures, settings.aggregate, judged=bool(self.rungs))
        if "evaluation" in settings.measures and not cfg.evaluation.episodes:
            raise ConfigError("hydra.sweeper.measure=evaluation: there is none with evaluation.episodes=0")
        if "seconds" in settings.measures and getattr(launcher, "needs_equal_steps", False):
            raise ConfigError(
                "hydra.sweeper.measure=seconds: those of a batch are not of a trial; use another launcher"
            )
        self.study = open_study(
            folder / "optuna.db",
            name,
            [MEASURES[measure].direction for measure in settings.measures],
            self.space,
            sampler,
            pruner,
            {"fixed": sorted(w for w in self.fixed if key_of(w) not in NOT_IDENTITY), **settings.of_a_trial()},
        )
        self.budget = settings.n_trials
        if settings.sampler == "grid":
            self.budget = min(self.budget, grid_size(self.space))

    # Trials as jobs ----------------------------------------------------------------------------------------------

    def _any_params(self) -> dict[str, Any]:
        """One point of the space, by which the config can be checked before anything starts."""
        space: dict[str, Any] = self.space
        return {key: x.choices[0] if isinstance(x, CategoricalDistribution) else x.low for key, x in space.items()}

    def _trial_words(self, params: dict[str, Any], stop_at: int | None = None) -> list[str]:
        words = [*self.fixed, *as_overrides(params, self.space)]
        if "evaluation" not in self.settings.measures and not any(w.startswith("evaluation.") for w in words):
            words.append("evaluation.episodes=0")
        words += [f"seed={TUNING_SEED}", f"num_seeds={self.settings.num_seeds}", f"study={self.study_name}/trials"]
        return [*words, *([] if stop_at is None else [f"stop_at={stop_at}"])]

    # The search --------------------------------------------------------------------------------------------------

    def run(self, retry_failed: bool) -> None:
        """Run trials until the budget is spent."""
        if retry_failed:
            self._enqueue_failed()
        active = unfinished(self.study, self.space)
        while True:
            known = len(self.study.get_trials(deepcopy=False))
            waiting = len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
            budget = self.budget + len(self.study.user_attrs.get("retried", []))
            free = self.settings.n_jobs - len(active)
            if active and getattr(self.launcher, "needs_equal_steps", False):
                free = 0  # those under way go on alone: new ones would not share their batch
            active += [self.study.ask(self.space) for _ in range(min(free, budget - known + waiting))]
            if not active:
                break
            active = self._advance(active)

    def _enqueue_failed(self) -> None:
        """Trials that failed are tried again, once each, beyond the budget."""
        retried = self.study.user_attrs.get("retried", [])
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        for trial in failed:
            if trial.number not in retried:
                self.study.enqueue_trial(trial.params)
                retried = [*retried, trial.number]
        self.study.set_user_attr("retried", retried)

    def _advance(self, trials: list[optuna.Trial]) -> list[optuna.Trial]:
        """Train every trial up to its next rung, or to its end; returns those that have to go on."""
        stops = [self._next_rung(trial) for trial in trials]
        jobs = []  # one a trial, also where two trials came to the same params
        for trial, rung in zip(trials, stops, strict=True):
            jobs += plan(self.composer, [self._trial_words(trial.params, None if rung is None else self.rungs[rung])])
        left = {
            job.job.folder: job
            for job, rung in zip(jobs, stops, strict=True)
            if not self._is_there(job, rung) and not job.has_failed()
        }
        for trial, job in zip(trials, jobs, strict=True):
            trial.set_user_attr("folder", str(job.job.folder))
        for job in left.values():
            record = RunRecord(job.job.folder)
            if record.status == "pruned":  # as another trial with the same params, which is judged better now
                record.update(status="interrupted")
        write_plan(list({job.job.folder: job for job in jobs}.values()))
        dispatch(self.launcher, list(left.values()))
        return [t for t, job, rung in zip(trials, jobs, stops, strict=True) if self._judge(t, job, rung)]

    def _next_rung(self, trial: optuna.Trial) -> int | None:
        """Number of the next one, from 0; None: the end."""
        reported = self._frozen(trial).intermediate_values
        return next((k for k in range(len(self.rungs)) if k + 1 not in reported), None)

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _is_there(self, job: Planned, rung: int | None) -> bool:
        """Whether a job has come to a rung, or to its end, already."""
        record = RunRecord(job.job.folder).data
        if record.get("status") == "done":
            return True
        return rung is not None and record.get("paused_at", 0) >= self.rungs[rung]

    def _judge(self, trial: optuna.Trial, job: Planned, rung: int | None) -> bool:
        """Tell what became of a trial; returns whether it has to go on."""
        if not self._is_there(job, rung):
            error = RunRecord(job.job.folder).data.get("error", f"it is {job.standing()}")
            self._tell(trial, job, TrialState.FAIL, error)
            return False
        values = self._values(job, rung)
        if isinstance(values, str) or any(map(math.isnan, values)):
            why = values if isinstance(values, str) else "a seed finished no episode"
            self._tell(trial, job, TrialState.FAIL, why)
            return False
        if rung is None:
            self._tell(trial, job, TrialState.COMPLETE, values=values)
            return False
        trial.report(values[0], rung + 1)
        if not trial.should_prune():
            return True
        share = f"{self.settings.rungs[rung]:.0%}"
        record = RunRecord(job.job.folder)
        if record.status != "done":  # another trial came to the same params, and went to the end
            record.update(status="pruned", error=f"pruned at {share} with {number(values[0])}")
        self._tell(trial, job, TrialState.PRUNED, f"at {share} with {number(values[0])}")
        return False

    def _values(self, job: Planned, rung: int | None) -> list[float] | str:
        """The trial's measures, or why there are none."""
        up_to = None if rung is None else self.rungs[rung]
        try:
            return [score(job.job.folder, name, self.settings.aggregate, up_to) for name in self.settings.measures]
        except UserError as error:
            return str(error)

    def _tell(
        self, trial: optuna.Trial, job: Planned, state: TrialState, why: str = "", values: Sequence[float] = ()
    ) -> None:
        if state == TrialState.FAIL:
            trial.set_user_attr("error", why)
        self.study.tell(trial, list(values) or None, state)
        if state == TrialState.COMPLETE:
            told = self._shown(values)
        else:
            told = f"{'pruned' if state == TrialState.PRUNED else 'failed:'} {why}"
        twins = [t.number for t in self.study.get_trials(deepcopy=False) if t.params == trial.params]
        if twins[0] < trial.number:
            told += f" (as trial {twins[0]})"
        ended = sum(t.state.is_finished() for t in self.study.get_trials(deepcopy=False))
        params = " ".join(as_overrides(trial.params, self.space))
        print(f"{self.name} [{ended}/{self.budget}] trial {trial.number}: {told}  {params}", flush=True)

    def _shown(self, values: Sequence[float]) -> str:
        pairs = zip(self.settings.measures, values, strict=True)
        return ", ".join(f"{name} {number(value)}" for name, value in pairs)

    # The best ----------------------------------------------------------------------------------------------------

    def winners(self) -> list[FrozenTrial]:
        """The best trial; of several measures, those that no other beats in all; none if none came to its end."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return []
        return self.study.best_trials if len(self.settings.measures) > 1 else [self.study.best_trial]

    def best(self) -> list[list[str]]:
        """Overrides of the best, on evaluation seeds."""
        seeds = ["seed=0", f"num_seeds={self.settings.evaluation_seeds}", f"study={self.study_name}"]
        return [[*self.fixed, *as_overrides(trial.params, self.space), *seeds] for trial in self.winners()]

    def verdict(self) -> str:
        """The best trial in words, and what became of the others."""
        counts = {
            state: len(self.study.get_trials(deepcopy=False, states=(state,)))
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        }
        lines = [
            f"{self.name}: {counts[TrialState.COMPLETE]} trials complete, {counts[TrialState.PRUNED]} pruned, "
            f"{counts[TrialState.FAIL]} failed, on seeds {TUNING_SEED} to {TUNING_SEED + self.settings.num_seeds - 1}"
        ]
        for trial in self.winners():
            params = " ".join(as_overrides(trial.params, self.space))
            lines.append(f"  best: trial {trial.number}, {self._shown(trial.values)}: {params}")
        return "\n".join(lines)

    def rows(self) -> list[dict[str, Any]]:
        """Every trial as a row: its state, measures, reports at rungs, and params."""
        names = [f"at {share:.0%}" for share in self.settings.rungs]
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            row: dict[str, Any] = {"tuning": self.name, "trial": trial.number, "state": trial.state.name.lower()}
            row |= dict(zip(self.settings.measures, trial.values or [], strict=False))
            row |= {name: trial.intermediate_values.get(rung) for rung, name in enumerate(names, 1)}
            rows.append(row | as_trained(trial.params, self.space))
        return rows
