"""Config to parts. The config stops here: what is built gets plain values."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from gymnasium import spaces
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlexp.advantages import GAE
from rlexp.algos.base import Algorithm
from rlexp.config import check_groups, check_rows, check_run_settings, typed_config
from rlexp.contract import check_loss
from rlexp.envs import Environment
from rlexp.errors import ConfigError, UserError, user_error_behind
from rlexp.jobs import Job
from rlexp.learner import Learner
from rlexp.networks.checks import check_network
from rlexp.optimizers import Traits, traits
from rlexp.parents import check_initial
from rlexp.policy import ActorCritic
from rlexp.run_writer import RunWriter
from rlexp.schedules import PerAgent, Schedule, side_by_side
from rlexp.seeding import AgentStreams
from rlexp.signatures import typed
from rlexp.trainer import RunSettings, Trainer
from rlexp.watch import Watch

# A compiled call of either kind saves about a millisecond; compiling costs half a minute when it is new, and a
# second or two when not.
CALLS_WORTH_COMPILING = 10_000

Part = TypeVar("Part")

ALL_THREADS = torch.get_num_threads()  # as torch starts out: the cores, or OMP_NUM_THREADS


def _build(node: Any, **kwargs: Any) -> Any:
    """Instantiate one node; errors meant for the user come through as themselves."""
    plain = OmegaConf.create(typed(OmegaConf.to_container(node, resolve=True)))
    try:
        return instantiate(plain, _convert_="all", **kwargs)
    except InstantiationException as error:
        meant = user_error_behind(error)
        if meant is not None:
            raise meant from None
        line = " ".join(str(error).split())
        raise ConfigError(line) from error


def build_algorithm(cfg: DictConfig) -> Algorithm:
    """The objective."""
    return cast(Algorithm, _build(cfg.algo))


def build_environment(cfg: DictConfig) -> Environment:
    """The environment factory; no environment is made."""
    return cast(Environment, _build(cfg.env))


def network_builder(
    cfg: DictConfig, observation_space: spaces.Space, action_space: spaces.Space
) -> Callable[[], ActorCritic]:
    """A function that makes one agent's network."""
    make = _build(cfg.network)
    options = {"normalize_obs": cfg.env.normalize_obs, "clip_obs": cfg.env.clip_obs}

    def build() -> ActorCritic:
        return make(observation_space, action_space, **options)

    return build


def check(cfg: DictConfig) -> None:
    """Every check that needs no environment.

    Raises:
        ConfigError: the first setting that cannot be, named.
    """
    check_run_settings(cfg)
    check_initial(cfg)
    check_groups(typed_config(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))))
    algo, environment = build_algorithm(cfg), build_environment(cfg)
    _build(cfg.gae)
    _learning_rate(cfg)
    _traits(cfg)
    check_rows(environment.num_envs, algo.rollout_steps, algo.minibatches, int(cfg.total_steps))


def _optimizer(cfg: DictConfig) -> Callable[..., torch.optim.Optimizer]:
    """What makes an optimizer from parameters and the current learning rate."""
    return _build(OmegaConf.masked_copy(cfg.optimizer, [str(key) for key in cfg.optimizer if key != "lr"]))


def _traits(cfg: DictConfig) -> Traits:
    return traits(cast(dict[str, Any], OmegaConf.to_container(cfg.optimizer, resolve=True)))


def has_own_rates(cfg: DictConfig) -> bool:
    """Whether agents side by side may have learning rates of their own: steps are proportional to the rate."""
    return _traits(cfg).proportional


def _learning_rate(cfg: DictConfig) -> Schedule:
    plain: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    schedule = Schedule.named("optimizer.lr", plain.get("lr"))
    if min(schedule.knots) < 0:
        raise ConfigError(f"optimizer.lr={schedule}: must not be below 0")
    if len(set(schedule.knots)) > 1 and not _traits(cfg).heeding:
        raise ConfigError(
            f"optimizer.lr={schedule}: {plain.get('_target_')} heeds no rate that changes; give one number"
        )
    return schedule


def pays_to_compile(cfg: DictConfig, algo: Algorithm, environment: Environment) -> bool:
    """`compile`, with auto decided by the length of the run alone: the same run is always computed the same way."""
    if cfg.compile != "auto":
        return bool(cfg.compile)
    if cfg.device != "cpu":
        return False  # CUDA graphs: on request, until a measurement says where they pay
    updates = cfg.total_steps // (environment.num_envs * algo.rollout_steps)
    calls = updates * (algo.rollout_steps + algo.epochs * algo.minibatches)
    return calls >= CALLS_WORTH_COMPILING


def _threads(rows: int, *, pixels: bool) -> int:
    """CPU threads that pay: all for convolutions, else one for every 256 rows that a minibatch has over all agents."""
    return ALL_THREADS if pixels else max(1, min(ALL_THREADS, rows // 256))


def _try_network(build: Callable[[], ActorCritic], observation_space: spaces.Space) -> ActorCritic:
    """A network that has been seen to do what a network must."""
    try:
        trial = build()
        check_network(trial, observation_space, trial.distribution.num_params)
    except UserError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"network: cannot be built for these spaces: {line}") from error
    return trial


def build_trainer(jobs: Sequence[Job], watch: Watch | None = None) -> Trainer:
    """All parts of what trains the jobs' agents side by side.

    Args:
        jobs: one, or several whose configs differ in seeds and in what an agent may have of its own: learning rate,
            γ, λ and scheduled hyperparameters. `check` has passed each.
        watch: of the environments' calls; by default they may take as long as they like.

    Raises:
        ConfigError: spaces that are not supported, or a network that cannot read them.
    """
    cfg = jobs[0].cfg
    watch = watch or Watch()
    device = torch.device(cfg.device)
    algo = Algorithm.side_by_side(_of_agents(jobs, build_algorithm))
    environment = build_environment(cfg)
    observation_space, action_space = watch.call(environment.probe)
    build = network_builder(cfg, observation_space, action_space)
    trial = _try_network(build, observation_space)
    found = check_loss(build_algorithm(cfg), build, observation_space, environment.num_envs, device)
    lr = side_by_side(_of_agents(jobs, _learning_rate))
    if isinstance(lr, PerAgent) and not has_own_rates(cfg):
        raise ConfigError("optimizer.lr: agents side by side cannot differ in it with this optimizer")
    streams = [AgentStreams.make(seed, device) for job in jobs for seed in job.seeds]
    rows = len(streams) * environment.num_envs * algo.rollout_steps
    torch.set_num_threads(cfg.torch_threads or _threads(rows // algo.minibatches, pixels=trial.encoder.pixels))
    learner = Learner(
        build,
        algo,
        _optimizer(cfg),
        _traits(cfg),
        lr,
        streams,
        observation_space=observation_space,
        device=device,
        batching=cfg.batching,
        compiled=pays_to_compile(cfg, algo, environment),
        world=environment.world,
        watch=watch,
        alone_at=found.alone_at,
        draws=found.draws,
    )
    firsts = itertools.accumulate((len(job.seeds) for job in jobs), initial=0)
    return Trainer(
        environment=environment,
        algo=algo,
        gae=GAE.side_by_side(_of_agents(jobs, lambda own: cast(GAE, _build(own.gae))), device),
        learner=learner,
        distribution=trial.distribution,
        streams=streams,
        watch=watch,
        runs=[
            RunWriter(job.folder, job.settings, job.seeds, first, job.choices)
            for job, first in zip(jobs, firsts, strict=False)
        ],
        settings=RunSettings(
            total_steps=int(cfg.total_steps),
            stop_at=None if cfg.stop_at is None else int(cfg.stop_at),
            checkpoint_every=int(cfg.checkpoint_every),
            log_every=int(cfg.log_every),
            progress=cfg.progress,
            evaluation=dict(cfg.evaluation),
        ),
    )


def _of_agents(jobs: Sequence[Job], make: Callable[[DictConfig], Part]) -> list[Part]:
    """What a job's config makes, once for each of its agents."""
    return [part for job in jobs for part in [make(job.cfg)] * len(job.seeds)]
