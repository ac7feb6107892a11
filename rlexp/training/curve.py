"""Evaluation during training: returns of the frozen policies on fixed seeds, every so many rows.

It changes nothing of training: it has environments and random numbers of its own, and its time is not training's.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlexp.algos.metric_names import EVALUATIONS
from rlexp.envs import Environment
from rlexp.envs.episodes import Episodes
from rlexp.networks.distributions import Distribution
from rlexp.seeding import curve_seeds, seeded
from rlexp.spaces import storage_dtype
from rlexp.training.agents import Agents
from rlexp.training.evaluation import groups_of
from rlexp.training.learner import Learner
from rlexp.watch import Watch

log = logging.getLogger(__name__)

LOOK = 16  # steps for which noise is drawn at a time; in torch also those between looks at whether episodes still run


class Played(NamedTuple):
    """Tensors of A × 2 · k episodes, of which each agent plays the first k by the mode and the others by sampling."""

    obs: Tensor  # raw (A, 2 * k, ...), or the states of environments in torch
    noise: Tensor  # (A, k, ·)
    actions: Tensor  # (A, 2 * k, ...)
    running: Tensor  # (A, 2 * k), kept by environments in torch, as the returns so far
    returns: Tensor


class EvaluationCurve:
    """Plays the same episodes with every agent at every point, half of them by the mode, half by sampling.

    Args:
        environment: makes the environments, once.
        distribution: over the action space.
        learner: has the policies.
        every: rows per agent between evaluations.
        episodes: of each half, K.
        max_steps: longer episodes are cut.
        watch: of environment calls; may interrupt.
    """

    def __init__(
        self,
        environment: Environment,
        distribution: Distribution,
        learner: Learner,
        *,
        every: int,
        episodes: int,
        max_steps: int,
        watch: Watch,
    ) -> None:
        self.distribution, self.learner, self.watch = distribution, learner, watch
        self.every, self.episodes, self.max_steps = every, episodes, max_steps
        self.seconds = 0.0  # spent so far
        self.warned = False
        # in processes, no more at a time than in training
        together = max(1, environment.num_envs // 2) if environment.vectorization == "async" else episodes
        passes = math.ceil(episodes / together)
        self.together = math.ceil(episodes / passes)  # episodes of each half in one pass, k
        self.seeds = curve_seeds(passes * self.together)
        self.world, self.envs = environment.world, Episodes(environment, watch)
        self.call: Callable[[], Any] | None = None  # a step of `played`
        self.played: Played

    def is_due(self, rows: int, before: int) -> bool:
        """Whether a multiple of `every` lies in (before, rows]."""
        return rows // self.every > before // self.every

    @torch.no_grad()
    def evaluate(self, agents: np.ndarray) -> dict[str, np.ndarray]:
        """Mean returns (A,) by the mode and by sampling; NaN where the mask `agents` (A,) is false."""
        if not agents.any():
            return dict.fromkeys(EVALUATIONS, np.full(len(agents), np.nan))
        began = time.perf_counter()
        shape, returns, cut = (len(agents), 2, self.together), [], 0
        try:
            with seeded(0):  # environments may draw from a global stream
                for first in range(0, len(self.seeds), self.together):
                    running = np.zeros(shape, bool)
                    running[agents, :, : self.episodes - first] = True
                    play = self._play if self.world is None else self._play_in_torch
                    found, left = play(self.seeds[first : first + self.together], running.reshape(len(agents), -1))
                    returns.append(found.reshape(shape))
                    cut += left
        finally:
            self.seconds += time.perf_counter() - began
        if cut and not self.warned:
            self.warned = True
            log.warning("%d episodes of evaluation.every were cut off at evaluation.max_steps=%d", cut, self.max_steps)
        means = np.concatenate(returns, 2)[:, :, : self.episodes].mean(2)
        return dict(zip(EVALUATIONS, np.where(agents, means.T, np.nan), strict=True))

    def _noise(self, seed: int) -> Callable[[int], Tensor]:
        """Noise (k, ·) of each step; the same for every agent, so that none depends on the others."""
        generator = torch.Generator(self.learner.device).manual_seed(seed)
        drawn: list[Tensor] = []

        def of(step: int) -> Tensor:
            if step % LOOK == 0:
                drawn[:] = self.distribution.draw_noise((LOOK, self.together), generator)
            return drawn[step % LOOK]

        return of

    def _prepare(self, obs: Tensor) -> Played:
        """Tensors to play in from these observations or states (A, 2 * k, ...); `call` makes a step."""
        if self.call is None:
            distribution, shape, device = self.distribution, obs.shape[:2], self.learner.device
            self.played = Played(
                obs=torch.zeros_like(obs),
                noise=torch.zeros(shape[0], self.together, distribution.noise_size, device=device),
                actions=torch.zeros(*shape, *distribution.action_shape, dtype=distribution.action_dtype, device=device),
                running=torch.zeros(shape, dtype=torch.bool, device=device),
                returns=torch.zeros(shape, dtype=torch.float64, device=device),
            )
            self.call = self.learner.lifted("evaluation", self._step, self.played)
        self.played.obs.copy_(obs)
        self.played.returns.zero_()
        return self.played

    def _step(self, agents: Agents, tensors: dict[str, Tensor], played: Played) -> tuple[Tensor, ...]:
        """Actions of some agents; and, where they are in torch, a step of their environments."""
        world, k = self.world, self.together
        params = agents.dist_params(tensors, played.obs if world is None else world.observe(played.obs))
        best, drawn = self.distribution.mode(params[:, :k]), self.distribution.sample(params[:, k:], played.noise)
        played.actions.copy_(torch.cat([best, drawn], 1))
        if world is None:
            return (params,)  # graphs must return something
        state, rewards, terminated = world.step(played.obs, played.actions)
        played.obs.copy_(state)
        played.returns.add_(torch.where(played.running, rewards, 0.0))
        played.running.logical_and_(~terminated)
        return (params,)

    def _play(self, seeds: list[int], running: np.ndarray) -> tuple[np.ndarray, int]:
        """Returns (A, 2 * k) of the episodes that are `running` (A, 2 * k), and how many of them were cut off."""
        returns, cut = np.zeros(running.shape), np.zeros(running.shape, bool)
        for group in groups_of(*running.shape):
            if running[group].any():
                returns[group], cut[group] = self._play_group(group, seeds, running)
        return returns, int(cut.sum())

    def _play_group(self, group: slice, seeds: list[int], running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (a, 2 * k) of a group of agents, and which of their episodes were cut off."""
        shape, left = running[group].shape, running[group].reshape(-1)
        returns = np.zeros(left.size)
        first, noise = self._tensor(self.envs.start([seeds] * (2 * shape[0]))), self._noise(seeds[0])
        every = first.new_zeros(*running.shape, *first.shape[1:])  # whatever the others would do
        every[group] = first.unflatten(0, shape)
        played = self._prepare(every)
        assert self.call is not None
        for step in range(self.max_steps):
            self.watch.raise_if_stopped()
            played.noise.copy_(noise(step))
            self.call()
            actions = self.distribution.to_env(played.actions[group].flatten(0, 1).cpu().numpy())
            if not left.all():  # an agent whose parameters are not finite sends valid actions, too
                actions = np.where(left.reshape(-1, *[1] * (actions.ndim - 1)), actions, actions[left][0])
            obs, rewards, ended = self.envs.step(actions, left)
            returns += np.where(left, rewards, 0.0)
            left = left & ~ended
            if not left.any():
                break
            played.obs[group] = self._tensor(obs).unflatten(0, shape)
        return returns.reshape(shape), left.reshape(shape)

    def _tensor(self, obs: np.ndarray) -> Tensor:
        assert self.envs.envs is not None
        dtype = storage_dtype(self.envs.envs.single_observation_space)
        return torch.from_numpy(np.ascontiguousarray(obs)).to(self.learner.device, dtype)

    def _play_in_torch(self, seeds: list[int], running: np.ndarray) -> tuple[np.ndarray, int]:
        """As `_play`, in the environments that training steps: Gymnasium's would take several times as long."""
        assert self.world is not None
        draws = [torch.rand(self.world.noise_size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        starts = self.world.reset(torch.stack(draws * 2).to(self.learner.device))  # (2 * k, S)
        played, noise = self._prepare(starts.expand(len(running), *starts.shape)), self._noise(seeds[0])
        played.running.copy_(torch.from_numpy(running))
        assert self.call is not None
        for step in range(min(self.max_steps, self.world.max_steps)):
            if step % LOOK == 0:
                self.watch.raise_if_stopped()
                if not played.running.any():
                    break
            played.noise.copy_(noise(step))
            self.call()
        cut = int(played.running.sum()) if self.max_steps < self.world.max_steps else 0
        return played.returns.cpu().numpy(), cut

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()
