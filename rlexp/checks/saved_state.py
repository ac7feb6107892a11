"""What an objective saves can be divided agent by agent: runs that share a batch are saved, and resumed, one by one."""

import copy
import io
import logging
from bdb import BdbQuit
from collections.abc import Callable
from typing import Any, cast

import torch
from gymnasium import spaces
from torch import Tensor

from rlexp.algos.base import Algorithm
from rlexp.checks.location import located_errors, refusal
from rlexp.checks.synthetic import EachNetwork, rollout_of
from rlexp.data import Rollout, RunSpec
from rlexp.errors import ObjectiveError
from rlexp.networks.actor_critic import ActorCritic, build_networks
from rlexp.plain.by_agent import Division, join_agents, select_agents
from rlexp.seeding import AgentStreams, seeded
from rlexp.text import with_article

log = logging.getLogger(__name__)

ROLLOUTS = 3  # after which what an objective keeps is taken to have its form
PLAIN = {Tensor, str, bytes, int, float, bool, type(None)}  # classes that every checkpoint can hold
WANTED = "tensors (agents * n, ...), lists with one entry per agent, and what all agents share, nested as you like"


def require_loadable(algo: Algorithm, state: Any) -> None:
    """Refuse state of an objective that a checkpoint, which runs no code when it is read, could not give back."""
    if (found := _unloadable(state, "")) is not None:
        path, kind = found
        what = f"keeps {path}, {with_article(kind.__name__)}, which cannot be read back from a checkpoint"
        raise refusal(algo, "state_dict", f"{what}; it takes {WANTED}")


def _unloadable(state: Any, path: str) -> tuple[str, type] | None:
    """Path and class of the first part of nested state that cannot be saved, or read back."""
    kind = type(state)
    if kind in PLAIN:
        return None
    if kind is dict:
        parts = {f"{path}.{key}" if path else str(key): value for key, value in state.items()}
        parts |= {f"the key {key!r} in {path or 'it'}": key for key in state}
    elif kind is list or kind is tuple:
        parts = {f"{path}[{k}]": value for k, value in enumerate(state)}
    else:
        return None if _is_loadable(state) else (path, kind)
    found = (_unloadable(part, at) for at, part in parts.items())
    return next((each for each in found if each is not None), None)


def _is_loadable(value: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # of pickle, of torch.load, or of a user's class
        return False
    return True


def division_of(
    make: Callable[[], Algorithm],
    build: Callable[[], ActorCritic],
    space: spaces.Space,
    num_envs: int,
    device: torch.device,
    population: int,
) -> Division:
    """How the state of an objective is divided by agent, found from its states for two numbers of agents.

    They are compared as they begin, and after each of some synthetic rollouts. What rlexp's own classes keep are
    tensors (agents · n, ...) alone. make: makes the objective; build: one agent's network; space: of raw observations;
    num_envs: per agent.
    """
    with seeded(0):
        kinds = type(make()).__mro__
    if all(kind.__module__.startswith("rlexp.") for kind in kinds if "state_dict" in vars(kind)):
        return Division()

    def states(agents: int) -> list[dict[str, Any]]:
        streams = [[AgentStreams.make(seed, device) for seed in range(agents)] for _ in range(2)]
        with seeded(0):
            algo = make()
            with located_errors(algo, "prepare"):
                algo.prepare(RunSpec(agents, num_envs, streams[0], device, population))
            with located_errors(algo, "state_dict"):
                found = [copy.deepcopy(algo.state_dict())]
            networks = [network.to(device) for network in build_networks(build, streams[1])]
            for number in range(ROLLOUTS):
                rollout = rollout_of(networks, space, algo.rollout_steps, num_envs, device, seed=number)
                complete = _pass_through(algo, rollout, EachNetwork(networks))
                with located_errors(algo, "state_dict"):
                    found.append(copy.deepcopy(algo.state_dict()))
                if not complete:
                    break
        return found

    return Division.found(zip(states(population), states(2 * population), strict=False), population)


class AnyMetric(dict[str, Tensor]):
    """Has whatever metric is asked for: the same of all agents."""

    def __init__(self, agents: int, device: torch.device) -> None:
        super().__init__()
        self.value = torch.full((agents,), 0.5, device=device)

    def __missing__(self, name: str) -> Tensor:
        return self.value.clone()


def _pass_through(algo: Algorithm, rollout: Rollout, policies: EachNetwork) -> bool:
    """Call the hooks of an update, without learning; returns whether none failed on synthetic values."""
    agents, device = len(rollout.obs), rollout.obs.device
    try:
        algo.rewards(rollout, policies)
        algo.observe(rollout)
        algo.coefficients(0.0, agents, device)
        algo.replay(algo.epochs * algo.minibatches)
        algo.adapt(AnyMetric(agents, device))
    except BdbQuit:
        raise
    except Exception:  # the checks that follow tell what is due to the objective
        log.debug("a hook failed on a synthetic rollout", exc_info=True)
        return False
    return True


def saved_state(algo: Algorithm, spec: RunSpec, division: Division) -> dict[str, Any]:
    """The state of an objective, saved population by population and joined again, if it can be divided.

    Raises:
        ObjectiveError: it cannot be read back from a checkpoint.
    """
    with located_errors(algo, "state_dict"):
        state = copy.deepcopy(algo.state_dict())
    require_loadable(algo, state)
    total, size = spec.num_agents, spec.population
    if division.flaw:
        return state
    try:
        parts = [select_agents(state, slice(k, k + size), total, division) for k in range(0, total, size)]
        return cast(dict[str, Any], join_agents(parts, division, equal=True))
    except ValueError:  # which matters, and is told, where several runs are saved
        return state


def undividable(algo: Algorithm, why: str) -> ObjectiveError:
    """An error in `state_dict`, whose result runs side by side cannot share."""
    return refusal(algo, "state_dict", f"cannot be divided by agent: {why}; it takes {WANTED}")
