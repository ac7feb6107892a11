"""Classic control in torch, so that environment steps compile together with the policy.

Each world implements one Gymnasium environment for any leading shape, in float32 where Gymnasium uses float64.
`tests/envs/test_classic_control.py` compares each with Gymnasium's, step by step.
"""

import math
from typing import Protocol

import torch
from torch import Tensor


class World(Protocol):
    """Stateless dynamics: the state (..., S) holds everything about an environment."""

    noise_size: int  # uniform numbers used by a reset
    max_steps: int  # time limit

    def reset(self, noise: Tensor) -> Tensor:
        """Initial state, from noise uniform in [0, 1) (..., noise_size)."""

    def observe(self, state: Tensor) -> Tensor:
        """Observation of a state: by default the state."""
        return state

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next state, reward (...), whether that state is terminal (...); continuous actions are unclipped."""


class CartPole(World):
    """CartPole-v1. State and observation: cart position and velocity, pole angle and angular velocity."""

    noise_size, max_steps = 4, 500

    def reset(self, noise: Tensor) -> Tensor:
        """Each number uniform in ±0.05."""
        return noise * 0.1 - 0.05

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Euler's method over 0.02 s; reward 1; terminates at |x| > 2.4 or |θ| > 12°."""
        x, x_dot, theta, theta_dot = state.unbind(-1)
        force = 20.0 * action - 10.0
        cos, sin = theta.cos(), theta.sin()
        pushed = (force + 0.05 * theta_dot.square() * sin) / 1.1
        theta_acc = (9.8 * sin - cos * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cos.square() / 1.1))
        x_acc = pushed - 0.05 * theta_acc * cos / 1.1
        x, theta = x + 0.02 * x_dot, theta + 0.02 * theta_dot
        moved = torch.stack([x, x_dot + 0.02 * x_acc, theta, theta_dot + 0.02 * theta_acc], -1)
        return moved, torch.ones_like(x), (x.abs() > 2.4) | (theta.abs() > 12 * math.pi / 180)


class MountainCar(World):
    """MountainCar-v0. State and observation: position, velocity."""

    noise_size, max_steps = 1, 200

    def reset(self, noise: Tensor) -> Tensor:
        """Position uniform in [−0.6, −0.4), at rest."""
        return torch.cat([noise * 0.2 - 0.6, torch.zeros_like(noise)], -1)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reward −1; terminates at position 0.5."""
        position, velocity = state.unbind(-1)
        velocity = velocity + (action - 1) * 0.001 - 0.0025 * (3 * position).cos()
        velocity = velocity.clamp(-0.07, 0.07)
        position = (position + velocity).clamp(-1.2, 0.6)
        velocity = torch.where((position <= -1.2) & (velocity < 0), 0.0, velocity)  # the wall stops it
        return torch.stack([position, velocity], -1), -torch.ones_like(position), (position >= 0.5) & (velocity >= 0)


class Pendulum(World):
    """Pendulum-v1. State: angle θ and angular velocity; observation: cos θ, sin θ, angular velocity."""

    noise_size, max_steps = 2, 200

    def reset(self, noise: Tensor) -> Tensor:
        """θ uniform in ±π, velocity in ±1."""
        theta, velocity = (noise * 2 - 1).unbind(-1)
        return torch.stack([theta * math.pi, velocity], -1)

    def observe(self, state: Tensor) -> Tensor:
        """Cos θ, sin θ, angular velocity."""
        theta, velocity = state.unbind(-1)
        return torch.stack([theta.cos(), theta.sin(), velocity], -1)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reward −(θ² + 0.1 θ'² + 0.001 u²), θ in ±π, torque u in ±2; never terminates."""
        theta, velocity = state.unbind(-1)
        torque = action[..., 0].nan_to_num(0.0).clamp(-2.0, 2.0)  # NaN: of an agent that diverges
        angle = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi
        cost = angle.square() + 0.1 * velocity.square() + 0.001 * torque.square()
        velocity = (velocity + (15.0 * theta.sin() + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
        moved = torch.stack([theta + velocity * 0.05, velocity], -1)
        return moved, -cost, torch.zeros_like(theta, dtype=torch.bool)


class Acrobot(World):
    """Acrobot-v1. State: both angles and angular velocities; observation: cos and sin of the angles, velocities."""

    noise_size, max_steps = 4, 500

    def reset(self, noise: Tensor) -> Tensor:
        """Each number uniform in ±0.1."""
        return noise * 0.2 - 0.1

    def observe(self, state: Tensor) -> Tensor:
        """Cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ₁', θ₂'."""
        first, second, v1, v2 = state.unbind(-1)
        return torch.stack([first.cos(), first.sin(), second.cos(), second.sin(), v1, v2], -1)

    def _derivative(self, state: Tensor, torque: Tensor) -> Tensor:
        """Equations of motion (Sutton and Barto); links of mass, length and inertia 1, centre of mass at ½."""
        first, second, v1, v2 = state.unbind(-1)
        cos2, sin2 = second.cos(), second.sin()
        d1 = 0.25 + (1.25 + cos2) + 2.0
        d2 = 0.25 + 0.5 * cos2 + 1.0
        phi2 = 4.9 * (first + second).sin()  # cos(x − π/2) = sin x
        phi1 = -0.5 * v2.square() * sin2 - v2 * v1 * sin2 + 14.7 * first.sin() + phi2
        a2 = (torque + d2 / d1 * phi1 - 0.5 * v1.square() * sin2 - phi2) / (1.25 - d2.square() / d1)
        a1 = -(d2 * a2 + phi1) / d1
        return torch.stack([v1, v2, a1, a2], -1)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runge-Kutta over 0.2 s, torque −1, 0 or 1; reward −1, 0 at termination, one link above the pivot."""
        torque = action - 1.0
        k1 = self._derivative(state, torque)
        k2 = self._derivative(state + 0.1 * k1, torque)
        k3 = self._derivative(state + 0.1 * k2, torque)
        k4 = self._derivative(state + 0.2 * k3, torque)
        first, second, v1, v2 = (state + 0.2 / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)).unbind(-1)
        first, second = (torch.remainder(x + math.pi, 2 * math.pi) - math.pi for x in (first, second))
        v1, v2 = v1.clamp(-4 * math.pi, 4 * math.pi), v2.clamp(-9 * math.pi, 9 * math.pi)
        ended = -first.cos() - (first + second).cos() > 1.0
        return torch.stack([first, second, v1, v2], -1), ended.float() - 1.0, ended


WORLDS: dict[str, type[World]] = {
    "CartPole-v1": CartPole,
    "MountainCar-v0": MountainCar,
    "Pendulum-v1": Pendulum,
    "Acrobot-v1": Acrobot,
}
