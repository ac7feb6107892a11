"""Runs sorted into environments and arms, and the checks that make a comparison of them fair."""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlexp.compare.audit import PER_SEED, code_between, code_differences, code_remarks, few, finished
from rlexp.compare.reference_scores import SCORES
from rlexp.study.runs import Curve, Run, StudyError

NOT_OF_TRAINING = ("evaluation.",)  # settings of what is measured afterwards
ALIKE = 0.01  # numbers of steps that differ by less are not told apart


@dataclass(frozen=True)
class Sample:
    """One seed of one arm: the unit of every statistic."""

    seed: int
    curve: Curve
    evaluation: float | None
    run: Run


@dataclass
class Arm:
    """All seeds trained with one config on one environment."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


@dataclass
class Task:
    """What is compared on one environment, and what is known of its scores."""

    env: str
    arms: dict[str, Arm]
    differing: dict[str, dict[str, Any]]  # key -> arm -> value
    threshold: float | None
    bounds: tuple[float, float] | None  # scores of no skill and of mastery


@dataclass
class Comparison:
    """Environments, each with the same arms as far as they were run, and what has to be said about the runs."""

    tasks: list[Task]
    remarks: list[str]

    @property
    def arm_names(self) -> list[str]:
        """Every arm of any environment, in the order of their names."""
        return sorted({name for task in self.tasks for name in task.arms}, key=natural)


def compare_runs(
    runs: Iterable[Run],
    allow: Collection[str] = (),
    threshold: float | None = None,
    known: Iterable[str] = (),
) -> Comparison:
    """Sort finished runs into arms and read their curves.

    Args:
        runs: as `study.find_runs` gives them.
        allow: keys that may differ besides the tested term, and "code" of seeds and arms; "all" allows everything.
        threshold: of steps to the threshold and of retention, instead of what is known of each environment.
        known: what has to be said besides.

    Raises:
        StudyError: nothing finished, arms that differ in more than the tested term, or different code of one file.
    """
    remarks = list(known)
    done = finished(runs, remarks)
    if not done:
        raise StudyError("no run has finished with whole curves: there is nothing to compare; " + "; ".join(remarks))
    by_env = {env: [run for run in done if run.env == env] for env in sorted({run.env for run in done})}
    varied: dict[str, set[str]] = {run.algo: set() for run in done}  # what names the arms, on every environment alike
    for env, own in by_env.items():
        _require_one_term(env, own, allow)
        for algo, of_algo in _by_algo(own).items():
            varied[algo] |= _differing(of_algo)
    _remark_unnamed(done, varied, remarks)
    tasks = [_task(env, own, varied, threshold, remarks) for env, own in by_env.items()]
    tasks = [task for task in tasks if task.arms]
    for task in tasks:
        _require_one_code(task, allow, remarks)
    if not tasks:
        raise StudyError("no seed has finished a training episode: train longer; " + "; ".join(remarks))
    return Comparison(tasks, remarks + code_remarks(done))


def natural(name: str) -> list[tuple[float, str]]:
    """A key that sorts names by the numbers in them: coef=5 before coef=10."""
    parts = re.split(r"((?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?)", name)
    return [(float(part), "") if i % 2 else (math.inf, part) for i, part in enumerate(parts)]


def _training_settings(run: Run) -> dict[str, Any]:
    return {k: v for k, v in run.settings.items() if k not in PER_SEED and not k.startswith(NOT_OF_TRAINING)}


def _differing(runs: list[Run]) -> set[str]:
    """Keys that do not have one value in all runs; a key that some lack is one."""
    configs = [_training_settings(run) for run in runs]
    keys = {key for config in configs for key in config}
    missing = object()
    return {key for key in keys if len({repr(config.get(key, missing)) for config in configs}) > 1}


def _by_algo(runs: list[Run]) -> dict[str, list[Run]]:
    return {name: [run for run in runs if run.algo == name] for name in dict.fromkeys(run.algo for run in runs)}


def _task(env: str, runs: list[Run], varied: dict[str, set[str]], threshold: float | None, remarks: list[str]) -> Task:
    arms: dict[str, Arm] = {}
    for run in sorted(runs, key=lambda run: run.record.get("started", "")):
        name = _name(run, varied[run.algo])
        arms.setdefault(name, Arm(name)).runs.append(run)
    for arm in arms.values():
        _gather(arm, env, remarks)
    arms = {name: arms[name] for name in sorted(arms, key=natural) if arms[name].samples}
    _remark_missing_seeds(env, arms, remarks)
    _remark_steps(env, arms, remarks)
    if len({repr(run.evaluated_with) for run in runs if run.evaluations}) > 1:
        remarks.append(f"{env}: frozen evaluations were made with different settings; rlexp.evaluate makes them anew")
    first, known = runs[0].settings, SCORES.get(env)
    bounds = first.get("env.bounds") or (known and (known.low, known.high))
    if threshold is None:
        threshold = first.get("env.threshold")
    if threshold is None and known is not None:
        threshold = known.solved
    if threshold is not None and threshold <= (bounds[0] if bounds else 0):
        why = f"its threshold {threshold:g} is not above {'the score of no skill' if bounds else '0'}"
        remarks.append(f"{env}: no retention, as {why}" + ("" if bounds else "; env.bounds says what no skill scores"))
    return Task(
        env,
        arms,
        {k: {name: arm.runs[0].settings.get(k, "—") for name, arm in arms.items()} for k in sorted(_differing(runs))},
        threshold,
        (float(bounds[0]), float(bounds[1])) if bounds else None,
    )


def _name(run: Run, keys: set[str]) -> str:
    """The algorithm, then what tells it from others of the same: `apo anchor_coef=1`."""

    def shown(value: Any) -> str:
        if isinstance(value, tuple):
            return f"[{','.join(map(shown, value))}]"
        return f"{value:g}" if isinstance(value, float) else str(value)

    words = [f"{key.removeprefix('algo.')}={shown(run.settings.get(key, '—'))}" for key in sorted(keys)]
    return " ".join([run.algo, *words])


def _remark_unnamed(runs: list[Run], varied: dict[str, set[str]], remarks: list[str]) -> None:
    """Say of settings of the tested term that differ from one environment to another, which no arm's name tells."""
    shared = set.intersection(*(set(_training_settings(run)) for run in runs))
    for algo, own in _by_algo(runs).items():
        for key in sorted(_differing(own) - shared - varied[algo]):
            values = {f"{run.settings.get(key, '—')} on {run.env}": None for run in own}
            remarks.append(f"{algo}: {key} is {', '.join(values)}")


def beyond_one_term(runs: list[Run], allow: Collection[str] = ()) -> set[str]:
    """Settings besides the tested term in which runs on one environment differ.

    One algorithm may vary in one setting; several may differ in what one of them alone has, and vary in that.
    """
    shared = set.intersection(*(set(_training_settings(run)) for run in runs))
    differing = _differing(runs)
    if len({run.algo for run in runs}) == 1:
        more = differing - set(allow)
        return more if len(more) > 1 else set()
    # a setting that some lack is the tested term's if it is an algorithm's
    more = {key for key in differing if key in shared or not key.startswith("algo.")}
    return more - {"algo._target_", *allow}


def _require_one_term(env: str, runs: list[Run], allow: Collection[str]) -> None:
    more = set() if "all" in allow else beyond_one_term(runs, allow)
    if more:
        values = "; ".join(
            f"{key}: " + ", ".join(sorted({f"{run.settings.get(key, '—')} in {run.algo}" for run in runs}))
            for key in sorted(more)
        )
        raise StudyError(
            f"{env}: the arms differ in more than the tested term ({values}). {_cure(runs)}, or say that it is meant: "
            f"allow={','.join(sorted(more))}"
        )


def _cure(runs: list[Run]) -> str:
    """How to train runs with the same settings, where values tuned for some of them may be why they differ."""
    of = sorted({(run.algo, run.tuned) for run in runs if run.tuned}, key=lambda own: (own[1] == "none", own))
    choices = {tuned for _, tuned in of}
    if "none" not in choices or len(choices) == 1:
        return "Train them with the same"
    said = [f"tuned={tuned}" if tuned != "none" else tuned for _, tuned in of]
    made = [f"{algo}{'' if k else ' was trained'} with {said[k]}" for k, (algo, _) in enumerate(of)]
    ways = " or ".join(f"tuned={tuned}" for tuned in dict.fromkeys(tuned for _, tuned in of))
    return f"{', '.join(made[:-1])} and {made[-1]}: train all with {ways}"


def _require_one_code(task: Task, allow: Collection[str], remarks: list[str]) -> None:
    """Refuse seeds of one arm, and arms, that are of different code of the objective, the network or the environment.

    What only one arm has of it is what is tested.
    """
    allowed = bool({"code", "all"} & set(allow))
    for arm in task.arms.values():
        differences = code_differences({sample.seed: sample.run for sample in arm.samples})
        if differences and not allowed:
            raise StudyError(
                f"{task.env}, {arm.name}: its seeds are of different code ({'; '.join(differences)}). Make them anew "
                f"with the same (stale=rerun), or say that it is meant: allow=code"
            )
        remarks += [f"{task.env}, {arm.name}: seeds of different code are pooled: {line}" for line in differences]
    differences = code_between({name: [sample.run for sample in arm.samples] for name, arm in task.arms.items()})
    if differences and not allowed:
        raise StudyError(
            f"{task.env}: the arms are of different code of the same files ({'; '.join(differences)}). Make them anew "
            f"with the same (stale=rerun), or say that it is meant: allow=code"
        )
    if differences:
        remarks.append(f"{task.env}: arms of different code are compared: {'; '.join(differences)}")


def _gather(arm: Arm, env: str, remarks: list[str]) -> None:
    """The arm's seeds; of a seed that was trained twice, the run that started last."""
    found: dict[int, Sample] = {}
    again: dict[int, None] = {}
    others: dict[Path, None] = {}
    for run in arm.runs:
        for seed, curve in run.curves.items():
            if np.isnan(curve.returns).all():
                remarks.append(f"{run.folder}: seed {seed} is left out, it finished no training episode")
                continue
            if seed in found:
                again[seed] = others[found[seed].run.folder] = None
            found[seed] = Sample(seed, curve, run.evaluations.get(seed), run)
    if again:
        remarks.append(
            f"{env}, {arm.name}, seed {few(sorted(again))}: trained twice; the run that started last counts, and not "
            f"that in {few(list(others))}"
        )
    arm.samples = [found[seed] for seed in sorted(found)]


def _remark_missing_seeds(env: str, arms: dict[str, Arm], remarks: list[str]) -> None:
    every = {sample.seed for arm in arms.values() for sample in arm.samples}
    for arm in arms.values():
        missing = sorted(every - {sample.seed for sample in arm.samples})
        if missing:
            remarks.append(f"{env}, {arm.name}: has no seeds {', '.join(map(str, missing))}, which other arms have")


def _remark_steps(env: str, arms: dict[str, Arm], remarks: list[str]) -> None:
    """Say of arms that had more practice than others: `total_steps` counts rows, and each reset takes one of them."""
    made = {name: float(np.mean([sample.curve.steps[-1] for sample in arm.samples])) for name, arm in arms.items()}
    if made and min(made.values()) < (1 - ALIKE) * max(made.values()):
        told = ", ".join(f"{name} {steps:,.0f}" for name, steps in made.items())
        remarks.append(
            f"{env}: the arms made different numbers of environment steps a seed: {told}; total_steps counts rows, of "
            f"which every reset takes one"
        )
