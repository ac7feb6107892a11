"""The collector: steps environments with the current policies and returns rollouts."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from rlexp.data import FinalObs, Flaw, Rollout, Tally
from rlexp.envs.agents import continues
from rlexp.envs.checks import raise_fault
from rlexp.envs.torch_vector import TorchVectorEnv
from rlexp.networks.distributions import Distribution
from rlexp.seeding import AgentStreams
from rlexp.spaces import storage_dtype
from rlexp.training.acting import Slot
from rlexp.training.ranks import Ranks
from rlexp.watch import Watch


class Collector:
    """Steps A × E environments with the current policies and records rollouts.

    Where ranks share the environments, each steps its own, and then all have the whole rollout.

    Args:
        envs: A × E environments under next-step autoreset, agent by agent; of several ranks this one's share.
        first_obs: observations of their reset.
        distribution: over the action space.
        streams: one per agent.
        num_envs: E.
        num_steps: T.
        device: of rollouts.
        watch: watches environment calls.
        final_obs: episodes whose final observations are used, so that they must be finite.
        ranks: that share the environments.
    """

    def __init__(
        self,
        envs: VectorEnv,
        first_obs: np.ndarray,
        distribution: Distribution,
        streams: list[AgentStreams],
        *,
        num_envs: int,
        num_steps: int,
        device: torch.device,
        watch: Watch | None = None,
        final_obs: FinalObs = "truncated",
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.mine = self.ranks.share(num_envs)  # of E
        self.watch, self.final_obs = watch or Watch(), final_obs
        self.envs, self.distribution, self.streams, self.device = envs, distribution, streams, device
        agents = len(streams)
        self.shape = (agents, num_envs)
        self.num_steps = num_steps
        self.seconds = 0.0  # spent stepping environments whose step is not fused with acting
        space = envs.single_observation_space
        assert space.shape is not None

        def empty(spare: int, *event: int, dtype: torch.dtype = torch.float32, device: torch.device = device) -> Tensor:
            return torch.zeros(agents, num_steps + 1 + spare, num_envs, *event, dtype=dtype, device=device)

        # row T is the bootstrap step after the last one: only its value is used
        self.obs = empty(1, *space.shape, dtype=storage_dtype(space))
        self.noise = empty(0, distribution.noise_size)
        self.dist_params = empty(0, distribution.num_params)
        self.values = empty(0)
        self.actions = empty(0, *distribution.action_shape, dtype=distribution.action_dtype)
        env_device = envs.device if isinstance(envs, TorchVectorEnv) else torch.device("cpu")
        self.rewards = empty(0, device=env_device)
        self.terminated, self.truncated = (empty(0, dtype=torch.bool, device=env_device) for _ in range(2))
        self.goes_on = np.zeros((agents, num_steps, num_envs), bool)  # the game, after an episode's end
        if env_device.type == "cpu":
            self.host_results = [x.numpy() for x in (self.rewards, self.terminated, self.truncated)]  # shared memory
        self.begin(envs, first_obs)

    def begin(self, envs: VectorEnv, first_obs: np.ndarray) -> None:
        """Start from freshly reset environments."""
        self.envs = envs
        self.slots = self._make_slots()
        on_host = self.device.type == "cpu"
        self.host_obs = [slot.obs.numpy() for slot in self.slots] if on_host else []  # shared memory
        self.host_actions = [slot.actions.numpy() for slot in self.slots] if on_host else []
        self._write(first_obs, self.num_steps)
        self.ranks.complete([self.obs[:, self.num_steps :]])
        self.episodes = Tally(self.shape)
        self.games: Tally | None = None  # until the environment says that one goes on after an episode's end

    def _make_slots(self) -> list[Slot]:
        """Views of all T + 1 steps, made once: making one costs as much as filling it."""
        buffers: list[Any] = [()] * (self.num_steps + 1)
        if isinstance(self.envs, TorchVectorEnv):
            outputs = (self.obs[:, 1:], self.rewards, self.terminated, self.truncated)
            buffers = self.envs.fuse(*(x[:, :, self.mine] for x in outputs))
        rows = (self.obs[:, :-1], self.noise, self.dist_params, self.values, self.actions)
        views = [x[:, :, self.mine].unbind(1) for x in rows]
        return [Slot(*step) for step in zip(*views, buffers, strict=True)]

    def _write(self, obs: np.ndarray, t: int) -> None:
        """Store observations of all environments (A*E, ...) in row t."""
        if self.host_obs:
            self.host_obs[t][...] = obs.reshape(self.host_obs[t].shape)
        else:
            target = self.slots[t].obs
            target.copy_(torch.from_numpy(obs.reshape(target.shape)), non_blocking=True)

    @torch.no_grad()
    def collect(self, acts: Sequence[Callable[[], Any]]) -> Rollout:
        """Collect one rollout: T steps of every environment.

        acts: one call per slot, which samples the slot's actions; see `Learner.acting`.
        """
        for agent, stream in enumerate(self.streams):
            self.noise[agent, :-1] = self.distribution.draw_noise((self.num_steps, self.shape[1]), stream.noise)
        self.obs[:, 0].copy_(self.obs[:, self.num_steps])
        fused = isinstance(self.envs, TorchVectorEnv)
        if isinstance(self.envs, TorchVectorEnv):
            self.envs.redraw()
        for t, act in enumerate(acts[:-1]):
            act()
            if not fused:  # else acting has stepped the environments: see envs/torch_vector.py
                self._step(t)
        acts[-1]()
        return self._finish()

    def _step(self, t: int) -> None:
        """Step the environments, which take and return NumPy arrays."""
        actions = self.host_actions[t] if self.host_actions else self.slots[t].actions.cpu().numpy()
        actions = self.distribution.to_env(actions.reshape(-1, *actions.shape[2:]))
        began = time.perf_counter()
        try:
            obs, *results, infos = self.watch.call(self.envs.step, actions)
            for stored, found in zip(self.host_results, results, strict=True):
                stored[:, t, self.mine] = np.reshape(found, (self.shape[0], -1))
            if (goes_on := continues(infos)) is not None:
                self.goes_on[:, t, self.mine] = np.reshape(goes_on, (self.shape[0], -1))
            self._write(obs, t + 1)
        except (Exception, SystemExit) as error:  # user environments may raise or return anything
            raise_fault(error, self.envs, self.watch.name)
        self.seconds += time.perf_counter() - began

    def _finish(self) -> Rollout:
        dist_params, actions = self.dist_params[:, :-1], self.actions[:, :-1]
        rewards, terminated, truncated = (x[:, :-1] for x in (self.rewards, self.terminated, self.truncated))
        results = (rewards, terminated, truncated, torch.from_numpy(self.goes_on))
        self.ranks.complete([self.obs[:, 1 : self.num_steps + 1], dist_params, self.values, actions, *results])
        done = (terminated | truncated).cpu()  # episodes are counted on the host
        gained, ended = (x.numpy().swapaxes(0, 1) for x in (rewards.cpu(), done))  # (T, A, E)
        if self.games is None and self.goes_on.any():
            self.games = copy.deepcopy(self.episodes)
        games = self.games and self.games.find(gained, ended & ~self.goes_on.swapaxes(0, 1))[0]
        self.goes_on[:] = False
        open_lengths = self.episodes.lengths
        episodes, dummies = self.episodes.find(gained, ended)
        dummy = torch.from_numpy(dummies.swapaxes(0, 1).copy())  # (A, T, E)
        return Rollout(
            obs=self.obs[:, : self.num_steps],
            next_obs=self.obs[:, 1 : self.num_steps + 1],
            actions=actions,
            dist_params=dist_params,
            log_probs=self.distribution.log_prob(dist_params, actions),
            values=self.values[:, :-1],
            rewards=rewards.to(self.device),
            learner_rewards=rewards.to(self.device),
            terminated=terminated.to(self.device),
            truncated=truncated.to(self.device),
            weights=(~dummy).float().to(self.device),
            last_values=self.values[:, -1],
            steps=(~dummy).sum((1, 2)).numpy(),
            dummy_first=dummy[:, 0].numpy(),
            open_lengths=open_lengths,
            episodes=episodes,
            games=games or episodes,
            flaw=self._flaw(dummy, done),
        )

    def _flaw(self, dummy: Tensor, done: Tensor) -> Flaw | None:
        """The first invalid output: a contract violation, or a reward or observation that is used and not finite."""
        violation = self._contract_violation(dummy, done)
        if violation is not None:
            return violation
        ends = self.terminated[:, :-1]
        unread = {"all": torch.zeros_like(ends), "truncated": ends, "none": done}[self.final_obs]
        outputs = {
            "a reward": (self.rewards[:, :-1], dummy.to(self.rewards.device)),
            "an observation": (self.obs[:, 1 : self.num_steps + 1], unread.to(self.device)),
        }
        for what, (x, unused) in outputs.items():
            if not x.is_floating_point() or x.isfinite().all():
                continue
            bad = ~x.isfinite().flatten(3).all(-1) if x.dim() > 3 else ~x.isfinite()  # (A, T, E)
            rows = (bad & ~unused).nonzero()
            if len(rows):
                agent, row, env = rows[rows[:, 1].argmin()].tolist()
                numbers = x[agent, row, env].flatten()
                value = float(numbers[~numbers.isfinite()][0])
                remedy = "fix it" if self.final_obs == "all" else "fix it, or terminate the episode in such a step"
                return Flaw(agent, env, row, what, f" that is not finite ({value})", remedy)
        return None

    def _contract_violation(self, dummy: Tensor, done: Tensor) -> Flaw | None:
        """The first episode end in the step of a reset, or observation outside a discrete space."""
        ended = (done & dummy).nonzero()
        if len(ended):
            agent, row, env = ended[ended[:, 1].argmin()].tolist()
            return Flaw(agent, env, row, "an episode end in the step of a reset")
        space = self.envs.single_observation_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            return None
        low = torch.as_tensor(space.start, device=self.obs.device)
        high = low + torch.as_tensor(space.n if isinstance(space, spaces.Discrete) else space.nvec, device=low.device)
        seen = self.obs[:, 1 : self.num_steps + 1]
        outside = (
            ((seen < low) | (seen >= high)).flatten(3).any(-1) if seen.dim() > 3 else (seen < low) | (seen >= high)
        )
        rows = outside.nonzero()
        if not len(rows):
            return None
        agent, row, env = rows[rows[:, 1].argmin()].tolist()
        value = float(seen[agent, row, env].flatten()[0])
        return Flaw(agent, env, row, f"an observation outside {space}", f" ({value:g})")

    def state_dict(self) -> dict[str, Any]:
        """State of every running episode, without the environments' state."""
        return {
            "obs": self.obs[:, self.num_steps].clone(),
            **self.episodes.state_dict(),
            "games": self.games.state_dict() if self.games else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue running episodes; the environments must have been restored as well."""
        self.obs[:, self.num_steps].copy_(state["obs"])
        self.episodes.load_state_dict(state)
        if games := state.get("games"):
            self.games = Tally(self.shape)
            self.games.load_state_dict(games)
