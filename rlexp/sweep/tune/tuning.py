"""One tuning: asks Optuna for trials, trains them with a launcher, judges them at rungs and tells Optuna."""

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
    """Searches the space of one job's overrides.

    Args:
        jobs: makes the trials' jobs, and has the space.
        name: of this tuning within the study.
        folder: of the study.
        launcher: trains the jobs.
        settings: of the sweeper.

    Raises:
        ConfigError: an invalid setting; nothing is written yet.
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
        self.rungs = [rows * max(1, round(share * updates)) for share in settings.rungs]  # rows per agent
        if len({*self.rungs, rows * updates}) <= len(self.rungs):
            raise ConfigError(
                f"hydra.sweeper.rungs={list(settings.rungs)}: {updates} updates of {rows} steps are too few for "
                f"distinct rungs before the end; use fewer rungs, more total_steps or hydra.sweeper.pruner=none"
            )
        check_measures(settings.measures, settings.aggregate, judged=bool(self.rungs))
        if "evaluation" in settings.measures and not cfg.evaluation.episodes:
            raise ConfigError("hydra.sweeper.measure=evaluation: evaluation.episodes=0 leaves none; set it above 0")
        if "seconds" in settings.measures and getattr(launcher, "needs_equal_steps", False):
            raise ConfigError(
                "hydra.sweeper.measure=seconds: trials of a batch have no times of their own; use another launcher"
            )
        self.sampler, self.pruner = sampler, pruner
        self.rerun: set[Path] = set()  # folders of failed jobs that this launch has rerun
        self.budget = settings.n_trials
        if settings.sampler == "grid":
            self.budget = min(self.budget, grid_size(self.space))

    def open_study(self) -> None:
        """Create the study in <folder>/optuna.db, or resume it.

        Raises:
            ConfigError: it was started with another space or other settings.
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
                **self.settings.trial_settings(),
            },
        )

    @property
    def total(self) -> int:
        """Number of trials to run, retries included."""
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
                free = 0  # finish the active trials first: new ones cannot share their batch
            asked = [self.study.ask(self.space) for _ in range(min(free, self.total - known + waiting))]
            if not active + asked:
                break
            active = self._advance(active + asked)

    def _retried(self) -> list[int]:
        """Numbers of failed trials that have been enqueued again."""
        return list(self.study.user_attrs.get("retried", []))

    def _enqueue_failed(self, every: bool) -> None:
        """Enqueue failed trials again, once each and beyond the budget: all, or those whose folder was cleaned."""
        retried = self._retried()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            folder = trial.user_attrs.get("folder")  # relative to the directory it was launched from
            cleaned = folder is not None and not (self.folder / "trials" / Path(folder).name).exists()
            if trial.number not in retried and (every or cleaned):
                self.study.enqueue_trial(trial.params, {"retry_of": trial.number})
                retried.append(trial.number)
        self.study.set_user_attr("retried", retried)

    def _advance(self, trials: list[optuna.Trial]) -> list[optuna.Trial]:
        """Train every trial to its next rung or its end; returns those that continue."""
        legs: list[tuple[optuna.Trial, Planned, int | None]] = []  # trial, its job, the rung to reach
        for trial in trials:
            rung = self._next_rung(trial)
            try:
                job = self.jobs.trial(trial.params, None if rung is None else self.rungs[rung])
            except ImpossibleError as error:  # each value is valid alone (see `TrialJobs.check`), together they are not
                self._tell(trial, TrialState.FAIL, str(error))
                continue
            trial.set_user_attr("folder", str(job.job.folder))
            legs.append((trial, job, rung))
        jobs = {job.job.folder: job for _, job, _ in legs}  # two trials may have the same params
        left = {
            job.job.folder: job
            for trial, job, rung in legs
            if not self._has_reached(job, rung) and (not job.has_failed() or self._may_rerun(trial, job))
        }
        for folder in left:
            record = RunRecord(folder)
            if record.status == "pruned":  # pruned as another trial with the same params, but needed again
                record.update(status="interrupted")
        write_plan(list(jobs.values()))
        dispatch(self.launcher, list(left.values()))
        return [trial for trial, job, rung in legs if self._judge(trial, job, rung)]

    def _may_rerun(self, trial: optuna.Trial, job: Planned) -> bool:
        """Whether the trial retries a failed job that this launch has not rerun yet; marks it as rerun."""
        allowed = "retry_of" in trial.user_attrs and job.job.folder not in self.rerun
        self.rerun |= {job.job.folder} if allowed else set()
        return allowed

    def _next_rung(self, trial: optuna.Trial) -> int | None:
        """Index of the next rung, from 0; None: the end."""
        reported = self._frozen(trial).intermediate_values
        return next((k for k in range(len(self.rungs)) if k + 1 not in reported), None)

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _has_reached(self, job: Planned, rung: int | None) -> bool:
        """Whether a job has reached a rung, or its end."""
        record = job.record
        if record.get("status") == "done":
            return True
        return rung is not None and record.get("paused_at", 0) >= self._step(job, rung)

    def _step(self, job: Planned, rung: int) -> int:
        """Rows per agent at which the job pauses for a rung: the end of an update, whose size may vary by trial."""
        rows = int(job.job.cfg.env.num_envs) * int(job.job.cfg.algo.rollout_steps)
        return rows * math.ceil(self.rungs[rung] / rows)

    def _judge(self, trial: optuna.Trial, job: Planned, rung: int | None) -> bool:
        """Tell Optuna how a trial did; returns whether it continues."""
        if not self._has_reached(job, rung):
            error = job.record.get("error", f"its status is {job.status()}")
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
        if record.status != "done":  # else another trial has the same params and was completed
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
            outcome = self._describe(values)
        else:
            outcome = f"{'pruned' if state == TrialState.PRUNED else 'failed:'} {why}"
        twins = [t.number for t in self.study.get_trials(deepcopy=False) if t.params == trial.params]
        if twins[0] < trial.number:
            outcome += f" (as trial {twins[0]})"
        ended = sum(t.state.is_finished() for t in self.study.get_trials(deepcopy=False))
        params = self.jobs.describe(trial.params)
        print(f"{self.name} [{ended}/{self.total}] trial {trial.number}: {outcome}  {params}", flush=True)

    def _describe(self, values: Sequence[float]) -> str:
        pairs = zip(self.settings.measures, values, strict=True)
        return ", ".join(f"{name} {number(value)}" for name, value in pairs)

    # The best ----------------------------------------------------------------------------------------------------

    def winners(self) -> list[FrozenTrial]:
        """The best trial; for several measures, the Pareto front; empty if no trial completed."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return []
        return self.study.best_trials if len(self.settings.measures) > 1 else [self.study.best_trial]

    def best(self) -> list[Planned]:
        """Plan the best trials' runs on evaluation seeds."""
        params = [trial.params for trial in self.winners()]
        jobs = [self.jobs.best(point) for point in params]
        names = {job.name: self.jobs.describe(point) for job, point in zip(jobs, params, strict=True)}
        self.study.set_user_attr("evaluated", self.evaluated() | names)
        return jobs

    def superseded(self) -> list[str]:
        """Names of the runs on evaluation seeds whose params are no longer the best."""
        best = {self.jobs.describe(trial.params) for trial in self.winners()}
        return [name for name, params in self.evaluated().items() if params not in best]

    def evaluated(self) -> dict[str, str]:
        """All runs on evaluation seeds that this tuning has ever planned: name -> params."""
        return dict(self.study.user_attrs.get("evaluated", {}))

    def verdict(self) -> str:
        """A summary: the numbers of trials by state, and the best."""
        counts = {
            state: len(self.study.get_trials(deepcopy=False, states=(state,)))
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        }
        retried = len(self._retried())
        lines = [
            f"{self.name}: {counts[TrialState.COMPLETE]} trials complete, {counts[TrialState.PRUNED]} pruned, "
            f"{counts[TrialState.FAIL]} failed{f' ({retried} of them retried)' if retried else ''}, "
            f"on seeds {TUNING_SEED} to {TUNING_SEED + self.settings.num_seeds - 1}"
        ]
        best = [f"trial {t.number}, {self._describe(t.values)}: {self.jobs.describe(t.params)}" for t in self.winners()]
        return "\n  best: ".join([*lines, *best])

    def rows(self) -> list[dict[str, Any]]:
        """One row per trial: state, measures, reports at rungs, params."""
        names = [f"at {share:.0%}" for share in self.settings.rungs]
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            row: dict[str, Any] = {"tuning": self.name, "trial": trial.number, "state": trial.state.name.lower()}
            complete = trial.state == TrialState.COMPLETE  # Optuna gives pruned trials their last report as value
            row |= dict(zip(self.settings.measures, (trial.values or []) if complete else [], strict=False))
            row |= {name: trial.intermediate_values.get(rung) for rung, name in enumerate(names, 1)}
            rows.append(row | as_trained(trial.params, self.space))
        return rows
