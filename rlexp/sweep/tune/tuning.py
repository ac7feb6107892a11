"""One tuning: trials asked of Optuna, trained by a launcher, judged at rungs, told back."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra.plugins.launcher import Launcher
from optuna.trial import FrozenTrial, TrialState

from rlexp.config.identity import NOT_IDENTITY
from rlexp.config.overrides import key_of
from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError, UserError
from rlexp.run.record import RunRecord
from rlexp.sweep.plan import ImpossibleError, Planned
from rlexp.sweep.run import dispatch, write_plan
from rlexp.sweep.tune.objective import MEASURES, check_measures, score
from rlexp.sweep.tune.pruners import make_pruner
from rlexp.sweep.tune.samplers import make_sampler, open_study, unfinished
from rlexp.sweep.tune.space import as_trained, grid_size
from rlexp.sweep.tune.trials import TrialJobs
from rlexp.text import number

if TYPE_CHECKING:
    from rlexp.sweep.tune.settings import TuningSettings


class Tuning:
    """Searches one space for the overrides of one job.

    Args:
        jobs: makes those of the trials, and knows the space.
        name: of this tuning among those of the study.
        folder: of the study.
        launcher: trains.
        settings: of the sweeper.

    Raises:
        ConfigError: a setting that cannot be; nothing is written yet.
    """

    def __init__(
        self, jobs: TrialJobs, name: str, folder: Path, launcher: Launcher, settings: "TuningSettings"
    ) -> None:
        self.jobs, self.space, self.name, self.folder = jobs, jobs.space, name, folder
        self.launcher, self.settings = launcher, settings
        objectives = len(settings.measures)
        sampler = make_sampler(
            settings.sampler, settings.seed, self.space, settings.n_startup, settings.n_jobs, objectives
        )
        pruner = make_pruner(settings.pruner, settings.prune_after, settings.keep, objectives)
        cfg = jobs.check()
        rows = int(cfg.env.num_envs) * int(cfg.algo.rollout_steps)  # a run pauses after a whole update
        updates = int(cfg.total_steps) // rows
        self.rungs = [rows * max(1, round(share * updates)) for share in settings.rungs]  # environment steps an agent
        if len({*self.rungs, rows * updates}) <= len(self.rungs):
            raise ConfigError(
                f"hydra.sweeper.rungs={list(settings.rungs)}: are not all apart, and before the end, in {updates} "
                f"updates of {rows} steps; give fewer rungs, more total_steps or hydra.sweeper.pruner=none"
            )
        check_measures(settings.measures, settings.aggregate, judged=bool(self.rungs))
        if "evaluation" in settings.measures and not cfg.evaluation.episodes:
            raise ConfigError("hydra.sweeper.measure=evaluation: there is none with evaluation.episodes=0")
        if "seconds" in settings.measures and getattr(launcher, "needs_equal_steps", False):
            raise ConfigError(
                "hydra.sweeper.measure=seconds: those of a batch are not of a trial; use another launcher"
            )
        self.sampler, self.pruner = sampler, pruner
        self.tried_again: set[Path] = set()  # folders of jobs that had failed
        self.budget = settings.n_trials
        if settings.sampler == "grid":
            self.budget = min(self.budget, grid_size(self.space))

    def begin(self) -> None:
        """Open the study in <folder>/optuna.db, or go on with it.

        Raises:
            ConfigError: it was begun with another space or other settings.
        """
        self.study = open_study(
            self.folder / "optuna.db",
            self.name,
            [MEASURES[measure].direction for measure in self.settings.measures],
            self.space,
            self.sampler,
            self.pruner,
            {
                "fixed": sorted(w for w in self.jobs.fixed if key_of(w) not in NOT_IDENTITY),
                **self.settings.of_a_trial(),
            },
        )

    @property
    def total(self) -> int:
        """Trials that there are to be, with those that are tried again."""
        return self.budget + len(self._retried())

    # The search --------------------------------------------------------------------------------------------------

    def run(self, retry_failed: bool) -> None:
        """Run trials until the budget is spent."""
        self._enqueue_failed(retry_failed)
        active = unfinished(self.study, self.space)
        while True:
            known = len(self.study.get_trials(deepcopy=False))
            waiting = len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
            free = self.settings.n_jobs - len(active)
            if active and getattr(self.launcher, "needs_equal_steps", False):
                free = 0  # those under way go on alone: new ones would not share their batch
            asked = [self.study.ask(self.space) for _ in range(min(free, self.total - known + waiting))]
            if not active + asked:
                break
            active = self._advance(active + asked)

    def _retried(self) -> list[int]:
        """Numbers of failed trials that were put into the queue again."""
        return list(self.study.user_attrs.get("retried", []))

    def _enqueue_failed(self, every: bool) -> None:
        """Trials that failed are tried again, once each, beyond the budget: all, or those whose folder was cleaned."""
        retried = self._retried()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            folder = trial.user_attrs.get("folder")  # as seen from where it was launched
            cleaned = folder is not None and not (self.folder / "trials" / Path(folder).name).exists()
            if trial.number not in retried and (every or cleaned):
                self.study.enqueue_trial(trial.params, {"retry_of": trial.number})
                retried.append(trial.number)
        self.study.set_user_attr("retried", retried)

    def _advance(self, trials: list[optuna.Trial]) -> list[optuna.Trial]:
        """Train every trial up to its next rung, or to its end; returns those that have to go on."""
        legs: list[tuple[optuna.Trial, Planned, int | None]] = []  # with the job, and the rung that it is to come to
        for trial in trials:
            rung = self._next_rung(trial)
            try:
                job = self.jobs.trial(trial.params, None if rung is None else self.rungs[rung])
            except ImpossibleError as error:  # by itself each of its values can be: see `TrialJobs.check`
                self._tell(trial, TrialState.FAIL, str(error))
                continue
            trial.set_user_attr("folder", str(job.job.folder))
            legs.append((trial, job, rung))
        jobs = {job.job.folder: job for _, job, _ in legs}  # two trials may have come to the same params
        left = {
            job.job.folder: job
            for trial, job, rung in legs
            if not self._is_there(job, rung) and (not job.has_failed() or self._may_try_again(trial, job))
        }
        for folder in left:
            record = RunRecord(folder)
            if record.status == "pruned":  # as another trial with the same params, which is judged better now
                record.update(status="interrupted")
        write_plan(list(jobs.values()))
        dispatch(self.launcher, list(left.values()))
        return [trial for trial, job, rung in legs if self._judge(trial, job, rung)]

    def _may_try_again(self, trial: optuna.Trial, job: Planned) -> bool:
        """Whether the trial is there to have a failed job run again, which this launch has not done yet."""
        allowed = "retry_of" in trial.user_attrs and job.job.folder not in self.tried_again
        self.tried_again |= {job.job.folder} if allowed else set()
        return allowed

    def _next_rung(self, trial: optuna.Trial) -> int | None:
        """Number of the next one, from 0; None: the end."""
        reported = self._frozen(trial).intermediate_values
        return next((k for k in range(len(self.rungs)) if k + 1 not in reported), None)

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _is_there(self, job: Planned, rung: int | None) -> bool:
        """Whether a job has come to a rung, or to its end, already."""
        record = job.record
        if record.get("status") == "done":
            return True
        return rung is not None and record.get("paused_at", 0) >= self._step(job, rung)

    def _step(self, job: Planned, rung: int) -> int:
        """Environment steps an agent at which the job pauses for a rung: after a whole update of its own size."""
        rows = int(job.job.cfg.env.num_envs) * int(job.job.cfg.algo.rollout_steps)
        return rows * math.ceil(self.rungs[rung] / rows)

    def _judge(self, trial: optuna.Trial, job: Planned, rung: int | None) -> bool:
        """Tell what became of a trial; returns whether it has to go on."""
        if not self._is_there(job, rung):
            error = job.record.get("error", f"it is {job.standing()}")
            self._tell(trial, TrialState.FAIL, error)
            return False
        values = self._values(job, rung)
        if isinstance(values, str) or any(map(math.isnan, values)):
            why = values if isinstance(values, str) else "a seed finished no episode"
            self._tell(trial, TrialState.FAIL, why)
            return False
        if rung is None:
            self._tell(trial, TrialState.COMPLETE, values=values)
            return False
        trial.report(values[0], rung + 1)
        if not trial.should_prune():
            return True
        share = f"{self.settings.rungs[rung]:.0%}"
        record = RunRecord(job.job.folder)
        if record.status != "done":  # another trial came to the same params, and went to the end
            record.update(status="pruned", error=f"pruned at {share} with {number(values[0])}")
        self._tell(trial, TrialState.PRUNED, f"at {share} with {number(values[0])}")
        return False

    def _values(self, job: Planned, rung: int | None) -> list[float] | str:
        """The trial's measures, or why there are none."""
        up_to = None if rung is None else self._step(job, rung)
        try:
            return [score(job.job.folder, name, self.settings.aggregate, up_to) for name in self.settings.measures]
        except UserError as error:
            return str(error)

    def _tell(self, trial: optuna.Trial, state: TrialState, why: str = "", values: Sequence[float] = ()) -> None:
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
        params = self.jobs.shown(trial.params)
        print(f"{self.name} [{ended}/{self.total}] trial {trial.number}: {told}  {params}", flush=True)

    def _shown(self, values: Sequence[float]) -> str:
        pairs = zip(self.settings.measures, values, strict=True)
        return ", ".join(f"{name} {number(value)}" for name, value in pairs)

    # The best ----------------------------------------------------------------------------------------------------

    def winners(self) -> list[FrozenTrial]:
        """The best trial; of several measures, those that no other beats in all; none if none came to its end."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return []
        return self.study.best_trials if len(self.settings.measures) > 1 else [self.study.best_trial]

    def best(self) -> list[Planned]:
        """The best as jobs on evaluation seeds."""
        params = [trial.params for trial in self.winners()]
        jobs = [self.jobs.best(own) for own in params]
        names = {job.name: self.jobs.shown(own) for job, own in zip(jobs, params, strict=True)}
        self.study.set_user_attr("evaluated", self.evaluated() | names)
        return jobs

    def superseded(self) -> list[str]:
        """Names of the runs on evaluation seeds whose params are not the best any more."""
        best = {self.jobs.shown(trial.params) for trial in self.winners()}
        return [name for name, params in self.evaluated().items() if params not in best]

    def evaluated(self) -> dict[str, str]:
        """All runs on evaluation seeds that this tuning has ever asked for: name -> params."""
        return dict(self.study.user_attrs.get("evaluated", {}))

    def verdict(self) -> str:
        """The best trial in words, and what became of the others."""
        counts = {
            state: len(self.study.get_trials(deepcopy=False, states=(state,)))
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        }
        retried = len(self._retried())
        lines = [
            f"{self.name}: {counts[TrialState.COMPLETE]} trials complete, {counts[TrialState.PRUNED]} pruned, "
            f"{counts[TrialState.FAIL]} failed{f' ({retried} of them tried again)' if retried else ''}, "
            f"on seeds {TUNING_SEED} to {TUNING_SEED + self.settings.num_seeds - 1}"
        ]
        best = [f"trial {t.number}, {self._shown(t.values)}: {self.jobs.shown(t.params)}" for t in self.winners()]
        return "\n  best: ".join([*lines, *best])

    def rows(self) -> list[dict[str, Any]]:
        """Every trial as a row: its state, measures, reports at rungs, and params."""
        names = [f"at {share:.0%}" for share in self.settings.rungs]
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            row: dict[str, Any] = {"tuning": self.name, "trial": trial.number, "state": trial.state.name.lower()}
            whole = trial.state == TrialState.COMPLETE  # to Optuna the value of a pruned one is its last report
            row |= dict(zip(self.settings.measures, (trial.values or []) if whole else [], strict=False))
            row |= {name: trial.intermediate_values.get(rung) for rung, name in enumerate(names, 1)}
            rows.append(row | as_trained(trial.params, self.space))
        return rows
