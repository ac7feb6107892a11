"""Evaluation of frozen policies on a fixed list of seeds."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlexp.envs import Environment
from rlexp.envs.checks import tell
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
    """Every agent plays the same `episodes` seeds once. Nothing of the policy moves.

    `watch` may end it.

    `policy` gives distribution parameters (A, E, P) and values (A, E) of raw observations (A, E, ...).
    Returns one list an agent of ``{"seed", "return", "length", "finished"}``, returns undiscounted and raw; an episode
    cut at `max_steps` has ``finished`` false.
    """
    seeds = evaluation_seeds(episodes)
    watch = watch or Watch()
    generator = torch.Generator(device).manual_seed(seeds[0])  # of drawn actions

    def act(obs: Tensor) -> np.ndarray:
        """What is sent for observations (A, E, ...): (A * E, ...)."""
        params, _ = policy(obs)
        if deterministic:
            actions = distribution.mode(params)
        else:  # the same noise for every agent, so that none depends on its neighbours
            actions = distribution.sample(params, distribution.draw_noise((1, obs.shape[1]), generator))
        return distribution.to_env(actions.flatten(0, 1).cpu().numpy())

    together = environment.evaluated_together or episodes
    played: list[list[dict[str, Any]]] = [[] for _ in range(num_agents)]
    for first in range(0, episodes, together):
        results = _play(act, environment, num_agents, seeds[first : first + together], max_steps, device, watch)
        played = [before + more for before, more in zip(played, results, strict=True)]
    cut = sum(not episode["finished"] for own in played for episode in own)
    if cut:
        log.warning("%d evaluation episodes were cut at evaluation.max_steps=%d", cut, max_steps)
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
    """Every agent plays these seeds once, all at the same time; see `evaluate`."""
    envs, obs = watch.call(environment.start, [seeds] * num_agents, independent=True)
    shape = (num_agents, len(seeds))
    dtype = storage_dtype(envs.single_observation_space)
    totals, lengths = np.zeros(shape), np.zeros(shape, np.int64)
    playing = np.ones(shape, bool)
    try:
        for _ in range(max_steps):
            watch.raise_if_stopped()
            sent = act(torch.from_numpy(np.ascontiguousarray(obs)).to(device, dtype).unflatten(0, shape))
            try:
                obs, rewards, terminated, truncated, _ = watch.call(envs.step, sent)
            except (Exception, SystemExit) as error:
                tell(error, envs, environment.id)
            if not (np.isfinite(rewards) | ~playing.reshape(-1)).all():
                raise EnvironmentFault(f"env.id={environment.id}: gave a reward that is not finite in evaluation")
            totals += np.where(playing, np.reshape(rewards, shape), 0.0)
            lengths += playing
            playing &= ~(np.asarray(terminated, bool) | np.asarray(truncated, bool)).reshape(shape)
            if (
                obs.dtype.kind == "f"
                and not (np.isfinite(obs).reshape(len(obs), -1).all(1) | ~playing.reshape(-1)).all()
            ):
                raise EnvironmentFault(f"env.id={environment.id}: gave an observation that is not finite in evaluation")
            if not playing.any():
                break
    finally:
        envs.close()
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
