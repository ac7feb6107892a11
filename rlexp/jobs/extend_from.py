"""Finds the run that resume=extend continues, and how extending enters a run's identity."""

import copy
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rlexp.algos.schedules import Schedule
from rlexp.config.checks import EXTENDING
from rlexp.config.identity import flatten
from rlexp.errors import ConfigError
from rlexp.jobs.init_from import Parent, records, study_of
from rlexp.provenance import code_state

if TYPE_CHECKING:
    from rlexp.algos.base import Algorithm

PROBES = 256  # values of progress at which coefficients are evaluated
MAX_NAMED = 3  # differing settings that an error message lists


def is_extending(cfg: DictConfig) -> bool:
    """Whether resume=extend is set."""
    return re.fullmatch(EXTENDING, str(cfg.get("resume"))) is not None


def pin_parent(cfg: DictConfig, settings: dict[str, Any]) -> str:
    """`resume` with the run to extend fixed by its total_steps, as others may finish before this job starts."""
    stages = settings.get("extended_at")
    if stages:
        return f"extend:{stages[-1]}"
    try:
        return f"extend:{_longest(cfg, settings).total_steps}"
    except ConfigError:  # a started run no longer needs a parent; a new one reports the error when it starts
        return str(cfg.resume)


def find_extended(cfg: DictConfig, settings: dict[str, Any]) -> Parent:
    """The finished run to extend: the longest with the same settings and fewer total_steps.

    ConfigError: there is none, none is done, or the code has changed since.
    """
    parent = _longest(cfg, settings)
    subject = f"resume={cfg.resume}: the run to extend, {parent.folder},"
    parent.require_done(subject, "remove it")
    if not parent.checkpoint_path.is_file():
        raise ConfigError(f"{subject} has no checkpoint any more; restore it, or train from scratch with resume=auto")
    changed = code_state.changed_files(parent.record, settings)
    if changed and cfg.stale != "keep":
        raise ConfigError(
            f"{subject} was made before {', '.join(changed)} changed; stale=keep extends it with the new code"
        )
    return parent


def _bare(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("total_steps", "extended_at")}


def _longest(cfg: DictConfig, settings: dict[str, Any]) -> Parent:
    """The longest matching run, preferably a done one; another only to be named in an error message."""
    study, bare, total = study_of(cfg), _bare(settings), int(settings["total_steps"])
    at = str(cfg.resume).partition(":")[2]
    every = [Parent(*found) for found in records(study) if isinstance(found[1].get("config"), dict)]
    below = [run for run in every if isinstance(run.total_steps, int) and run.total_steps < total]
    shorter = [run for run in below if _bare(run.config) == bare and at in ("", str(run.total_steps))]
    if shorter:
        found = max(shorter, key=_preference)
        return Parent(found.folder, copy.deepcopy(found.record))  # the caller may modify the record
    wanted = f"total_steps={at}" if at else f"total_steps below {total}"
    failure = f"resume={cfg.resume}: {study} has no run with these settings and {wanted} to extend"
    if others := sorted({str(run.total_steps) for run in every if _bare(run.config) == bare}):
        raise ConfigError(f"{failure}; runs with these settings have total_steps={', '.join(others)}")
    if not every:
        raise ConfigError(f"{failure}; it has no run at all. resume=auto trains from scratch")
    near = [(_differing(bare, _bare(run.config)), run.folder) for run in below or every]
    named, folder = min(near, key=lambda found: (len(found[0]), found))
    text = ", ".join(named[:MAX_NAMED]) + (", ..." if len(named) > MAX_NAMED else "")
    raise ConfigError(f"{failure}; the nearest of {len(every)}, {folder}, differs in {text}")


def _differing(bare: dict[str, Any], other: dict[str, Any]) -> list[str]:
    here, there = flatten(bare), flatten(other)
    keys = sorted(key for key in here.keys() | there.keys() if here.get(key, ...) != there.get(key, ...))
    return [f"{key} ({there.get(key, '–')} there, {here.get(key, '–')} here)" for key in keys]


def _preference(run: Parent) -> tuple[bool, int, bool, str]:
    """Sort key: done, then longest, then schedules never rescaled, then started last."""
    plain = "extended_at" not in run.config
    return run.record["status"] == "done", run.total_steps, plain, str(run.record.get("started"))


def stages_of(cfg: DictConfig, settings: dict[str, Any]) -> list[int]:
    """The total_steps at which schedules were rescaled; empty if nothing depends on total_steps."""
    if not schedules(cfg):
        return []
    at, bare = str(cfg.resume).partition(":")[2], _bare(settings)
    started = []
    for _, record in records(study_of(cfg)):
        config = record.get("config", {})
        stages = config.get("extended_at")
        same = isinstance(stages, list) and stages and config.get("total_steps") == settings["total_steps"]
        if same and _bare(config) == bare and at in ("", str(stages[-1])):
            started.append((str(record.get("started")), stages))
    if started:  # resumes where it stopped, whatever has finished since
        return list(max(started)[1])
    parent = _longest(cfg, settings)
    return [*parent.config.get("extended_at", ()), parent.total_steps]


Schedules = dict[str, Callable[[float], float]]


def schedules(cfg: DictConfig) -> Schedules:
    """Settings and coefficients that change with progress, the fraction of total_steps: name -> value(progress).

    Besides schedules in the config, coefficients that an algorithm computes from progress; these are probed.
    """
    from rlexp import parts  # imports torch, which nothing else here needs
    from rlexp.algos.base import Algorithm

    plain: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    algo = parts.build_algorithm(cfg)
    typed = {algo.key(name): getattr(algo, name) for name in algo.scheduled()}
    typed["optimizer.lr"] = Schedule(plain.get("lr"), "optimizer.lr")
    found: Schedules = {name: schedule for name, schedule in typed.items() if len(set(schedule.knots)) > 1}
    if type(algo).coefficients is not Algorithm.coefficients:
        found |= _probed(algo, int(cfg.env.num_envs), set(algo.scheduled()))
    return dict(sorted(found.items()))


def _probed(algo: "Algorithm", num_envs: int, typed: set[str]) -> Schedules:
    """Coefficients, other than schedules in the config, that vary with progress."""
    import torch

    from rlexp.data import RunSpec
    from rlexp.seeding import AgentStreams

    device = torch.device("cpu")
    algo.prepare(RunSpec(1, num_envs, [AgentStreams.make(0, device)], device))

    def function_of(name: str) -> Callable[[float], float]:
        return lambda progress: float(algo.coefficients(progress, 1, device)[name])

    probed = [algo.coefficients(number / PROBES, 1, device) for number in range(PROBES)]
    varied = [name for name in probed[0] if name not in typed and len({float(probe[name]) for probe in probed}) > 1]
    return {f"algo.coefficients()[{name!r}]": function_of(name) for name in varied}
