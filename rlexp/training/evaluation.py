"""Evaluation of frozen policies on a fixed list of seeds."""

import logging
from collections.abc import Callable
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
    generator = torch.Generator(device).manual_seed(seeds[0])  # of sampled actions

    def act(obs: Tensor) -> np.ndarray:
        """Actions for observations (A, E, ...), in the environments' format (A * E, ...)."""
        params, _ = policy(obs)
        if deterministic:
            actions = distribution.mode(params)
        else:  # the same noise for every agent, so that none depends on the others
            actions = distribution.sample(params, distribution.draw_noise((1, obs.shape[1]), generator))
        return distribution.to_env(actions.flatten(0, 1).cpu().numpy())

    together = environment.evaluation_envs or episodes
    played: list[list[dict[str, Any]]] = [[] for _ in range(num_agents)]
    for first in range(0, episodes, together):
        results = _play(act, environment, num_agents, seeds[first : first + together], max_steps, device, watch)
        played = [before + more for before, more in zip(played, results, strict=True)]
    cut = sum(not episode["finished"] for episodes_of in played for episode in episodes_of)
    if cut:
        log.warning("%d evaluation episodes were cut off at evaluation.max_steps=%d", cut, max_steps)
    return played


def _play(
    act: Callable[[Tensor], np.ndarray],
    environment: Environment,
    num_agents: int,
    seeds: list[int],
    max_steps: int,
    device: torch.device,
    watch: Watch,
) -> list[list[dict[str, Any]]]:
    """Play one episode per seed with every agent, all at the same time; see `evaluate`."""
    envs, obs = watch.call(environment.start, [seeds] * num_agents, independent=True)
    shape = (num_agents, len(seeds))
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
        for k in range(num_agents)
    ]


def summarize(seeds: list[int], results: list[list[dict[str, Any]]], settings: dict[str, Any]) -> dict[str, Any]:
    """The content of evaluation.json."""
    agents = [
        {"seed": seed, "mean_return": float(np.mean([e["return"] for e in episodes])), "episodes": episodes}
        for seed, episodes in zip(seeds, results, strict=True)
    ]
    return {"settings": settings, "agents": agents}
