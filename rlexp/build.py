"""From the configs of runs to the trainer that trains them side by side."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from omegaconf import DictConfig, OmegaConf

from rlexp.algos.advantages import GAE
from rlexp.algos.base import Algorithm
from rlexp.algos.schedules import PerAgent, side_by_side
from rlexp.checks.network import check_stacked, checked_network
from rlexp.checks.objective import Findings, check_loss
from rlexp.checks.saved_state import division_of, undividable
from rlexp.config.checks import check_groups, check_initial, check_rows, check_run_settings, check_shares
from rlexp.config.identity import flatten, typed_config
from rlexp.config.schema import FinalEvaluation, population_of, seeds_of
from rlexp.data import Spaces
from rlexp.envs import Environment
from rlexp.envs.ids import require_installed
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import ActorCritic, build_networks
from rlexp.parts import (
    build_algorithm,
    build_environment,
    build_gae,
    build_loggers,
    check_bonus,
    learning_rate,
    make_algorithm,
    network_builder,
    network_packages,
    optimizer_builder,
    optimizer_traits,
    supports_agent_lrs,
    with_modules,
)
from rlexp.plain.by_agent import Division
from rlexp.seeding import AgentStreams
from rlexp.training.how import STACKED, Choice, choose_batching, choose_compile, choose_threads
from rlexp.training.learner import Learner
from rlexp.training.live import Live, LiveStore
from rlexp.training.ranks import Ranks
from rlexp.training.recorder import Display, Recorder
from rlexp.training.settings import RunSettings
from rlexp.training.trainer import Trainer
from rlexp.watch import Watch

Part = TypeVar("Part")


def check(cfg: DictConfig, processes: int = 1) -> None:
    """Every check that needs no environment. Raises ConfigError, naming the first invalid setting."""
    check_run_settings(cfg)
    check_initial(cfg)
    env_id, extra, install = (OmegaConf.select(cfg, f"env.{key}") for key in ("id", "extra", "install"))
    require_installed(str(env_id), extra, install)  # brings wrappers, perhaps
    check_groups(typed_config(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))))
    algo, environment = build_algorithm(cfg), build_environment(cfg)
    algo.check_population(population_of(cfg))
    build_loggers(cfg)
    build_gae(cfg)
    learning_rate(cfg)
    optimizer_traits(cfg)
    check_rows(environment.num_envs, algo.rollout_steps, algo.minibatches, int(cfg.total_steps))
    if processes > 1:
        check_shares(cfg, environment.num_envs, algo.rollout_steps, algo.minibatches, processes)


def build_trainer(
    cfgs: Sequence[DictConfig],
    records: Sequence[Recorder],
    display: Display,
    watch: Watch | None = None,
    store: LiveStore | None = None,
    ranks: Ranks | None = None,
) -> Trainer:
    """The trainer of several runs side by side, and all its parts.

    cfgs, records: one per run; configs are passed by `check` and differ only in seeds and per-agent settings: learning
    rate, γ, λ and scheduled hyperparameters. watch: of environment calls; default: without a time limit. store: of
    hyperparameters that are changed by hand, with live=true. ranks: processes that train together. Raises ConfigError
    if spaces are not supported, or the network cannot read them.
    """
    cfg, ranks = cfgs[0], ranks or Ranks()
    device = torch.device(cfg.device)
    algo = Algorithm.side_by_side(_per_agent(cfgs, build_algorithm))
    environment = build_environment(cfg)
    watch = watch or Watch(name=environment.id)
    streams = [AgentStreams.make(seed, device) for run_cfg in cfgs for seed in seeds_of(run_cfg)]
    spaces = Spaces(*environment.probe(watch))
    check_bonus(cfg, device)
    network, build, found, division = _tried(cfg, algo, environment, spaces, len(streams), ranks, alone=len(cfgs) == 1)
    lr = side_by_side(_per_agent(cfgs, learning_rate))
    if isinstance(lr, PerAgent) and not supports_agent_lrs(cfg):
        raise ConfigError("optimizer.lr: cannot differ between agents side by side with this optimizer")
    how = _how(cfg, algo, environment, len(streams), pixels=network.encoder.pixels, ranks=ranks)
    torch.set_num_threads(how["torch_threads"].value)
    networks = [network.to(device) for network in build_networks(build, streams)]
    make_optimizer, traits = optimizer_builder(cfg), optimizer_traits(cfg)
    batching = choose_batching(cfg.batching, networks, algo, make_optimizer, traits, found)
    live = _live(cfg, algo, store) if cfg.live and store is not None else None
    learner = Learner(
        networks,
        algo,
        make_optimizer,
        lr,
        streams,
        stacked=batching.value == STACKED,
        compiled=how["compiled"].value,
        recordable=traits.recordable,
        world=environment.world,
        watch=watch,
        verify_loss=not cfg.debug,
        most_epochs=None if live is None else live.most_epochs,
        ranks=ranks,
    )
    if batching.value == STACKED:
        check_stacked(networks, learner.groups[0].params | learner.groups[0].buffers, spaces.observation, device)
    return Trainer(
        environment=environment,
        algo=algo,
        gae=GAE.side_by_side(_per_agent(cfgs, build_gae), device),
        learner=learner,
        distribution=network.distribution,
        streams=streams,
        watch=watch,
        how=how | {"batching": batching},
        runs=list(records),
        display=display,
        settings=_settings(cfg),
        live=live,
        ranks=ranks,
        division=division,
    )


def _tried(
    cfg: DictConfig,
    algo: Algorithm,
    environment: Environment,
    spaces: Spaces,
    agents: int,
    ranks: Ranks,
    *,
    alone: bool,
) -> tuple[ActorCritic, Callable[[], ActorCritic], Findings, Division]:
    """A network that has passed its dry run, what makes one with the objective's modules, and what dry runs found.

    agents: of all runs; alone: it is one run, which no other is saved apart from.
    """
    device, envs, population = torch.device(cfg.device), environment.num_envs, population_of(cfg)
    policy = network_builder(cfg, spaces.observation, spaces.action)
    build = with_modules(policy, algo, spaces)
    if cfg.debug:  # dry runs would also hit prints and breakpoints, and hide the traceback of an error
        return policy(), build, Findings(), Division()
    rows = [count // ranks.size for count in (envs, envs * algo.rollout_steps // algo.minibatches)]  # acting, learning
    network = checked_network(policy, spaces.observation, rows, network_packages(cfg))
    make = partial(make_algorithm, cfg)
    division = division_of(make, build, spaces.observation, envs, device, population)
    if division.flaw and not alone:
        raise undividable(algo, division.flaw)
    found = check_loss(make, build, spaces.observation, envs, device, agents, population, division)
    return network, build, found, division


def _how(
    cfg: DictConfig, algo: Algorithm, environment: Environment, agents: int, *, pixels: bool, ranks: Ranks
) -> dict[str, Choice]:
    """Choices of how to compute, except batching."""
    agent_rows = environment.num_envs * algo.rollout_steps
    calls = int(cfg.total_steps) // agent_rows * (algo.rollout_steps + algo.epochs * algo.minibatches)
    rows = agents * agent_rows // algo.minibatches // ranks.size
    how = {
        "compiled": choose_compile(cfg.compile, cfg.device, calls),
        "torch_threads": choose_threads(cfg.torch_threads, rows, pixels=pixels, most=ranks.threads),
    }
    if ranks.size > 1:
        each = environment.num_envs // ranks.size
        update = ", updates eager as gradients are averaged within them" if how["compiled"].value else ""
        how["processes"] = Choice(ranks.size, f"each with {each} of {environment.num_envs} environments{update}")
    return how


def _settings(cfg: DictConfig) -> RunSettings:
    """What the trainer reads of the run-level settings."""
    return RunSettings(
        total_steps=int(cfg.total_steps),
        stop_at=None if cfg.stop_at is None else int(cfg.stop_at),
        checkpoint_every=int(cfg.checkpoint_every),
        log_every=int(cfg.log_every),
        evaluation={entry.name: cfg.evaluation[entry.name] for entry in dataclasses.fields(FinalEvaluation)},
        evaluate_every=None if cfg.evaluation.every is None else int(cfg.evaluation.every),
        curve_episodes=cfg.evaluation.curve_episodes,
        video_every=None if cfg.evaluation.video_every is None else int(cfg.evaluation.video_every),
        weights=cfg.evaluation.weights,
        average_decay=float(cfg.evaluation.average_decay),
        population=population_of(cfg),
    )


def _live(cfg: DictConfig, algo: Algorithm, store: LiveStore) -> Live:
    """What follows hyperparameters that are changed by hand."""

    def rebuild(values: dict[str, Any]) -> Algorithm:
        changed = copy.deepcopy(cfg)
        for key, value in values.items():
            OmegaConf.update(changed, key, value, force_add=True)  # the yaml may lack what is at its default
        return build_algorithm(changed)

    lr = learning_rate(cfg) if optimizer_traits(cfg).follows_lr else None
    ranges: Any = {} if cfg.live_ranges is None else OmegaConf.to_container(cfg.live_ranges, resolve=True)
    return Live(store, algo, rebuild, lr, flatten(ranges))


def _per_agent(cfgs: Sequence[DictConfig], make: Callable[[DictConfig], Part]) -> list[Part]:
    """One part per agent: what `make` builds from a config, repeated for each of the run's agents."""
    return [part for cfg in cfgs for part in [make(cfg)] * len(seeds_of(cfg))]
