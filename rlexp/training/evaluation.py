"""Evaluation of frozen policies on a fixed list of seeds."""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlexp.envs import Environment
from rlexp.envs.agents import continues
from rlexp.envs.checks import close, raise_fault
from rlexp.errors import EnvironmentFault
from rlexp.networks.distributions import Distribution
from rlexp.seeding import evaluation_seeds
from rlexp.spaces import storage_dtype
from rlexp.watch import Watch

log = logging.getLogger(__name__)

TOGETHER = 256  # environments that exist at a time, where agents do not have more each: some take 15 MB


def groups_of(agents: int, envs: int) -> list[slice]:
    """Agents that play at a time if each has so many environments; as many in each, so that the last may overlap."""
    size = math.ceil(agents / math.ceil(agents / max(1, TOGETHER // envs)))
    return [slice(first, first + size) for first in [*range(0, agents - size, size), agents - size]]


@torch.no_grad()
def evaluate(
    policy: Callable[[Tensor], tuple[Tensor, Tensor]],
    distribution: Distribution,
    environment: Environment,
    num_agents: int,
    *,
    episodes: int,
    deterministic: bool,
    max_steps: int,
    device: torch.device,
    watch: Watch | None = None,
) -> list[list[dict[str, Any]]]:
    """Play one episode per seed with every agent, on the same `episodes` seeds. The policy does not change.

    `policy` returns distribution parameters (A, E, P) and values (A, E) of raw observations (A, E, ...); `watch` may
    interrupt. Returns one list per agent of ``{"seed", "return", "length", "finished"}``, with raw, undiscounted
    returns; ``finished`` is false for episodes cut off at `max_steps`.
    """
    seeds = evaluation_seeds(episodes)
    watch = watch or Watch()
    generator = torch.Generator(device)  # of sampled actions

    def act(obs: Tensor, group: slice) -> np.ndarray:
        """Actions for observations (a, E, ...) of a group of agents, in the environments' format (a * E, ...)."""
        every = obs.new_zeros(num_agents, *obs.shape[1:])
        every[group] = obs
        params = policy(every)[0][group]
        if deterministic:
            actions = distribution.mode(params)
        else:  # the same noise for every agent, so that none depends on the others
            actions = distribution.sample(params, distribution.draw_noise((1, obs.shape[1]), generator))
        return distribution.to_env(actions.flatten(0, 1).cpu().numpy())

    together = environment.evaluation_envs or episodes
    played: list[list[dict[str, Any]]] = [[] for _ in range(num_agents)]
    for first in range(0, episodes, together):
        part = seeds[first : first + together]
        results: list[list[dict[str, Any]]] = [[] for _ in range(num_agents)]
        for group in groups_of(num_agents, len(part)):
            generator.manual_seed(part[0])
            results[group] = _play(partial(act, group=group), environment, group, part, max_steps, device, watch)
        played = [before + more for before, more in zip(played, results, strict=True)]
    cut = sum(not episode["finished"] for episodes_of in played for episode in episodes_of)
    if cut:
        log.warning("%d evaluation episodes were cut off at evaluation.max_steps=%d", cut, max_steps)
    return played


def _play(
    act: Callable[[Tensor], np.ndarray],
    environment: Environment,
    group: slice,
    seeds: list[int],
    max_steps: int,
    device: torch.device,
    watch: Watch,
) -> list[list[dict[str, Any]]]:
    """Play one episode per seed with every agent of a group, all at the same time; see `evaluate`."""
    agents = group.stop - group.start
    envs, obs = watch.call(environment.start, [seeds] * agents, independent=True)
    shape = (agents, len(seeds))
    dtype = storage_dtype(envs.single_observation_space)
    totals, lengths = np.zeros(shape), np.zeros(shape, np.int64)
    playing = np.ones(shape, bool)
    try:
        for _ in range(max_steps):
            watch.raise_if_stopped()
            actions = act(torch.from_numpy(np.ascontiguousarray(obs)).to(device, dtype).unflatten(0, shape))
            try:
                obs, rewards, terminated, truncated, infos = watch.call(envs.step, actions)
            except (Exception, SystemExit) as error:
                raise_fault(error, envs, environment.id)
            if not (np.isfinite(rewards) | ~playing.reshape(-1)).all():
                raise EnvironmentFault(f"env.id={environment.id}: returned a reward that is not finite in evaluation")
            totals += np.where(playing, np.reshape(rewards, shape), 0.0)
            lengths += playing
            ended = np.asarray(terminated, bool) | np.asarray(truncated, bool)
            playing &= ~(ended & ~np.asarray(continues(infos), bool)).reshape(shape)
            finite = obs.dtype.kind != "f" or np.isfinite(obs).reshape(len(obs), -1).all(1)
            if not (finite | ~playing.reshape(-1)).all():
                raise EnvironmentFault(
                    f"env.id={environment.id}: returned an observation that is not finite in evaluation"
                )
            if not playing.any():
                break
    finally:
        close(envs, environment.id)
    return [
        [
            {"seed": seed, "return": float(total), "length": int(length), "finished": not cut}
            for seed, total, length, cut in zip(seeds, totals[k], lengths[k], playing[k], strict=True)
        ]
        for k in range(agents)
    ]


def summarize(seeds: list[int], results: list[list[dict[str, Any]]], settings: dict[str, Any]) -> dict[str, Any]:
    """The content of evaluation.json."""
    agents = [
        {"seed": seed, "mean_return": float(np.mean([e["return"] for e in episodes])), "episodes": episodes}
        for seed, episodes in zip(seeds, results, strict=True)
    ]
    return {"settings": settings, "agents": agents}
