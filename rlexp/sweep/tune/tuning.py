"""One tuning: asks Optuna for trials, trains them with a launcher, judges them at rungs and tells Optuna."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.plugins.launcher import Launcher
from optuna.trial import FrozenTrial, TrialState

from rlexp.config.identity import NOT_IDENTITY, key_of
from rlexp.config.schema import TUNING_SEED, seeds_of
from rlexp.errors import ConfigError, UserError
from rlexp.run.record import RunRecord, diverged_in
from rlexp.sweep.plan import ImpossibleError, Planned
from rlexp.sweep.run import dispatch, write_plan
from rlexp.sweep.tune.objective import MEASURES, score
from rlexp.sweep.tune.pruners import make_pruner
from rlexp.sweep.tune.samplers import make_sampler, open_study, unfinished
from rlexp.sweep.tune.settings import TuningSettings
from rlexp.sweep.tune.space import as_trained, grid_size
from rlexp.sweep.tune.trials import TrialJobs
from rlexp.text import number


def _require_all_seeds(job: Planned) -> None:
    """Fail a trial of which a seed has diverged (UserError), as if all had: the others must not stand for it."""
    for seed, entry in diverged_in(job.record).items():
        why = (
            f"DivergedError: update {entry.get('update')}: {entry.get('metric')} of seed {seed} is {entry.get('value')}"
        )
        RunRecord(job.folder).update(status="failed", error=why, ended="diverged")
        raise UserError(why)


class Tuning:
    """Searches the space of `jobs`: the tuning `name` of the study in `folder`.

    Raises ConfigError for an invalid setting, before anything is written.
    """

    def __init__(self, jobs: TrialJobs, name: str, folder: Path, launcher: Launcher, settings: TuningSettings) -> None:
        self.jobs, self.space, self.name, self.folder = jobs, jobs.space, name, folder
        self.launcher, self.settings = launcher, settings
        self.launched: set[Path] = set()  # folders of jobs; a failed one runs again once, whatever trials share it
        self.in_batch = getattr(launcher, "needs_equal_steps", False)
        count = len(settings.measures)
        self.sampler = make_sampler(
            settings.sampler, settings.seed, self.space, settings.n_startup, settings.n_jobs, count
        )
        self.pruner = make_pruner(settings.pruner, settings.prune_after, settings.keep, count)
        cfg = jobs.check()
        self.last_seed = seeds_of(cfg)[-1]  # of those that trials train on
        rows = int(cfg.env.num_envs) * int(cfg.algo.rollout_steps)  # a run pauses after a whole update
        updates = int(cfg.total_steps) // rows
        self.rungs = [rows * max(1, round(share * updates)) for share in settings.rungs]  # rows per agent
        if len({*self.rungs, rows * updates}) <= len(self.rungs):
            raise ConfigError(
                f"hydra.sweeper.rungs={list(settings.rungs)}: {updates} updates of {rows} steps are too few for "
                f"distinct rungs before the end; use fewer rungs, more total_steps or hydra.sweeper.pruner=none"
            )
        if "evaluation" in settings.measures and not cfg.evaluation.episodes:
            raise ConfigError("hydra.sweeper.measure=evaluation: evaluation.episodes=0 leaves none; set it above 0")
        if "seconds" in settings.measures and self.in_batch:
            raise ConfigError(
                "hydra.sweeper.measure=seconds: trials of a batch have no times of their own; use another launcher"
            )
        grid = settings.sampler == "grid"
        self.budget = min(settings.n_trials, grid_size(self.space)) if grid else settings.n_trials

    def open_study(self) -> None:
        """Create the study in <folder>/optuna.db, or resume it; raises ConfigError if its space or settings differ."""
        unchanging = {name: getattr(self.settings, name) for name in ("measures", "aggregate", "num_seeds", "rungs")}
        unchanging["fixed"] = sorted(word for word in self.jobs.fixed if key_of(word) not in NOT_IDENTITY)
        self.study = open_study(
            self.folder / "optuna.db",
            self.name,
            [MEASURES[measure][1] for measure in self.settings.measures],
            self.space,
            self.sampler,
            self.pruner,
            unchanging,
        )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The stored trials in these states; none given: all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def retried(self) -> set[int]:
        """Numbers of failed trials that have been enqueued again."""
        return {trial.user_attrs["retry_of"] for trial in self.trials() if "retry_of" in trial.user_attrs}

    # The search --------------------------------------------------------------------------------------------------

    def run(self, retry_failed: bool) -> None:
        """Run trials until the budget is spent.

        Failed ones are run again, once each and beyond the budget: all, or those whose folder was cleaned.
        """
        retried = self.retried()
        for trial in self.trials(TrialState.FAIL):
            folder = trial.user_attrs.get("folder")  # relative to the directory it was launched from
            cleaned = folder is not None and not (self.folder / "trials" / Path(folder).name).exists()
            if trial.number not in retried and (retry_failed or cleaned):
                self.study.enqueue_trial(trial.params, {"retry_of": trial.number})
        active = unfinished(self.study, self.space)
        while True:
            begun = len(self.trials()) - len(self.trials(TrialState.WAITING))
            free = min(self.settings.n_jobs - len(active), self.budget + len(self.retried()) - begun)
            if active and self.in_batch:
                free = 0  # finish the active trials first: new ones cannot share their batch
            active += [self.study.ask(self.space) for _ in range(free)]
            if not active:
                break
            active = self._advance(active)

    def _advance(self, trials: list[optuna.Trial]) -> list[optuna.Trial]:
        """Train every trial to its next rung or its end; returns those that continue."""
        legs: list[tuple[optuna.Trial, Planned, int | None]] = []  # trial, its job, index of the rung to reach, or None
        for trial in trials:
            reported = self.trials()[trial.number].intermediate_values  # by rung, from 1
            rung = next((k for k in range(len(self.rungs)) if k + 1 not in reported), None)
            try:
                job = self.jobs.trial(trial.params, None if rung is None else self.rungs[rung])
            except ImpossibleError as error:  # each value is valid alone (see `TrialJobs.check`), together they are not
                self._tell(trial, TrialState.FAIL, str(error))
                continue
            trial.set_user_attr("folder", str(job.folder))
            legs.append((trial, job, rung))
        jobs = {job.folder: job for _, job, _ in legs}  # two trials may have the same params
        left: dict[Path, Planned] = {}
        for trial, job, rung in legs:
            again = "retry_of" in trial.user_attrs and job.folder not in self.launched
            if not self._has_reached(job, rung) and (again or not job.has_failed()):
                left[job.folder] = job
        self.launched |= left.keys()
        for folder in left:
            record = RunRecord(folder)
            if record.status == "pruned":  # pruned as another trial with the same params, but needed again
                record.update(status="interrupted")
        write_plan(list(jobs.values()))
        dispatch(self.launcher, list(left.values()))
        return [trial for trial, job, rung in legs if self._judge(trial, job, rung)]

    def _has_reached(self, job: Planned, rung: int | None) -> bool:
        """Whether a job has reached a rung, or its end."""
        record = job.record
        paused_at = record.get("paused_at", 0)
        return record.get("status") == "done" or (rung is not None and paused_at >= self._step(job, rung))

    def _step(self, job: Planned, rung: int) -> int:
        """Rows per agent at which the job pauses for a rung: the end of an update, whose size may vary by trial."""
        rows = int(job.cfg.env.num_envs) * int(job.cfg.algo.rollout_steps)
        return rows * math.ceil(self.rungs[rung] / rows)

    def _judge(self, trial: optuna.Trial, job: Planned, rung: int | None) -> bool:
        """Tell Optuna how a trial did; returns whether it continues."""
        try:
            if not self._has_reached(job, rung):
                raise UserError(job.record.get("error", f"its status is {job.status()}"))
            _require_all_seeds(job)
            up_to = None if rung is None else self._step(job, rung)
            values = [score(job.folder, name, self.settings.aggregate, up_to) for name in self.settings.measures]
            if any(map(math.isnan, values)):
                raise UserError("a seed finished no episode")
        except UserError as error:
            self._tell(trial, TrialState.FAIL, str(error))
            return False
        if rung is None:
            self._tell(trial, TrialState.COMPLETE, values=values)
            return False
        trial.report(values[0], rung + 1)
        if not trial.should_prune():
            return True
        why = f"at {self.settings.rungs[rung]:.0%} with {number(values[0])}"
        record = RunRecord(job.folder)
        if record.status != "done":  # else another trial has the same params and was completed
            record.update(status="pruned", error=f"pruned {why}")
        self._tell(trial, TrialState.PRUNED, why)
        return False

    def _tell(self, trial: optuna.Trial, state: TrialState, why: str = "", values: Sequence[float] = ()) -> None:
        if state == TrialState.FAIL:
            trial.set_user_attr("error", why)
        self.study.tell(trial, list(values) or None, state)
        if state == TrialState.COMPLETE:
            outcome = self._describe(values)
        else:
            outcome = f"{'pruned' if state == TrialState.PRUNED else 'failed:'} {why}"
        twin = next(t.number for t in self.trials() if t.params == trial.params)
        same = f" (as trial {twin})" if twin < trial.number else ""
        ended, total = sum(t.state.is_finished() for t in self.trials()), self.budget + len(self.retried())
        params = self.jobs.describe(trial.params)
        print(f"{self.name} [{ended}/{total}] trial {trial.number}: {outcome}{same}  {params}", flush=True)

    def _describe(self, values: Sequence[float]) -> str:
        return ", ".join(f"{name} {number(value)}" for name, value in zip(self.settings.measures, values, strict=True))

    # The best ----------------------------------------------------------------------------------------------------

    def winners(self) -> list[FrozenTrial]:
        """The best trial; for several measures, the Pareto front; empty if no trial completed."""
        if not self.trials(TrialState.COMPLETE):
            return []
        return self.study.best_trials if len(self.settings.measures) > 1 else [self.study.best_trial]

    def best(self) -> list[Planned]:
        """Plan the best trials' runs on evaluation seeds."""
        jobs = {self.jobs.describe(trial.params): self.jobs.best(trial.params) for trial in self.winners()}
        self.study.set_user_attr("evaluated", self.evaluated() | {job.name: params for params, job in jobs.items()})
        return list(jobs.values())

    def evaluated(self) -> dict[str, str]:
        """All runs on evaluation seeds that this tuning has ever planned: name -> params."""
        return dict(self.study.user_attrs.get("evaluated", {}))

    def superseded(self) -> list[str]:
        """Names of the runs on evaluation seeds whose params are no longer the best."""
        best = {self.jobs.describe(trial.params) for trial in self.winners()}
        return [name for name, params in self.evaluated().items() if params not in best]

    def verdict(self) -> str:
        """A summary: the numbers of trials by state, and the best."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        complete, pruned, failed = (len(self.trials(state)) for state in states)
        retried = f" ({len(self.retried())} of them retried)" if self.retried() else ""
        seeds = f"on seeds {TUNING_SEED} to {self.last_seed}"
        line = f"{self.name}: {complete} trials complete, {pruned} pruned, {failed} failed{retried}, {seeds}"
        best = [f"trial {t.number}, {self._describe(t.values)}: {self.jobs.describe(t.params)}" for t in self.winners()]
        return "\n  best: ".join([line, *best])

    def rows(self) -> list[dict[str, Any]]:
        """One row per trial: state, measures, reports at rungs, params."""
        rows = []
        for trial in self.trials():
            row: dict[str, Any] = {"tuning": self.name, "trial": trial.number, "state": trial.state.name.lower()}
            if trial.state == TrialState.COMPLETE:  # Optuna gives pruned trials their last report as value
                row |= dict(zip(self.settings.measures, trial.values, strict=True))
            row |= {f"at {s:.0%}": trial.intermediate_values.get(k) for k, s in enumerate(self.settings.rungs, 1)}
            rows.append(row | as_trained(trial.params, self.space))
        return rows
