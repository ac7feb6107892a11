"""Builds the parts of a run from its config. Only this module sees the config: parts get plain values."""

import contextlib
import copy
import dataclasses
import re
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from gymnasium import spaces
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlexp.algos.advantages import GAE
from rlexp.algos.base import Algorithm
from rlexp.algos.bonus import require_own_attributes, with_bonus
from rlexp.algos.schedules import PerAgent, Schedule, side_by_side
from rlexp.checks.hook_outputs import require_modules
from rlexp.checks.location import hint, located_errors
from rlexp.checks.network import check_stacked, checked_network
from rlexp.checks.objective import Findings, check_loss
from rlexp.checks.saved_state import division_of, undividable
from rlexp.config.checks import check_groups, check_initial, check_rows, check_run_settings, check_shares
from rlexp.config.identity import flatten, typed_config
from rlexp.config.schema import FinalEvaluation, population_of, seeds_of
from rlexp.config.signatures import typed
from rlexp.data import RunSpec, Spaces
from rlexp.envs import Environment
from rlexp.envs.ids import require_installed
from rlexp.errors import ConfigError, UserError, user_error_behind
from rlexp.loggers.base import Logger
from rlexp.loggers.make import make_loggers
from rlexp.networks.actor_critic import ActorCritic, attach, build_networks
from rlexp.plain.by_agent import Division
from rlexp.seeding import AgentStreams, seeded
from rlexp.text import one_line, with_article
from rlexp.training.how import STACKED, Choice, choose_batching, choose_compile, choose_threads
from rlexp.training.learner import Learner
from rlexp.training.live import Live, LiveStore
from rlexp.training.optimizers import Traits, traits
from rlexp.training.ranks import Ranks
from rlexp.training.recorder import Display, Recorder
from rlexp.training.settings import RunSettings
from rlexp.training.trainer import Trainer
from rlexp.user_code import describe_error, package_of, where_raised
from rlexp.watch import Watch

Part = TypeVar("Part")


@contextlib.contextmanager
def _located_errors(node: Any) -> Iterator[None]:
    """While entered, what is wrong in making a node's object is one line; in user code with file and line."""
    try:
        yield
    except (UserError, BdbQuit):
        raise
    except Exception as error:  # user code may raise anything
        if (meant := user_error_behind(error)) is not None:
            raise meant from None
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if cause and (where := where_raised(cause, {package_of(str(node.get("_target_")))})):
            raise ConfigError(f"{where}: {describe_error(cause)}{hint(cause)}") from error
        if isinstance(error, InstantiationException):
            raise ConfigError(one_line(str(error))) from error
        raise


def _build(node: Any, **kwargs: Any) -> Any:
    """Instantiate one node."""
    plain = OmegaConf.create(typed(OmegaConf.to_container(node, resolve=True)))
    with _located_errors(plain):
        return instantiate(plain, _convert_="all", **kwargs)


def _algorithm(cfg: DictConfig) -> Algorithm:
    with _located_errors(cfg.algo):
        made = with_bonus(*_parts(cfg)) if cfg.bonus else _build(cfg.algo)
    if not isinstance(made, Algorithm):
        raise ConfigError(
            f"algo._target_={cfg.algo.get('_target_')}: makes {with_article(type(made).__name__)}, which is not an "
            f"rlexp.algos.base.Algorithm; derive it from Algorithm, or from rlexp.algos.ppo.PPO"
        )
    return made


def _parts(cfg: DictConfig) -> tuple[Any, Any]:
    """The objective and the bonus, yet to be made."""
    return _build(cfg.algo, _partial_=True), _build(cfg.bonus, _partial_=True)


def build_algorithm(cfg: DictConfig) -> Algorithm:
    """The objective, independent of the state of global random streams."""
    with seeded(0):
        return _algorithm(cfg)


def build_environment(cfg: DictConfig) -> Environment:
    """The environment factory; no environment is made."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg.env, resolve=True))
    wrappers = plain.get("wrappers") or []
    if isinstance(wrappers, list) and all(isinstance(each, dict) and "_target_" in each for each in wrappers):
        plain["wrappers"] = [
            {**each, "_partial_": True} for each in wrappers
        ]  # each is yet to be given its environment
        return cast(Environment, _build(OmegaConf.create(plain)))
    raise ConfigError(f"env.wrappers={wrappers}: give a list, each as {{_target_: module.Class}}, innermost first")


def build_loggers(cfg: DictConfig) -> dict[str, Logger]:
    """The loggers that the config chooses, by name."""
    return make_loggers(
        OmegaConf.to_container(cfg.logger, resolve=True) if OmegaConf.is_config(cfg.logger) else cfg.logger
    )


def network_builder(
    cfg: DictConfig, observation_space: spaces.Space, action_space: spaces.Space
) -> Callable[[], ActorCritic]:
    """A function that makes one agent's network."""
    options = {"normalize_obs": cfg.env.normalize_obs, "clip_obs": cfg.env.clip_obs}
    return partial(_build(cfg.network), observation_space, action_space, **options)


def with_modules(make: Callable[[], ActorCritic], algo: Algorithm, spaces: Spaces) -> Callable[[], ActorCritic]:
    """A function that makes one agent's network together with the objective's own modules."""

    def build() -> ActorCritic:
        network = make()  # first, so that it starts with the same parameters as without modules
        with located_errors(algo, "modules"):
            modules = algo.modules(spaces)
        return attach(network, require_modules(algo, modules, spaces.observation.shape))

    return build


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
    _build(cfg.gae)
    _learning_rate(cfg)
    _traits(cfg)
    check_rows(environment.num_envs, algo.rollout_steps, algo.minibatches, int(cfg.total_steps))
    if processes > 1:
        check_shares(cfg, environment.num_envs, algo.rollout_steps, algo.minibatches, processes)


def _traits(cfg: DictConfig) -> Traits:
    return traits(cast(dict[str, Any], OmegaConf.to_container(cfg.optimizer, resolve=True)))


def supports_agent_lrs(cfg: DictConfig) -> bool:
    """Whether learning rates may differ between agents side by side, as steps are proportional to it."""
    return _traits(cfg).proportional


def _learning_rate(cfg: DictConfig) -> Schedule:
    plain: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    schedule = Schedule(plain.get("lr"), "optimizer.lr")
    if min(schedule.knots) < 0:
        raise ConfigError(f"optimizer.lr={schedule}: must not be below 0")
    if len(set(schedule.knots)) > 1 and not _traits(cfg).follows_lr:
        what = f"{plain.get('_target_')} ignores changes of the learning rate; use one number"
        raise ConfigError(f"optimizer.lr={schedule}: {what}")
    return schedule


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


def _packages(cfg: DictConfig) -> set[str]:
    """Packages of all `_target_`s of the network."""
    targets = re.findall(r"_target_: (\S+)", OmegaConf.to_yaml(cfg.network, resolve=True))
    return {package_of(target) for target in targets}


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
    observation_space, action_space = environment.probe(watch)
    _check_bonus(cfg, device)
    policy = network_builder(cfg, observation_space, action_space)
    build = with_modules(policy, algo, Spaces(observation_space, action_space))
    if cfg.debug:  # dry runs would also hit prints and breakpoints, and hide the traceback of an error
        network, found, division = policy(), Findings(), Division()
    else:
        envs = environment.num_envs
        rows = (envs, envs * algo.rollout_steps // algo.minibatches)  # when acting, and when learning
        network = checked_network(policy, observation_space, [count // ranks.size for count in rows], _packages(cfg))
        division = division_of(lambda: _algorithm(cfg), build, observation_space, envs, device, population_of(cfg))
        if division.flaw and len(cfgs) > 1:
            raise undividable(algo, division.flaw)
        found = check_loss(
            lambda: _algorithm(cfg), build, observation_space, envs, device, len(streams), population_of(cfg), division
        )
    lr = side_by_side(_per_agent(cfgs, _learning_rate))
    if isinstance(lr, PerAgent) and not supports_agent_lrs(cfg):
        raise ConfigError("optimizer.lr: cannot differ between agents side by side with this optimizer")
    how = _how(cfg, algo, environment, len(streams), pixels=network.encoder.pixels, ranks=ranks)
    torch.set_num_threads(how["torch_threads"].value)
    networks = [network.to(device) for network in build_networks(build, streams)]
    make_optimizer = _build(OmegaConf.masked_copy(cfg.optimizer, [str(key) for key in cfg.optimizer if key != "lr"]))
    optimizer_traits = _traits(cfg)
    batching = choose_batching(cfg.batching, networks, algo, make_optimizer, optimizer_traits, found)
    live = _live(cfg, algo, store) if cfg.live and store is not None else None
    learner = Learner(
        networks,
        algo,
        make_optimizer,
        lr,
        streams,
        stacked=batching.value == STACKED,
        compiled=how["compiled"].value,
        recordable=optimizer_traits.recordable,
        world=environment.world,
        watch=watch,
        verify_loss=not cfg.debug,
        most_epochs=None if live is None else live.most_epochs,
        ranks=ranks,
    )
    if batching.value == STACKED:
        check_stacked(networks, learner.groups[0].params | learner.groups[0].buffers, observation_space, device)
    return Trainer(
        environment=environment,
        algo=algo,
        gae=GAE.side_by_side(_per_agent(cfgs, lambda run_cfg: cast(GAE, _build(run_cfg.gae))), device),
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


def _check_bonus(cfg: DictConfig, device: torch.device) -> None:
    if cfg.bonus:
        with _located_errors(cfg.algo), seeded(0):
            require_own_attributes(*_parts(cfg), RunSpec(1, 1, [AgentStreams.make(0, device)], device))


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

    lr = _learning_rate(cfg) if _traits(cfg).follows_lr else None
    ranges: Any = {} if cfg.live_ranges is None else OmegaConf.to_container(cfg.live_ranges, resolve=True)
    return Live(store, algo, rebuild, lr, flatten(ranges))


def _per_agent(cfgs: Sequence[DictConfig], make: Callable[[DictConfig], Part]) -> list[Part]:
    """One part per agent: what `make` builds from a config, repeated for each of the run's agents."""
    return [part for cfg in cfgs for part in [make(cfg)] * len(seeds_of(cfg))]
