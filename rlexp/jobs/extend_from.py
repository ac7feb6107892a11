"""Which finished run resume=extend goes on from, and when that makes a run of its own."""

import copy
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rlexp.algos.schedules import Schedule
from rlexp.config.checks import EXTENDING
from rlexp.config.identity import flatten
from rlexp.errors import ConfigError
from rlexp.jobs.init_from import Parent, command_of, records, standing, study_of
from rlexp.provenance import code_state

if TYPE_CHECKING:
    from rlexp.algos.base import Algorithm

PROBES = 256  # values of progress at which coefficients are looked at
NAMED = 3  # settings that a refusal names; the rest is counted


def is_extending(cfg: DictConfig) -> bool:
    """Whether a run goes on from a finished one of fewer steps."""
    return re.fullmatch(EXTENDING, str(cfg.get("resume"))) is not None


def settled(cfg: DictConfig, settings: dict[str, Any]) -> str:
    """`resume` with the run to extend named by its total_steps: others may be finished before this one begins."""
    stages = settings.get("extended_at")
    if stages:
        return f"extend:{stages[-1]}"
    try:
        return f"extend:{_longest(cfg, settings).total_steps}"
    except ConfigError:  # a run that has begun needs none any more; of another it is told where it would begin
        return str(cfg.resume)


def extended(cfg: DictConfig, settings: dict[str, Any]) -> Parent:
    """The finished run to go on from: the longest of the same settings and fewer total_steps.

    Raises:
        ConfigError: there is none, none is done, or it was made by other code.
    """
    parent = _longest(cfg, settings)
    told = f"resume={cfg.resume}: the run to extend, {parent.folder},"
    if parent.record["status"] != "done":
        raise ConfigError(
            f"{told} is {standing(parent.record)}, not done; finish it first by its own command"
            f"{command_of(parent.record)}, or remove it"
        )
    if not parent.checkpoint_path.is_file():
        raise ConfigError(f"{told} has no checkpoint any more; put it back, or train anew with resume=auto")
    changed = code_state.changed_files(parent.record, settings)
    if changed and cfg.stale != "keep":
        raise ConfigError(f"{told} was made before {', '.join(changed)} changed; stale=keep goes on with the new code")
    return parent


def _bare(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("total_steps", "extended_at")}


def _longest(cfg: DictConfig, settings: dict[str, Any]) -> Parent:
    """The run that is to be extended: one that is not done only where none is, for a refusal to name."""
    study, own, total = study_of(cfg), _bare(settings), int(settings["total_steps"])
    at = str(cfg.resume).partition(":")[2]
    every = [(folder, record) for folder, record in records(study) if isinstance(record.get("config"), dict)]
    alike = [Parent(folder, record) for folder, record in every if _bare(record["config"]) == own]
    shorter = [run for run in alike if _is_below(run.total_steps, total) and at in ("", str(run.total_steps))]
    if shorter:
        found = max(shorter, key=_preference)
        return Parent(found.folder, copy.deepcopy(found.record))  # whoever takes it over may change what is in it
    wanted = f"total_steps={at}" if at else f"total_steps below {total}"
    looked = f"resume={cfg.resume}: {study} holds no run of these settings and {wanted} that could be extended"
    if alike:
        others = sorted({str(run.total_steps) for run in alike})
        raise ConfigError(f"{looked}; those of these settings have total_steps={', '.join(others)}")
    if not every:
        raise ConfigError(f"{looked}; there is no run at all in it. resume=auto trains from the start")
    ours = flatten(own)
    fewer = [(f, record) for f, record in every if _is_below(record["config"].get("total_steps"), total)]
    near = [(_differing(ours, flatten(_bare(record["config"]))), f) for f, record in fewer or every]
    differing, folder = min(near)
    told = ", ".join(differing[1][:NAMED]) + (", ..." if len(differing[1]) > NAMED else "")
    raise ConfigError(f"{looked}; the nearest of {len(every)}, {folder}, differs in {told}")


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[int, list[str]]:
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key, ...) != theirs.get(key, ...))
    return len(keys), [f"{key} ({theirs.get(key, '–')} there, {ours.get(key, '–')} here)" for key in keys]


def _is_below(steps: Any, total: int) -> bool:
    return isinstance(steps, int) and steps < total


def _preference(run: Parent) -> tuple[bool, int, bool, str]:
    """The longest that is done; of those the one whose schedules were never stretched, that was started last."""
    plain = "extended_at" not in run.record["config"]
    return run.record["status"] == "done", run.total_steps, plain, str(run.record.get("started"))


def stages_of(cfg: DictConfig, settings: dict[str, Any]) -> list[int]:
    """The total_steps at which schedules were stretched; none where nothing depends on the end of training."""
    if not schedules(cfg):
        return []
    at, bare = str(cfg.resume).partition(":")[2], _bare(settings)
    begun = []
    for _, record in records(study_of(cfg)):
        config = record.get("config", {})
        stages = config.get("extended_at")
        same = isinstance(stages, list) and stages and config.get("total_steps") == settings["total_steps"]
        if same and _bare(config) == bare and at in ("", str(stages[-1])):
            begun.append((str(record.get("started")), stages))
    if begun:  # goes on where it was stopped, whatever else has been finished since
        return list(max(begun)[1])
    parent = _longest(cfg, settings)
    return [*parent.record["config"].get("extended_at", ()), parent.total_steps]


# What depends on the end ---------------------------------------------------------------------------------------------


def schedules(cfg: DictConfig) -> dict[str, Callable[[float], float]]:
    """What changes with progress, which is the share of the whole run: name -> value at a progress.

    Besides lists that were typed, whatever else an algorithm's `coefficients` make of progress; that is tried out.
    """
    from rlexp import build  # torch, which nothing else here needs
    from rlexp.algos.base import Algorithm

    plain: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    algo = build.build_algorithm(cfg)
    typed = {f"algo.{name}": getattr(algo, name) for name in algo.scheduled()}
    typed["optimizer.lr"] = Schedule.named("optimizer.lr", plain.get("lr"))
    found: dict[str, Callable[[float], float]] = {
        name: schedule for name, schedule in typed.items() if len(set(schedule.knots)) > 1
    }
    if type(algo).coefficients is not Algorithm.coefficients:
        found |= _probed(algo, int(cfg.env.num_envs), set(algo.scheduled()))
    return dict(sorted(found.items()))


def _probed(algo: "Algorithm", num_envs: int, typed: set[str]) -> dict[str, Callable[[float], float]]:
    """Coefficients that an algorithm makes of progress by itself."""
    import torch

    from rlexp.data import RunSpec
    from rlexp.seeding import AgentStreams

    device = torch.device("cpu")
    algo.prepare(RunSpec(1, num_envs, [AgentStreams.make(0, device)], device))

    def value(name: str, progress: float) -> float:
        return float(algo.coefficients(progress, 1, device)[name])

    def of(name: str) -> Callable[[float], float]:
        return lambda progress: value(name, progress)

    each = [algo.coefficients(number / PROBES, 1, device) for number in range(PROBES)]
    varied = [name for name in each[0] if name not in typed and len({float(own[name]) for own in each}) > 1]
    return {f"algo.coefficients()[{name!r}]": of(name) for name in varied}
