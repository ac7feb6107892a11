"""Builds each part of a run from its node of the config. Parts get plain values and know no config."""

import contextlib
import re
from bdb import BdbQuit
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from gymnasium import spaces
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlexp.algos.advantages import GAE
from rlexp.algos.base import Algorithm
from rlexp.algos.bonus import require_own_attributes, with_bonus
from rlexp.algos.schedules import Schedule
from rlexp.checks.hook_outputs import require_modules
from rlexp.checks.location import hint, located_errors
from rlexp.config.signatures import typed
from rlexp.data import RunSpec, Spaces
from rlexp.envs import Environment
from rlexp.errors import ConfigError, UserError, user_error_behind
from rlexp.loggers.base import Logger
from rlexp.loggers.make import make_loggers
from rlexp.networks.actor_critic import ActorCritic, attach
from rlexp.seeding import AgentStreams, seeded
from rlexp.text import one_line, with_article
from rlexp.training.optimizers import Traits, traits
from rlexp.user_code import describe_error, package_of, where_raised


def build_algorithm(cfg: DictConfig) -> Algorithm:
    """The objective, independent of the state of global random streams."""
    with seeded(0):
        return make_algorithm(cfg)


def make_algorithm(cfg: DictConfig) -> Algorithm:
    """The objective, made while global random streams are as they are."""
    with _located_errors(cfg.algo):
        made = with_bonus(*_objective_and_bonus(cfg)) if cfg.bonus else _build(cfg.algo)
    if not isinstance(made, Algorithm):
        raise ConfigError(
            f"algo._target_={cfg.algo.get('_target_')}: makes {with_article(type(made).__name__)}, which is not an "
            f"rlexp.algos.base.Algorithm; derive it from Algorithm, or from rlexp.algos.ppo.PPO"
        )
    return made


def check_bonus(cfg: DictConfig, device: torch.device) -> None:
    """The bonus and the objective, if there are both, must not keep what the other keeps. Raises ConfigError."""
    if cfg.bonus:
        with _located_errors(cfg.algo), seeded(0):
            require_own_attributes(*_objective_and_bonus(cfg), RunSpec(1, 1, [AgentStreams.make(0, device)], device))


def _objective_and_bonus(cfg: DictConfig) -> tuple[Any, Any]:
    """Both, yet to be made."""
    return _build(cfg.algo, _partial_=True), _build(cfg.bonus, _partial_=True)


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


def build_gae(cfg: DictConfig) -> GAE:
    """The advantage estimator."""
    return cast(GAE, _build(cfg.gae))


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


def network_packages(cfg: DictConfig) -> set[str]:
    """Packages of all `_target_`s of the network."""
    targets = re.findall(r"_target_: (\S+)", OmegaConf.to_yaml(cfg.network, resolve=True))
    return {package_of(target) for target in targets}


def with_modules(make: Callable[[], ActorCritic], algo: Algorithm, spaces: Spaces) -> Callable[[], ActorCritic]:
    """A function that makes one agent's network together with the objective's own modules."""

    def build() -> ActorCritic:
        network = make()  # first, so that it starts with the same parameters as without modules
        with located_errors(algo, "modules"):
            modules = algo.modules(spaces)
        return attach(network, require_modules(algo, modules, spaces.observation.shape))

    return build


def optimizer_builder(cfg: DictConfig) -> Callable[..., torch.optim.Optimizer]:
    """A function that makes an optimizer of parameters and a learning rate."""
    return cast(
        Callable[..., torch.optim.Optimizer],
        _build(OmegaConf.masked_copy(cfg.optimizer, [str(key) for key in cfg.optimizer if key != "lr"])),
    )


def optimizer_traits(cfg: DictConfig) -> Traits:
    """What the optimizer's class and options allow."""
    return traits(cast(dict[str, Any], OmegaConf.to_container(cfg.optimizer, resolve=True)))


def supports_agent_lrs(cfg: DictConfig) -> bool:
    """Whether learning rates may differ between agents side by side, as steps are proportional to it."""
    return optimizer_traits(cfg).proportional


def learning_rate(cfg: DictConfig) -> Schedule:
    """The learning rate's schedule. Raises ConfigError if it is negative, or the optimizer ignores that it changes."""
    plain: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    schedule = Schedule(plain.get("lr"), "optimizer.lr")
    if min(schedule.knots) < 0:
        raise ConfigError(f"optimizer.lr={schedule}: must not be below 0")
    if len(set(schedule.knots)) > 1 and not optimizer_traits(cfg).follows_lr:
        what = f"{plain.get('_target_')} ignores changes of the learning rate; use one number"
        raise ConfigError(f"optimizer.lr={schedule}: {what}")
    return schedule


def _build(node: Any, **kwargs: Any) -> Any:
    """Instantiate one node."""
    plain = OmegaConf.create(typed(OmegaConf.to_container(node, resolve=True)))
    with _located_errors(plain):
        return instantiate(plain, _convert_="all", **kwargs)


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
