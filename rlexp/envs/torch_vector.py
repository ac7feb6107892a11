"""Vector environments of worlds written in torch: A × E environments as a few tensors.

Fused stepping: one step of such environments costs less than calling them. Acting therefore steps them itself, in the
same compiled call: `TorchVectorEnv.fuse` lays out `EnvBuffers`, views into a rollout's tensors, one per step; acting
(`Actor._act`) ends with `advance`, which reads and writes them; and the collector leaves its own call of `step` out.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rlexp.envs.classic_control import World


class EnvBuffers(NamedTuple):
    """Buffers for fused stepping: what one step of A × E environments reads and writes."""

    noise: Tensor  # for resets, uniform (A, E, ·); read
    state: Tensor  # (A, E, S); read and written
    elapsed: Tensor  # steps of the running episode (A, E); read and written
    done: Tensor  # whether the last step ended an episode (A, E); read and written
    next_obs: Tensor  # (A, E, ...); written, like the rest
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


def advance(world: World, actions: Tensor, buffers: EnvBuffers) -> None:
    """One step under next-step autoreset: after an episode's end the action is ignored and the environment resets."""
    dummy = buffers.done.clone()
    moved, reward, terminated = world.step(buffers.state, actions)
    state = torch.where(dummy[..., None], world.reset(buffers.noise), moved)
    elapsed = torch.where(dummy, 0, buffers.elapsed + 1)
    terminated = terminated & ~dummy
    truncated = elapsed >= world.max_steps
    buffers.next_obs.copy_(world.observe(state))
    buffers.reward.copy_(torch.where(dummy, 0.0, reward))
    buffers.terminated.copy_(terminated)
    buffers.truncated.copy_(truncated)
    buffers.state.copy_(state)
    buffers.elapsed.copy_(elapsed)
    buffers.done.copy_(terminated | truncated)


class TorchVectorEnv(VectorEnv):
    """A × E environments of one world, with one random stream per agent.

    Training steps them fused with the policy; `step` is the usual NumPy interface.

    Args:
        world: the dynamics.
        spec: of the Gymnasium environment with the same spaces.
        shape: (A, E).
        device: of the states; random numbers are drawn on the host, so that they are the same on every device.
        share: of the E environments those that are stepped here; default: all. Random numbers are drawn for all.
    """

    def __init__(
        self,
        world: World,
        spec: gym.envs.registration.EnvSpec,
        shape: tuple[int, int],
        device: torch.device,
        share: slice = slice(None),
    ) -> None:
        single = gym.make(spec.id)
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        single.close()
        self.drawn, self.mine = shape[1], share
        shape = (shape[0], len(range(shape[1])[share]))
        self.world, self.shape, self.device = world, shape, device
        self.num_envs = shape[0] * shape[1]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.streams = [torch.Generator() for _ in range(shape[0])]
        self.state = world.reset(torch.zeros(*shape, world.noise_size, device=device))
        self.elapsed = torch.zeros(shape, dtype=torch.int64, device=device)
        self.done = torch.zeros(shape, dtype=torch.bool, device=device)

    def draw(self, steps: int) -> Tensor:
        """Noise for the resets of `steps` steps (A, steps, E, noise_size), from each agent's stream."""
        size = (steps, self.drawn, self.world.noise_size)
        noise = torch.stack([torch.rand(size, generator=stream) for stream in self.streams])
        return noise[:, :, self.mine].to(self.device)

    def fuse(self, next_obs: Tensor, rewards: Tensor, terminated: Tensor, truncated: Tensor) -> list[EnvBuffers]:
        """Buffers of T fused steps and the bootstrap step, which write into these tensors (A, T + 1, E, ...)."""
        self.noise = torch.zeros(*rewards.shape, self.world.noise_size, device=self.device)
        held = {"state": self.state, "elapsed": self.elapsed, "done": self.done}
        by_time = [x.unbind(1) for x in (self.noise, next_obs, rewards, terminated, truncated)]
        buffers = [
            EnvBuffers(noise, next_obs=obs, reward=reward, terminated=ended, truncated=cut, **held)
            for noise, obs, reward, ended, cut in zip(*by_time, strict=True)
        ]
        # bootstrap step, scratch buffers: it must not step the environments
        buffers[-1] = buffers[-1]._replace(**{name: x.clone() for name, x in held.items()})
        return buffers

    def redraw(self) -> None:
        """Draw the noise of the next T fused steps."""
        self.noise[:, :-1] = self.draw(self.noise.shape[1] - 1)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes; `seed` is a list with one seed per agent."""
        for stream, number in zip(self.streams, seed or [], strict=bool(seed)):
            stream.manual_seed(number)
        self.state.copy_(self.world.reset(self.draw(1)[:, 0]))
        self.elapsed.zero_()
        self.done.zero_()
        return self.world.observe(self.state).flatten(0, 1).clone().cpu().numpy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all environments."""
        reward = torch.empty(self.shape, device=self.device)
        terminated, truncated = torch.empty_like(self.done), torch.empty_like(self.done)
        next_obs = torch.empty_like(self.world.observe(self.state))
        noise = self.draw(1)[:, 0]
        buffers = EnvBuffers(noise, self.state, self.elapsed, self.done, next_obs, reward, terminated, truncated)
        advance(self.world, torch.from_numpy(np.asarray(actions)).to(self.device).unflatten(0, self.shape), buffers)
        results = (next_obs, reward, terminated, truncated)
        obs, rewards, ended, cut = (x.flatten(0, 1).cpu().numpy() for x in results)
        return obs, rewards, ended, cut, {}

    def snapshot(self, agents: slice = slice(None)) -> dict[str, Any]:
        """The full state of these agents' environments, as arrays."""
        arrays = {name: getattr(self, name)[agents].cpu().numpy().copy() for name in ("state", "elapsed", "done")}
        return arrays | {"streams": [stream.get_state().numpy() for stream in self.streams[agents]]}

    def restore(self, snapshot: dict[str, Any], agents: slice = slice(None)) -> None:
        """Restore a snapshot in place."""
        for name in ("state", "elapsed", "done"):
            getattr(self, name)[agents].copy_(torch.from_numpy(snapshot[name]))
        for stream, state in zip(self.streams[agents], snapshot["streams"], strict=True):
            stream.set_state(torch.from_numpy(state))
