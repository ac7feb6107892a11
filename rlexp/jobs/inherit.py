"""init_from: loads parameters of a finished run, and what init_with names, into new agents.

The run may be untrusted: its checkpoint is plain data, and its config is not instantiated.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from rlexp import parts, spaces
from rlexp.checks.synthetic import EachNetwork, rollout_of
from rlexp.config.checks import init_parts
from rlexp.config.identity import flatten, key_of
from rlexp.data import RunSpec
from rlexp.errors import CheckpointError, ConfigError, UserError
from rlexp.jobs.init_from import Parent, find_initial
from rlexp.jobs.job import Job
from rlexp.networks.actor_critic import OF_OBJECTIVE
from rlexp.plain.by_agent import Division, join_agents, select_agents
from rlexp.run import checkpoint
from rlexp.run.writer import RunWriter
from rlexp.seeding import AgentStreams
from rlexp.text import one_line
from rlexp.training.agents import Agents
from rlexp.training.learner import Learner
from rlexp.training.optimizer_state import AVERAGE, state_by_agent
from rlexp.training.trainer import Trainer

STATISTICS = "encoder.normalizer."  # prefix of the observation normaliser's buffers
SCALER = ("mean", "var", "count")  # of reward scaling; its running returns belong to past episodes

UNKNOWN = "NoneType"  # of a value that is yet to come, in what `_leaves` returns

Shapes = Mapping[str, str]  # name -> shape of one agent's tensor, for error messages


@dataclass(frozen=True)
class Source:
    """The checkpoint that a run's agents start from."""

    job: Job
    parent: Parent
    state: dict[str, Any]

    def of_each(self, state: Any, division: Division | None = None) -> list[Any]:
        """Split the checkpoint's stacked state: the part (1, ...) that each agent of the run starts from."""
        held = self.state["seeds"]
        wanted = self.job.seeds if self.parent.seed is None else [self.parent.seed] * len(self.job.seeds)
        parts = [slice(held.index(seed), held.index(seed) + 1) for seed in wanted]
        try:
            return [select_agents(state, part, len(held), division) for part in parts]
        except ValueError as error:
            raise self.refusal(f"what that run's objective keeps cannot be divided by agent: {error}") from error

    def classes(self, group: str) -> tuple[str, str]:
        """Class names of a config group in the earlier run and in this one."""
        there = str(flatten(self.parent.config).get(f"{group}._target_"))
        here = str(self.job.cfg[group].get("_target_"))
        return there.rpartition(".")[2], here.rpartition(".")[2]

    def refusal(self, what: str) -> CheckpointError:
        """An error that names the setting."""
        return CheckpointError(f"init_from={self.job.cfg.init_from}: {what}")


def begin(trainer: Trainer, jobs: Sequence[Job], writers: Sequence[RunWriter]) -> None:
    """Load the state that init_from and init_with name into new agents; nothing is written.

    ConfigError: there is no such run, or only some jobs of the batch set init_from; CheckpointError: it cannot be read,
    or does not fit: names the first misfit and both shapes.
    """
    for run in writers:
        for name in ("parent", "extends"):  # of a launch that left no checkpoint
            run.record.data.pop(name, None)
    sources = []
    for job in [job for job in jobs if job.cfg.get("init_from") is not None]:
        parent, setting = find_initial(job.cfg), f"init_from={job.cfg.init_from}"
        sources.append(Source(job, parent, checkpoint_of(parent, setting, f"use another run than {setting}")))
    if not sources:
        return
    if len(sources) < len(jobs):
        raise ConfigError("init_from: set it for all jobs of a batch or for none")
    words = init_parts(jobs[0].cfg)
    try:
        for source in sources:
            _require_spaces(trainer, source)
        _load_tensors(trainer.learner, sources, "normalizer" in words, "memory" in words)
        loaded = {"normalizer": bool(_statistics(trainer.learner)) or trainer.scaler is not None}
        if "normalizer" in words and trainer.scaler is not None:
            _load_scaler(trainer, sources)
        if "optimizer" in words:
            loaded["optimizer"] = _load_optimizer(trainer.learner, sources)
        if "memory" in words:
            loaded["memory"] = _load_memory(trainer, sources)
    except UserError:
        raise
    except Exception as error:  # anything, with a checkpoint of another program
        raise sources[0].refusal(misfit(sources[0].parent, error)) from error
    for run, source in zip(writers, sources, strict=True):
        run.record.data["parent"] = {**source.parent.summary(), "with": [word for word in words if loaded[word]]}


def log_lines(record: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Lines for the log: what was loaded from which run, or that init_with has no effect."""
    parent = record.get("parent")
    if parent is None:
        typed = [word for word in overrides if key_of(word) == "init_with"]
        return [f"{word}: has no effect without init_from" for word in typed]
    seed = "the same seed" if parent["seed"] is None else f"seed {parent['seed']}"
    parts = "".join(f", {word}" for word in parent["with"])
    return [f"starting from {parent['folder']}: parameters{parts} of {seed}"]


def checkpoint_of(parent: Parent, setting: str, remedy: str) -> dict[str, Any]:
    """Read the checkpoint of an earlier run; CheckpointError if it is missing, unreadable or of another run.

    setting: names the run, as key=value; remedy: ends the error message.
    """
    path = parent.checkpoint_path
    if not path.is_file():
        cause = "python -m rlexp.study clean what=checkpoints removes them"
        raise CheckpointError(f"{setting}: {parent.folder} has no checkpoint any more ({cause}); {remedy}")
    state = checkpoint.load(path, config_hash=parent.config_hash, remedy=remedy)
    if state.get("seeds") != parent.seeds:
        raise CheckpointError(f"{path}: has other seeds than run.json; {remedy}")
    return state


def misfit(parent: Parent, error: Exception) -> str:
    """Message for an earlier run's checkpoint that does not load."""
    line = shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
    return f"{parent.checkpoint_path}: does not fit this run ({line})"


def _require_fit(source: Source, saved: Shapes, current: Shapes, remedy: str = "") -> None:
    """Refuse different shapes, and names that only one side has."""
    for name in [*current, *(name for name in saved if name not in current)]:
        here, there = current.get(name), saved.get(name)
        if here != there:
            raise source.refusal(f"{name} is {there or 'none'} there, {here or 'none'} here{remedy}")


def _require_spaces(trainer: Trainer, source: Source) -> None:
    """Refuse a run with other observation or action spaces; their bounds may differ."""
    envs = trainer.collector.envs
    current = {"observation": envs.single_observation_space, "action": envs.single_action_space}
    for name, space in current.items():
        here, there = spaces.summary(spaces.describe(space)), spaces.summary(source.state["spaces"][name])
        if here != there:
            raise source.refusal(f"the {name} space is {there} there, {here} here")


def _statistics(learner: Learner) -> set[str]:
    names = [name for name in learner.groups[0].normalizers() if not name.startswith(OF_OBJECTIVE)]
    return {f"{name}.{key}" for name in names for key in ("mean", "var", "count")}


def _load_tensors(learner: Learner, sources: Sequence[Source], statistics: bool, memory: bool) -> None:
    """Load parameters; memory: with the objective's own modules, which otherwise start afresh."""
    everything = learner.tensors()
    current = {name: x for name, x in everything.items() if memory or not name.startswith(f"{OF_OBJECTIVE}.")}
    buffers = _statistics(learner)
    of_each: list[dict[str, Tensor]] = []
    for source in sources:
        held: dict[str, Tensor] = source.state["learner"]["tensors"]
        saved = {name: x for name, x in held.items() if memory or not name.startswith(f"{OF_OBJECTIVE}.")}
        params = set(saved) - {name for name in saved if name in buffers or name.startswith(STATISTICS)}
        _require_fit(source, _shapes(saved, params), _shapes(current, set(current) - buffers))
        if statistics:
            remedy = "; set env.normalize_obs as in that run, or leave normalizer out of init_with"
            _require_fit(source, _shapes(saved, set(saved) - params), _shapes(current, buffers), remedy)
        of_each += source.of_each({name: saved[name] for name in current if name in params or statistics})
    learner.load_tensors(everything | join_agents(of_each))


def _shapes(tensors: Mapping[str, Tensor], names: set[str]) -> dict[str, str]:
    """Shapes without the agent axis."""
    return {name: str(tuple(x.shape[1:])) for name, x in tensors.items() if name in names}


def _load_scaler(trainer: Trainer, sources: Sequence[Source]) -> None:
    assert trainer.scaler is not None
    for source in sources:
        if source.state["scaler"] is None:
            raise source.refusal(
                "the statistics of reward scaling are none there, (1,) here; set env.normalize_reward as in that run, "
                "or leave normalizer out of init_with"
            )
    of_each = [part for source in sources for part in source.of_each({k: source.state["scaler"][k] for k in SCALER})]
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | join_agents(of_each))


# The optimizer -------------------------------------------------------------------------------------------------------

Flat = dict[tuple[str, str, str], Tensor]  # `optimizer_state.state_by_agent` by (kind, name, key)


def _load_optimizer(learner: Learner, sources: Sequence[Source]) -> bool:
    """Load the optimizers' state; returns whether there was any."""
    first = learner.groups[0]
    settings = _settings_of(first)
    wanted = _state_shapes(_flat(_stepped(first)), settings)
    of_each: list[Any] = []
    for source in sources:
        saved = _without_averages(source.state["learner"]["optimizer"])
        shapes, (there, here) = _state_shapes(_flat(saved), settings), source.classes("optimizer")
        remedy = "; leave optimizer out of init_with"
        if shapes != wanted and there != here:
            raise source.refusal(f"the optimizer is {there} there, {here} here{remedy}")
        _require_fit(source, shapes, wanted, remedy)
        of_each += source.of_each(saved)
    kept_there = _flat(join_agents(of_each))
    for number, group in enumerate(learner.groups):
        part = slice(number * group.size, (number + 1) * group.size)
        kept = {at: x[part] for at, x in kept_there.items() if at[1:] not in settings}
        kept |= {at: x for at, x in _flat(group.optimizer_state()).items() if at[1:] in settings}
        names = [*group.params, *(f"#{n}" for n in range(len(group.optimizer.param_groups)))]
        nested: Any = {kind: {name: {} for name in names} for kind in ("tensors", "numbers")}
        for (kind, name, key), x in kept.items():
            nested[kind][name][key] = x
        group.load_optimizer_state(nested)
        now = _flat(group.optimizer_state())
        if any(not torch.equal(now[at].cpu(), x.cpu()) for at, x in kept.items()):
            raise sources[0].refusal("the optimizers of these agents are at different steps; use batching=loop")
        if learner.algo.average_decay is not None:  # in the state that a graph of the first update is traced with
            group.begin_average()
    learner.updated = True
    return bool(wanted)


def _without_averages(kept: Any) -> Any:
    """An optimizer's saved state without averages of weights, which start afresh."""
    tensors = {name: {k: x for k, x in each.items() if k != AVERAGE} for name, each in kept["tensors"].items()}
    return kept | {"tensors": tensors}


def _flat(kept: Any) -> Flat:
    return {
        (kind, name, key): x
        for kind in ("tensors", "numbers")
        for name, entries in kept[kind].items()
        for key, x in entries.items()
    }


def _state_shapes(kept: Flat, settings: set[tuple[str, str]]) -> dict[str, str]:
    """Shapes of one agent's optimizer state, by their names in error messages."""
    return {
        f"{key} of the optimizer for {name}": str(tuple(x.shape[1:]))
        for (_, name, key), x in kept.items()
        if (name, key) not in settings
    }


def _settings_of(group: Agents) -> set[tuple[str, str]]:
    """Entries of an optimizer's state that are constructor arguments, and so set by the config: (name, key)."""
    made_with = set(inspect.signature(type(group.optimizer).__init__).parameters) & set(group.optimizer.defaults)
    return {(f"#{number}", key) for number in range(len(group.optimizer.param_groups)) for key in made_with}


def _stepped(group: Agents) -> Any:
    """State of the group's optimizer after a step with zero gradients."""
    params = {name: param.detach().clone().requires_grad_() for name, param in group.params.items()}
    optimizer = group.make_optimizer(list(params.values()))
    for param in params.values():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    return state_by_agent(optimizer, params, group.size)


def _load_memory(trainer: Trainer, sources: Sequence[Source]) -> bool:
    """Load the algorithm's memory; returns whether there was any."""
    wanted = _leaves(_memory_after_rollout(trainer, sources[0].job))
    of_each: list[Any] = []
    for source in sources:
        states = source.of_each(source.state["algo"], trainer.division)
        kept, (there, here) = _leaves(states[0]), source.classes("algo")
        if bool(kept) != bool(wanted):
            subject = f"{there} of that run" if wanted else f"{here} of this run"
            raise source.refusal(f"{subject} has no memory; leave memory out of init_with")
        late = {name for each in (kept, wanted) for name, shape in each.items() if shape == UNKNOWN}
        saved, current = ({name: x for name, x in each.items() if name not in late} for each in (kept, wanted))
        _require_fit(source, saved, current, "; leave memory out of init_with")
        of_each += states
    if wanted:
        try:
            state = join_agents(of_each, trainer.division, equal=True)
        except ValueError as error:  # parents of which each counts by itself, say
            raise sources[0].refusal(f"{one_line(str(error))}; leave memory out of init_with") from error
        trainer.algo.load_state_dict(state)
    return bool(wanted)


def _memory_after_rollout(trainer: Trainer, job: Job) -> dict[str, Any]:
    """state_dict of one agent's algorithm after a synthetic rollout."""
    device = trainer.learner.device
    algo, network = parts.build_algorithm(job.cfg), trainer.learner.groups[0].network
    num_envs = trainer.environment.num_envs
    algo.prepare(RunSpec(1, num_envs, [AgentStreams.make(0, device)], device))
    space = trainer.collector.envs.single_observation_space
    rollout = rollout_of([network], space, algo.rollout_steps, num_envs, device)
    algo.rewards(rollout, EachNetwork([network]))
    algo.observe(rollout)
    return algo.state_dict()


def _leaves(state: Any, name: str = "the algorithm's state") -> dict[str, str]:
    """Shape and dtype of every tensor in nested state; the type of other values."""
    if isinstance(state, Mapping):
        return {at: x for key, item in state.items() for at, x in _leaves(item, f"{name}.{key}").items()}
    if isinstance(state, Tensor):
        return {name: f"{tuple(state.shape)} {str(state.dtype).removeprefix('torch.')}"}
    return {name: type(state).__name__}
