"""Algorithms, networks and optimizers as other people write them, each with one habit that could go wrong silently."""

from dataclasses import dataclass

import torch
from torch import nn

from rlexp.algos.ppo import PPO
from rlexp.losses import weighted_mean
from rlexp.schedules import Scheduled

# Algorithms ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Halved(PPO):
    """A coefficient on E[V²] that halves after each update: a number of the object's own."""

    c: float = 1.0

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.c * weighted_mean(policy(batch.obs)[1].square(), batch.weights), metrics

    def adapt(self, metrics):
        self.c /= 2


@dataclass(kw_only=True)
class HalvedInside(Halved):
    """The same, the number within a dictionary."""

    def prepare(self, spec):
        self.numbers = {"c": 1.0}

    def loss(self, policy, batch):
        loss, metrics = PPO.loss(self, policy, batch)
        return loss + self.numbers["c"] * weighted_mean(policy(batch.obs)[1].square(), batch.weights), metrics

    def adapt(self, metrics):
        self.numbers["c"] /= 2


@dataclass(kw_only=True)
class HalvedTensor(Halved):
    """The same, the number in a tensor that nobody hands out."""

    def prepare(self, spec):
        self.c = torch.ones(())


@dataclass(kw_only=True)
class Adaptive(Halved):
    """The same as it is meant to be: handed out by `coefficients`, one an agent."""

    def prepare(self, spec):
        self.c = torch.ones(spec.num_agents)

    def coefficients(self, progress, num_agents, device):
        return super().coefficients(progress, num_agents, device) | {"c": self.c}


@dataclass(kw_only=True)
class Counting(PPO):
    """Counts its updates, which its loss does not read; its loss reads a list that stays what it is."""

    powers: tuple[int, ...] = (1, 2)

    def prepare(self, spec):
        self.updates = 0

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * sum(self.powers), metrics

    def adapt(self, metrics):
        self.updates += 1


@dataclass(kw_only=True)
class LoosensClipping(PPO):
    """Changes a setting that the mechanism reads for it."""

    def adapt(self, metrics):
        self.max_grad_norm *= 2


@dataclass(kw_only=True)
class Noisy(PPO):
    """Random numbers within the loss."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + 1e-3 * torch.rand(()), metrics


@dataclass(kw_only=True)
class Silent(PPO):
    """Logs no approx_kl."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss, {"value_loss": metrics["value_loss"]}


@dataclass(kw_only=True)
class Untyped(PPO):
    """A coefficient without an annotation that asks for a kind of number."""

    extra: Scheduled = 0.0
    anything: object = None


# Networks ------------------------------------------------------------------------------------------------------------


class Torso(nn.Module):
    """A linear layer and tanh."""

    out_features = 8

    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(space.shape[0], 8)

    def forward(self, x):
        return self.layer(x).tanh()


class Scaled(Torso):
    """A parameter without axes."""

    def __init__(self, space):
        super().__init__(space)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return super().forward(x) * self.gain


class Transient(Torso):
    """A buffer that is not persistent, and a module under two names."""

    def __init__(self, space):
        super().__init__(space)
        self.register_buffer("shift", torch.linspace(0, 1, 8), persistent=False)
        self.again = self.layer

    def forward(self, x):
        return self.again(x).tanh() + self.shift


class Dropped(Torso):
    """Dropout."""

    def __init__(self, space):
        super().__init__(space)
        self.dropout = nn.Dropout(0.01)

    def forward(self, x):
        return self.dropout(super().forward(x))


class BatchNormed(Torso):
    """Rows that depend on their neighbours."""

    def __init__(self, space):
        super().__init__(space)
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x):
        return self.norm(super().forward(x))


class Counted(Torso):
    """A buffer that moves with every call."""

    def __init__(self, space):
        super().__init__(space)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Frozen(Torso):
    """A layer that is not to be trained."""

    def __init__(self, space):
        super().__init__(space)
        self.layer.requires_grad_(False)


class Projected(Torso):
    """A random projection that is neither parameter nor buffer: every agent draws its own."""

    def __init__(self, space):
        super().__init__(space)
        self.projection = torch.randn(8, 8)

    def forward(self, x):
        return super().forward(x) @ self.projection


# Optimizers ----------------------------------------------------------------------------------------------------------


class Normed(torch.optim.Optimizer):
    """Steps of the length of the parameter, as LAMB and LARS take them: not elementwise."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad * (p.norm() + 1.0) / (p.grad.norm() + 1e-6), alpha=-group["lr"])


class CountsInGroup(torch.optim.Optimizer):
    """Its step count is a number in its group, and decides the step."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "step": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] += 1
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"] / group["step"])


class CountsInState(torch.optim.Optimizer):
    """Its step count is a number in each parameter's state."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                p.add_(p.grad, alpha=-group["lr"] / state["step"])


class CountsAside(torch.optim.SGD):
    """Its step count is an attribute, which no checkpoint holds."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        super().step()
