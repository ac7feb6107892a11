"""What a loss must keep to, whoever wrote it: tried on a made-up rollout before the first step."""

import inspect
import traceback
from bdb import BdbQuit
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.func import grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_map

from rlexp.algos.base import Algorithm, Batch
from rlexp.digest import digest
from rlexp.errors import ObjectiveError, UserError
from rlexp.learner import build_networks
from rlexp.networks.checks import no_global_randomness, sample_rows
from rlexp.networks.trial import where_network_raised
from rlexp.policy import ActorCritic, Policy
from rlexp.rollout import FinishedEpisodes, Rollout, RunSpec
from rlexp.seeding import AgentStreams

AGENTS = 2


@dataclass(frozen=True)
class Findings:
    """What a loss does that others do not."""

    alone_at: str | None = None  # where it, or the network, looks at single values: agents cannot be stacked
    draws: bool = True  # random numbers from the policy


HERE = Path(__file__).resolve().parent


def check_loss(
    algo: Algorithm, build: Callable[[], ActorCritic], space: spaces.Space, num_envs: int, device: torch.device
) -> Findings:
    """Try a loss for one agent and for several.

    Args:
        algo: one that is used for nothing else.
        build: makes one agent's network.
        space: of raw observations.
        num_envs: of each agent.
        device: where training happens.

    Raises:
        ObjectiveError: the loss is no function of its policy and batch that gives a scalar with a gradient and scalars
            to log; the line names the file, the line, and what is wrong.
    """
    streams = [AgentStreams.make(seed, device) for seed in range(AGENTS)]
    networks = [network.to(device) for network in build_networks(build, streams)]
    try:
        algo.prepare(RunSpec(AGENTS, num_envs, streams, device))
        rollout = made_up(networks, space, algo.rollout_steps, num_envs, device)
        algo.observe(rollout)
        coefficients = algo.coefficients(0.0, AGENTS, device)
        replay = algo.replay(1)
    except (UserError, BdbQuit):
        raise
    except Exception:  # perhaps of what is made up: the real thing will tell
        return Findings()
    batch = _batch(rollout, replay, algo.rollout_steps * num_envs // algo.minibatches)
    first = tree_map(lambda x: x[0], (batch, coefficients))
    tensors = dict(networks[0].named_parameters()) | dict(networks[0].named_buffers())
    draws = _try_alone(algo, networks[0], tensors, *first)
    return Findings(_why_not_stacked(algo, networks, batch, coefficients), draws)


def made_up(
    networks: list[ActorCritic], space: spaces.Space, num_steps: int, num_envs: int, device: torch.device
) -> Rollout:
    """A rollout as it could be, of a few observations again and again."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(networks), num_steps, num_envs)

    def numbers() -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    few = sample_rows(space)
    obs = few[torch.randint(len(few), shape, generator=generator)].to(device)
    distribution = networks[0].distribution
    with torch.no_grad():
        outputs = [network(own.flatten(0, 1)) for network, own in zip(networks, obs, strict=True)]
        params = torch.stack([params for params, _ in outputs]).unflatten(1, shape[1:])
        values = torch.stack([values for _, values in outputs]).unflatten(1, shape[1:])
        actions = distribution.sample(params, distribution.draw_noise(shape, generator).to(device))
        log_probs = distribution.log_prob(params, actions)
    nothing = np.zeros(0, np.int64)
    return Rollout(
        obs=obs,
        actions=actions,
        dist_params=params,
        log_probs=log_probs,
        values=values,
        rewards=numbers(),
        terminated=torch.zeros(shape, dtype=torch.bool, device=device),
        truncated=torch.zeros(shape, dtype=torch.bool, device=device),
        weights=torch.ones(shape, device=device),
        last_values=values[:, -1],
        steps=np.full(len(networks), num_steps * num_envs),
        dummy_first=np.zeros((len(networks), num_envs), bool),
        open_lengths=np.zeros((len(networks), num_envs), np.int64),
        episodes=FinishedEpisodes(nothing, nothing, nothing, nothing, np.zeros(0), nothing),
    )


def _batch(rollout: Rollout, replay: Any, rows: int) -> Batch:
    """The first rows as a minibatch of each agent (A, B, ...); what is left of the rewards stands for targets."""
    batch = Batch.of(rollout, rollout.rewards, rollout.rewards + rollout.values)
    batch = batch.map_rows(lambda x: x.flatten(1, 2)[:, :rows])
    key = torch.zeros(AGENTS, dtype=torch.int64, device=rollout.obs.device)
    return batch._replace(replay=tree_map(lambda x: x[:, 0], replay), key=key)


def _try_alone(
    algo: Algorithm, network: ActorCritic, tensors: dict[str, Tensor], batch: Batch, coefficients: dict[str, Tensor]
) -> bool:
    """Refuse a loss that is none for one agent. Returns whether it draws from its policy."""
    bound = algo.bind(coefficients)
    before = {name: digest(value) for name, value in bound._attributes().items()}
    leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in tensors.items()}
    policy = Policy(network, leaves, batch.key)
    try:
        with no_global_randomness("the loss"), torch.enable_grad():
            given = bound.loss(policy, batch)
    except UserError as error:
        raise _refusal(algo, str(error)) from error
    except Exception as error:  # whatever somebody else's code raises
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ObjectiveError(f"{_where_raised(error, algo)}: {type(algo).__name__}.loss: {line}") from error
    _require_outputs(algo, given)
    now = {name: digest(value) for name, value in bound._attributes().items()}
    for name in now:
        if now[name] != before.get(name):
            raise _refusal(
                algo,
                f"writes self.{name}, which is lost: it is called on a copy, for one agent of several, and not at all "
                f"once it is compiled; return a metric and keep it in adapt(metrics), or in observe(rollout)",
                f"self.{name}",
            )
    return policy.draws > 0


def _require_outputs(algo: Algorithm, given: Any) -> None:
    """Refuse what is not (scalar with a gradient, scalars by name)."""
    wanted = "wants (loss, metrics): a scalar tensor, and a dictionary of scalar tensors, which may be empty"
    if given is None:
        raise _refusal(algo, f"returns nothing; {wanted}")
    if not (isinstance(given, tuple) and len(given) == 2):
        what = f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise _refusal(algo, f"returns {what}; {wanted}", "return")
    loss, metrics = given
    if not isinstance(loss, Tensor):
        raise _refusal(algo, f"the loss is a {type(loss).__name__}, wants a scalar tensor", "return")
    if loss.dim():
        raise _refusal(
            algo, f"the loss has shape {tuple(loss.shape)}, wants a scalar: weighted_mean(x, weights)", "return"
        )
    if not isinstance(metrics, dict):
        raise _refusal(algo, f"the metrics are a {type(metrics).__name__}, wants a dictionary of scalars", "return")
    for name, value in metrics.items():
        quoted = (f'"{name}"', f"'{name}'")
        if not isinstance(value, Tensor):
            raise _refusal(
                algo, f"metric {name!r} is a {type(value).__name__}, wants a scalar tensor: torch.as_tensor(x)", *quoted
            )
        if value.dim():
            raise _refusal(
                algo,
                f"metric {name!r} has shape {tuple(value.shape)}, wants a scalar: weighted_mean(x, weights)",
                *quoted,
            )
    if not loss.requires_grad:
        raise _refusal(algo, "the loss has no gradient: nothing in it depends on policy(batch.obs)", "return")


def _why_not_stacked(
    algo: Algorithm, networks: list[ActorCritic], batch: Batch, coefficients: dict[str, Tensor]
) -> str | None:
    params, buffers = stack_module_state(networks)

    def loss_of(
        params: dict[str, Tensor], buffers: dict[str, Tensor], rows: Batch, values: dict[str, Tensor]
    ) -> tuple[Tensor, Any]:
        return algo.bind(values).loss(Policy(networks[0], params | buffers, rows.key), rows)

    try:
        vmap(grad_and_value(loss_of, has_aux=True))(params, buffers, batch, coefficients)
    except BdbQuit:
        raise
    except Exception as error:  # what vmap says of branches on tensors, .item(), float(), numpy
        return where_network_raised(error, networks[0]) or _where_raised(error, algo)
    return None


# Where it stands -----------------------------------------------------------------------------------------------------


def _told(file: str, line: int) -> str:
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}:{line}"


def _where_raised(error: Exception, algo: Algorithm) -> str:
    """The last line of code that is the algorithm author's, or failing that the loss's first."""
    theirs = {inspect.getsourcefile(kind) for kind in type(algo).__mro__[:-2] if kind.__module__ != "builtins"}
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if frame.filename in theirs:
            return _told(frame.filename, frame.lineno or 0)
    return _where_defined(algo)


def _where_defined(algo: Algorithm, *needles: str) -> str:
    """The last line in which one of these is written in a loss of the class, or else of its bases; else its first."""
    first_line = ""
    for kind in type(algo).__mro__:
        function = inspect.unwrap(vars(kind).get("loss", Algorithm.loss))
        try:
            lines, first = inspect.getsourcelines(function)
            file = inspect.getsourcefile(function) or ""
        except (OSError, TypeError):  # typed into a prompt
            continue
        found = [number for number, line in enumerate(lines) if any(needle in line for needle in needles)]
        if found:
            return _told(file, first + found[-1])
        first_line = first_line or _told(file, first)
    return first_line or type(algo).__name__


def _refusal(algo: Algorithm, what: str, *needles: str) -> ObjectiveError:
    return ObjectiveError(f"{_where_defined(algo, *needles)}: {type(algo).__name__}.loss: {what}")
