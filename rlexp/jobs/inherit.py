"""Starting from a finished run: its parameters, and what else init_with names, put into freshly made agents.

The run may be a stranger's: its checkpoint is plain data, and nothing is made of its config.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from rlexp import build, spaces
from rlexp.checks.synthetic import rollout_of
from rlexp.config.checks import taken
from rlexp.config.identity import flatten
from rlexp.config.overrides import key_of
from rlexp.data import RunSpec
from rlexp.errors import CheckpointError, ConfigError, UserError
from rlexp.jobs.init_from import Parent, initial
from rlexp.jobs.job import Job
from rlexp.networks.normalizer import ObservationNormalizer
from rlexp.run import checkpoint
from rlexp.run.writer import RunWriter
from rlexp.seeding import AgentStreams
from rlexp.training.learner import Learner
from rlexp.training.optimizer_state import kept_by_agent
from rlexp.training.resume import join_agents, select_agents
from rlexp.training.trainer import Trainer
from rlexp.training.vectorize import AgentGroup

STATISTICS = "encoder.normalizer."  # names of the observation normaliser's buffers begin so
SCALER = ("mean", "var", "count")  # of reward scaling; its running returns are of episodes that are over

Shapes = Mapping[str, str]  # of one agent, as a refusal tells them


@dataclass(frozen=True)
class Source:
    """The checkpoint that the agents of one run start from."""

    job: Job
    parent: Parent
    state: dict[str, Any]

    @property
    def agents(self) -> list[int]:
        """For each of the run's agents, the number of the one that it starts from."""
        wanted = self.job.seeds if self.parent.seed is None else [self.parent.seed] * len(self.job.seeds)
        return [self.state["seeds"].index(seed) for seed in wanted]

    def of_each(self, state: Any) -> list[Any]:
        """What the checkpoint keeps by agent, for each of the run's agents its own, (1, ...)."""
        total = len(self.state["seeds"])
        return [select_agents(state, slice(agent, agent + 1), total) for agent in self.agents]

    def classes(self, group: str) -> tuple[str, str]:
        """Names of the classes that a config group named in the earlier run, and names here."""
        there = str(flatten(self.parent.record.get("config", {})).get(f"{group}._target_"))
        here = str(self.job.cfg[group].get("_target_"))
        return there.rpartition(".")[2], here.rpartition(".")[2]

    def refusal(self, what: str) -> CheckpointError:
        """One line that names the setting."""
        return CheckpointError(f"init_from={self.job.cfg.init_from}: {what}")


def begin(trainer: Trainer, jobs: Sequence[Job], writers: Sequence[RunWriter]) -> None:
    """Have fresh agents start from the runs that init_from names; nothing is written.

    Raises:
        ConfigError: there is no such run, or some jobs side by side name one and others do not.
        CheckpointError: it cannot be read, or does not fit: the first thing that does not, and its two shapes.
    """
    for own in writers:
        for name in ("parent", "extends"):  # of a launch that left nothing to go on with
            own.record.data.pop(name, None)
    sources = [_source(job) for job in jobs if job.cfg.get("init_from") is not None]
    if not sources:
        return
    if len(sources) < len(jobs):
        raise ConfigError("init_from: of agents trained side by side all start from earlier runs, or none")
    words = taken(jobs[0].cfg)
    try:
        for source in sources:
            _require_spaces(trainer, source)
        _take_tensors(trainer.learner, sources, "normalizer" in words)
        there = {"normalizer": bool(_statistics(trainer.learner)) or trainer.scaler is not None}
        if "normalizer" in words and trainer.scaler is not None:
            _take_scaling(trainer, sources)
        if "optimizer" in words:
            there["optimizer"] = _take_optimizer(trainer.learner, sources)
        if "memory" in words:
            there["memory"] = _take_memory(trainer, sources)
    except Exception as error:  # whatever comes of a checkpoint that is another program's
        if isinstance(error, UserError):
            raise
        raise sources[0].refusal(misfit(sources[0].parent, error)) from error
    for own, source in zip(writers, sources, strict=True):
        own.record.data["parent"] = {**source.parent.told(), "with": [word for word in words if there[word]]}


def told(record: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """What the log says of the run that another starts from, and of an init_with that was typed where there is none."""
    parent = record.get("parent")
    if parent is None:
        typed = [word for word in overrides if key_of(word) == "init_with"]
        return [f"{word}: of no effect without init_from" for word in typed]
    whose = "each seed's own" if parent["seed"] is None else f"seed {parent['seed']}"
    beside = "".join(f", {word}" for word in parent["with"])
    return [f"starting from {parent['folder']}: parameters{beside} of {whose}"]


def _source(job: Job) -> Source:
    parent, setting = initial(job.cfg), f"init_from={job.cfg.init_from}"
    return Source(job, parent, checkpoint_of(parent, setting, f"name another run than {setting}"))


def checkpoint_of(parent: Parent, setting: str, way_out: str) -> dict[str, Any]:
    """The checkpoint of an earlier run.

    Args:
        parent: the run.
        setting: that asks for it.
        way_out: what a refusal says to do.

    Raises:
        CheckpointError: it is not there, or cannot be read, or is another run's.
    """
    path = parent.checkpoint_path
    if not path.is_file():
        cause = "python -m rlexp.study clean what=checkpoints removes them"
        raise CheckpointError(f"{setting}: {parent.folder} has no checkpoint any more ({cause}); {way_out}")
    state = checkpoint.load(path, config_hash=parent.config_hash, way_out=way_out)
    if state.get("seeds") != parent.seeds:
        raise CheckpointError(f"{path}: is of other seeds than run.json says; {way_out}")
    return state


def misfit(parent: Parent, error: Exception) -> str:
    """What is told of an earlier run's checkpoint that raised something."""
    line = shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
    return f"{parent.checkpoint_path}: does not fit this run ({line})"


def _require_fit(source: Source, theirs: Shapes, ours: Shapes, way_out: str = "") -> None:
    """Refuse what has other shapes, or is there on one side only."""
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        here, there = ours.get(name), theirs.get(name)
        if here != there:
            raise source.refusal(f"{name} is {there or 'none'} there, {here or 'none'} here{way_out}")


def _require_spaces(trainer: Trainer, source: Source) -> None:
    """Refuse a run that reads or does other things; how far they may go does not matter."""
    envs = trainer.collector.envs
    ours = {"observation": envs.single_observation_space, "action": envs.single_action_space}
    for name, space in ours.items():
        mine, other = spaces.describe(space), source.state["spaces"][name]
        pairs = [
            [value if key not in ("low", "high") else tuple(value.shape) for key, value in sorted(own.items())]
            for own in (mine, other)
        ]
        if pairs[0] != pairs[1]:
            raise source.refusal(f"the {name} space is {spaces.summary(other)} there, {spaces.summary(mine)} here")


# Parameters and statistics -------------------------------------------------------------------------------------------


def _statistics(learner: Learner) -> set[str]:
    modules = learner.groups[0].network.named_modules()
    found = [name for name, module in modules if isinstance(module, ObservationNormalizer)]
    return {f"{name}.{key}" for name in found for key in ("mean", "var", "count")}


def _take_tensors(learner: Learner, sources: Sequence[Source], statistics: bool) -> None:
    ours = learner.tensors()
    apart = _statistics(learner)
    of_each: list[dict[str, Tensor]] = []
    for source in sources:
        theirs = dict(source.state["learner"]["tensors"])
        own = set(theirs) - {name for name in theirs if name in apart or name.startswith(STATISTICS)}
        _require_fit(source, _shapes(theirs, own), _shapes(ours, set(ours) - apart))
        if statistics:
            way_out = "; set env.normalize_obs as it was there, or leave normalizer out of init_with"
            _require_fit(source, _shapes(theirs, set(theirs) - own), _shapes(ours, apart), way_out)
        of_each += source.of_each({name: theirs[name] for name in ours if name in own or statistics})
    learner.load_tensors(ours | join_agents(of_each))


def _shapes(tensors: Mapping[str, Tensor], names: set[str]) -> dict[str, str]:
    """Of one agent's."""
    return {name: str(tuple(x.shape[1:])) for name, x in tensors.items() if name in names}


def _take_scaling(trainer: Trainer, sources: Sequence[Source]) -> None:
    assert trainer.scaler is not None
    for source in sources:
        if source.state["scaler"] is None:
            raise source.refusal(
                "the statistics of reward scaling are none there, (1,) here; set env.normalize_reward as it was there, "
                "or leave normalizer out of init_with"
            )
    of_each = [own for source in sources for own in source.of_each({k: source.state["scaler"][k] for k in SCALER})]
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | join_agents(of_each))


# The optimizer -------------------------------------------------------------------------------------------------------

Flat = dict[tuple[str, str, str], Tensor]  # what `optimizer_state.kept_by_agent` gives, by kind, name and key


def _take_optimizer(learner: Learner, sources: Sequence[Source]) -> bool:
    """Whether there was anything to take."""
    first = learner.groups[0]
    settings = _settings_of(first)
    wanted = _told_shapes(_flat(_stepped(first)), settings)
    of_each: list[Any] = []
    for source in sources:
        theirs = source.state["learner"]["optimizer"]
        shapes, (there, here) = _told_shapes(_flat(theirs), settings), source.classes("optimizer")
        way_out = "; leave optimizer out of init_with"
        if shapes != wanted and there != here:
            raise source.refusal(f"the optimizer is {there} there, {here} here{way_out}")
        _require_fit(source, shapes, wanted, way_out)
        of_each += source.of_each(theirs)
    kept_there = _flat(join_agents(of_each))
    for number, group in enumerate(learner.groups):
        part = slice(number * group.size, (number + 1) * group.size)
        kept = {place: x[part] for place, x in kept_there.items() if place[1:] not in settings}
        kept |= {place: x for place, x in _flat(group.optimizer_state()).items() if place[1:] in settings}
        names = [*group.params, *(f"#{n}" for n in range(len(group.optimizer.param_groups)))]
        nested: Any = {kind: {name: {} for name in names} for kind in ("tensors", "numbers")}
        for (kind, name, key), x in kept.items():
            nested[kind][name][key] = x
        group.load_optimizer_state(nested)
        group.updated = True
        now = _flat(group.optimizer_state())
        if any(not torch.equal(now[place].cpu(), x.cpu()) for place, x in kept.items()):
            raise sources[0].refusal("the optimizers of these agents stand at different steps; use batching=loop")
    return bool(wanted)


def _flat(kept: Any) -> Flat:
    return {
        (kind, name, key): x
        for kind in ("tensors", "numbers")
        for name, own in kept[kind].items()
        for key, x in own.items()
    }


def _told_shapes(kept: Flat, settings: set[tuple[str, str]]) -> dict[str, str]:
    """Of one agent's, by what a refusal calls them."""
    return {
        f"{key} of the optimizer for {name}": str(tuple(x.shape[1:]))
        for (_, name, key), x in kept.items()
        if (name, key) not in settings
    }


def _settings_of(group: AgentGroup) -> set[tuple[str, str]]:
    """What an optimizer keeps that it was made with, and that is the config's: (name, key)."""
    made_with = set(inspect.signature(type(group.optimizer).__init__).parameters) & set(group.optimizer.defaults)
    return {(f"#{number}", key) for number in range(len(group.optimizer.param_groups)) for key in made_with}


def _stepped(group: AgentGroup) -> Any:
    """What the group's optimizer keeps after a step."""
    params = {name: param.detach().clone().requires_grad_() for name, param in group.params.items()}
    optimizer = group.make_optimizer(list(params.values()))
    for param in params.values():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    return kept_by_agent(optimizer, params, group.size)


# The algorithm's memory ----------------------------------------------------------------------------------------------


def _take_memory(trainer: Trainer, sources: Sequence[Source]) -> bool:
    """Whether there was any to take."""
    wanted = _leaves(_remembered(trainer, sources[0].job))
    of_each: list[Any] = []
    for source in sources:
        own = source.of_each(source.state["algo"])
        kept, (there, here) = _leaves(own[0]), source.classes("algo")
        if bool(kept) != bool(wanted):
            whose = f"that run's {there}" if wanted else f"{here}, which is trained here,"
            raise source.refusal(f"{whose} keeps no memory; leave memory out of init_with")
        _require_fit(source, kept, wanted, "; leave memory out of init_with")
        of_each += own
    if wanted:
        trainer.algo.load_state_dict(join_agents(of_each))
    return bool(wanted)


def _remembered(trainer: Trainer, job: Job) -> dict[str, Any]:
    """What one agent's algorithm keeps once it has seen a rollout."""
    device = trainer.learner.device
    algo, network = build.build_algorithm(job.cfg), trainer.learner.groups[0].network
    num_envs = trainer.environment.num_envs
    algo.prepare(RunSpec(1, num_envs, [AgentStreams.make(0, device)], device))
    space = trainer.collector.envs.single_observation_space
    algo.observe(rollout_of([network], space, algo.rollout_steps, num_envs, device))
    return algo.state_dict()


def _leaves(state: Any, name: str = "the algorithm's state") -> dict[str, str]:
    """Shape and type of every tensor in nested state; of another value its type alone."""
    if isinstance(state, Mapping):
        return {place: x for key, own in state.items() for place, x in _leaves(own, f"{name}.{key}").items()}
    if isinstance(state, Tensor):
        return {name: f"{tuple(state.shape)} {str(state.dtype).removeprefix('torch.')}"}
    return {name: type(state).__name__}
