"""Synthetic rollouts and minibatches, to check an objective before the first step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_map

from rlexp.checks.network import sample_rows
from rlexp.data import Batch, ExtraRewards, Rollout, finished_episodes
from rlexp.networks.actor_critic import ActorCritic, Policy


def rollout_of(
    networks: list[ActorCritic],
    space: spaces.Space,
    num_steps: int,
    num_envs: int,
    device: torch.device,
    *,
    seed: int = 0,
) -> Rollout:
    """A rollout that repeats a few observations, with positive rewards and episodes that end."""
    agents = len(networks)
    generators = [torch.Generator().manual_seed(1000 * seed + agent) for agent in range(agents)]  # whoever is beside it
    shape = (num_steps, num_envs)
    few = sample_rows(space).to(device)
    which = torch.stack([torch.randint(len(few), shape, generator=each) for each in generators]).to(device)
    after = torch.cat([which[:, 1:], which[:, :1]], 1)
    distribution = networks[0].distribution
    with torch.no_grad():
        # one forward pass over the few: the rollout may have more rows than a run ever reads in one batch
        outputs = [network(few) for network in networks]
        params = torch.stack([params[index] for (params, _), index in zip(outputs, which, strict=True)])
        values = torch.stack([values[index] for (_, values), index in zip(outputs, which, strict=True)])
        noise = torch.stack([distribution.draw_noise(shape, each) for each in generators]).to(device)
        actions = distribution.sample(params, noise)
        log_probs = distribution.log_prob(params, actions)

    period = max(2, (num_steps + 1) // 2) if num_steps > 1 else 1
    ends = np.zeros((num_steps, agents, num_envs), bool)
    ends[period - 1 :: period] = True
    dummy = np.concatenate([np.zeros_like(ends[:1]), ends[:-1]])
    rewards = torch.stack([torch.rand(shape, generator=each) for each in generators], 1).numpy() + 0.01
    rewards[dummy] = 0.0
    zeros = np.zeros((agents, num_envs))
    episodes, _, open_lengths = finished_episodes(rewards, ends, dummy, zeros, zeros.astype(np.int64))
    truncates = np.arange(num_envs) % 2 == 1  # every second environment truncates its episodes

    def rows(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1))).to(device)  # (T, A, E) -> (A, T, E)

    return Rollout(
        obs=few[which],
        next_obs=few[after],
        actions=actions,
        dist_params=params,
        log_probs=log_probs,
        values=values,
        rewards=rows(rewards.astype(np.float32)),
        learner_rewards=rows(rewards.astype(np.float32)),
        terminated=rows(ends & ~truncates),
        truncated=rows(ends & truncates),
        weights=rows((~dummy).astype(np.float32)),
        last_values=values[:, -1],
        steps=(~dummy).sum((0, 2)),
        dummy_first=np.zeros((agents, num_envs), bool),
        open_lengths=open_lengths * 0,
        episodes=episodes,
        games=episodes,
    )


class EachNetwork:
    """The networks' policies, one after the other; see `Policies`."""

    def __init__(self, networks: list[ActorCritic]) -> None:
        self.networks = networks

    @torch.no_grad()
    def each(self, function: Callable[..., Any], *data: Any) -> Any:
        """``function(policy, *data)`` of every agent."""
        found = []
        for agent, network in enumerate(self.networks):
            tensors = dict(network.named_parameters()) | dict(network.named_buffers())
            found.append(function(Policy(network, tensors), *tree_map(lambda x, agent=agent: x[agent], data)))
        return tree_map(lambda *each: torch.stack(each), *found)


def batch_of(rollout: Rollout, extra: ExtraRewards | None, replay: object, rows: int) -> Batch:
    """The first rows as one minibatch per agent (A, B, ...), with advantages of both signs and positive returns."""
    more: dict[str, Tensor] | tuple[()] = ()
    if extra is not None:
        more = extra.rows | ({} if extra.values is None else {"returns": rollout.rewards + 0.2})
    signs = torch.linspace(-1.0, 1.0, rollout.rewards.shape[1], device=rollout.rewards.device)[:, None]
    batch = Batch.of(rollout, rollout.rewards + signs, rollout.rewards + 0.1, more)
    batch = batch.map_rows(lambda x: x.flatten(1, 2)[:, :rows])
    key = torch.zeros(len(rollout.obs), dtype=torch.int64, device=rollout.obs.device)
    return batch._replace(replay=tree_map(lambda x: x[:, 0], replay), key=key)


def copied(batch: Batch) -> Batch:
    """Clone the tensors, as each real minibatch has separate ones."""
    return tree_map(lambda x: x.clone(), batch)


def different_rows(batch: Batch) -> Batch:
    """The same number of rows with other values: the first row repeated, with other advantages and returns."""
    rows = batch.map_rows(lambda x: x[:1].expand_as(x))
    return copied(
        rows._replace(
            values=rows.values * 0.5 + 0.3,
            log_probs=rows.log_probs - 0.1,
            advantages=rows.advantages * 1.5 + 0.1,
            returns=rows.returns * 1.5 + 0.1,
        )
    )
