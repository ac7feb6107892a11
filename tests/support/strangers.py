"""Algorithms, networks and optimizers as other people write them, each with one habit that could go wrong silently."""

import collections
import functools
import itertools
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled

# As configs name them -------------------------------------------------------------------------------------------------

SMALL = ("env=cartpole", "total_steps=1024", "env.num_envs=4", "algo.rollout_steps=32", "algo.minibatches=2")
SMALL += ("algo.epochs=2", "network.torso.hidden=[8]")


def algo(name):
    return f"algo._target_=strangers.{name}"


def torso(name):
    return (f"network.torso._target_=strangers.{name}", "~network.torso.hidden", "~network.torso.activation")


# Algorithms ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Halved(PPO):
    """A coefficient on E[V²] that halves after each update: a number of the object's own."""

    c: float = 1.0

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.c * weighted_mean(policy(batch)[1].square(), batch.weights), metrics

    def adapt(self, metrics):
        self.c /= 2


@dataclass(kw_only=True)
class HalvedInside(Halved):
    """The same, the number within a dictionary."""

    def prepare(self, spec):
        self.numbers = {"c": 1.0}

    def loss(self, policy, batch):
        loss, metrics = PPO.loss(self, policy, batch)
        return loss + self.numbers["c"] * weighted_mean(policy(batch)[1].square(), batch.weights), metrics

    def adapt(self, metrics):
        self.numbers["c"] /= 2


@dataclass(kw_only=True)
class HalvedTensor(Halved):
    """The same, the number in a tensor that nobody hands out."""

    def prepare(self, spec):
        self.c = torch.ones(())


@dataclass(kw_only=True)
class Draws(PPO):
    """Noise on the values, and rows dropped at random."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        values = policy(batch)[1]
        kept = (policy.rand_like(values) < 0.5).float() * batch.weights
        noisy = weighted_mean((values - batch.returns + policy.randn_like(values)).square(), kept)
        return loss + noisy, metrics | {"noise": policy.randn_like(loss), "noisy": noisy}


class Augments(PPO):
    """What noise in the observations changes costs something: data augmentation."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        noisy = batch._replace(obs=batch.obs + 0.3 * policy.randn_like(batch.obs))
        kl = weighted_mean(policy.distribution.kl(batch.dist_params, policy.dist_params(noisy)), batch.weights)
        moved = weighted_mean((policy(noisy)[1] - policy(batch)[1]).square(), batch.weights)
        return loss + kl + moved, metrics | {"augmented_kl": kl, "moved": moved}


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


SCALE = 1.0  # of the module, which a loss may read as well


class Slotted:
    """A helper without attributes of its own."""

    __slots__ = ("c",)

    def __init__(self):
        self.c = 1.0


class Elsewhere(PPO):
    """A coefficient that halves after each update and is no attribute of the algorithm: base of those below."""

    def factor(self):
        raise NotImplementedError

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.factor() * weighted_mean(policy(batch)[1].square(), batch.weights), metrics


@dataclass(kw_only=True)
class InModule(Elsewhere):
    """It is a global number."""

    def prepare(self, spec):
        global SCALE
        SCALE = 1.0

    def factor(self):
        return SCALE

    def adapt(self, metrics):
        global SCALE
        SCALE /= 2


@dataclass(kw_only=True)
class InModuleLate(InModule):
    """It halves after the last update that is looked at for being a power of two."""

    def prepare(self, spec):
        super().prepare(spec)
        self.updates = 0

    def adapt(self, metrics):
        self.updates += 1
        if self.updates == 6:
            super().adapt(metrics)


@dataclass(kw_only=True)
class InSlots(Elsewhere):
    """It is within a helper."""

    def prepare(self, spec):
        self.helper = Slotted()

    def factor(self):
        return self.helper.c

    def adapt(self, metrics):
        self.helper.c /= 2


@dataclass(kw_only=True)
class InWindow(Elsewhere):
    """It is the length of a window of what was seen."""

    def prepare(self, spec):
        self.window = collections.deque(maxlen=50)

    def factor(self):
        return 1.0 + len(self.window)

    def adapt(self, metrics):
        self.window.append(0.0)


@dataclass(kw_only=True)
class InClosure(Elsewhere):
    """It is a variable of a function."""

    def prepare(self, spec):
        self.c = [1.0]
        c = self.c
        self.get = lambda: c[0]

    def factor(self):
        return self.get()

    def adapt(self, metrics):
        self.c[0] /= 2


@dataclass(kw_only=True)
class OfNumPy(Elsewhere):
    """It is drawn, from a stream of its own."""

    def prepare(self, spec):
        self.rng = np.random.default_rng(0)

    def factor(self):
        return float(self.rng.random())


@dataclass(kw_only=True)
class CountsCalls(Elsewhere):
    """It is the number of calls."""

    def prepare(self, spec):
        self.calls = itertools.count()

    def factor(self):
        return float(next(self.calls))


@dataclass(kw_only=True)
class DrawsInReplay(PPO):
    """Draws in another hook than the loss."""

    def replay(self, minibatches):
        return np.random.rand(1) and ()  # noqa: NPY002


@dataclass(kw_only=True)
class Unsaved(Adaptive):
    """Its coefficient is another tensor after each update, and saved nowhere."""

    def adapt(self, metrics):
        self.c = self.c / 2


@dataclass(kw_only=True)
class Branches(PPO):
    """Works for an agent alone."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return (loss * 2 if metrics["entropy"] > 0 else loss), metrics


@dataclass(kw_only=True)
class Late(PPO):
    """Its replay has other shapes from the third update on."""

    updates: int = 0

    def replay(self, minibatches):
        self.number = getattr(self, "number", 0) + 1
        return torch.ones(2, minibatches, 3 if self.number < 3 else 4)

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * batch.replay.mean(), metrics


@dataclass(kw_only=True)
class Penalised(PPO):
    """A penalty on the parameters."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + 0.1 * sum(p.square().sum() for p in policy.parameters()), metrics


@dataclass(kw_only=True)
class Table(PPO):
    """What it makes of a setting at its start is too long to be told whole."""

    k: Scheduled = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.table = np.full(5000, 1.0)
        self.table[100:-100] = self.k.knots[0]


@dataclass(kw_only=True)
class Derived(PPO):
    """Properties over what is scheduled, of any kind."""

    @property
    def both(self):
        return {"vf": self.vf_coef * 2, "one": 1.0}

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.both["vf"] * metrics["value_loss"] * self.both["one"], metrics


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


class ByMode(Torso):
    """Another function in evaluation than in training."""

    def forward(self, x):
        return super().forward(x) * (1.0 if self.training else -1.0)


class OfNumbers(Torso):
    """A projection drawn from NumPy's and Python's streams."""

    def __init__(self, space):
        super().__init__(space)
        projection = torch.from_numpy(np.random.randn(8, 8).astype(np.float32))  # noqa: NPY002
        self.register_buffer("projection", projection * random.random())

    def forward(self, x):
        return super().forward(x) @ self.projection


PRETRAINED = nn.Linear(4, 8)


class Shares(Torso):
    """A layer that was made once, for all."""

    def __init__(self, space):
        super().__init__(space)
        self.layer = PRETRAINED


class CountsAside(Torso):
    """Another function from the twentieth call on."""

    def __init__(self, space):
        super().__init__(space)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 if self.calls < 20 else -1)


class Double(Torso):
    """Parameters of float64."""

    def __init__(self, space):
        super().__init__(space)
        self.layer = self.layer.double()

    def forward(self, x):
        return super().forward(x.double()).float()


class OverSet(nn.Module):
    """Reads a set of rows, which it takes to be behind the batch."""

    out_features = 4

    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(space.shape[-1], 4)

    def forward(self, x):
        return self.layer(x).tanh().amax(-2)


class LaidOut(nn.Module):
    """Weights, and gradients of weights, laid out in memory in other orders than one after the other."""

    def __init__(self, space):
        super().__init__()
        size = space.shape[0]
        self.turned = nn.Parameter(torch.randn(size, 6).t())
        self.spread = nn.Parameter(torch.randn(6, 10)[:, ::2])
        self.images = nn.Conv2d(1, 3, (2, 2)).to(memory_format=torch.channels_last)
        self.product = nn.Parameter(torch.randn(12, 4))
        self.out_features = 4

    def forward(self, x):
        x = torch.tanh(torch.tanh(x @ self.turned.t()) @ self.spread)
        x = self.images(torch.stack([x, x.flip(-1)], -2).unsqueeze(-3)).flatten(-3)
        return torch.tanh(torch.einsum("...i,io->...o", x, self.product))


class Attends(nn.Module):
    """Attention that drops nothing."""

    out_features = 8

    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(space.shape[0], 8)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = self.layer(x).unflatten(-1, (2, 4))
        flat = tokens.flatten(0, -3)
        return self.attention(flat, flat, flat, need_weights=False)[0].reshape(*x.shape[:-1], 8)


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


class Stepping(torch.optim.Optimizer):
    """Base of those below: one parameter at a time."""

    def __init__(self, params, lr=1e-3, **settings):
        super().__init__(params, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.one(p, p.grad, self.state[p], group)


class CountsByItself(Stepping):
    """Its step count is an attribute, which no checkpoint holds."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        super().step()

    def one(self, p, grad, state, group):
        p.add_(grad, alpha=-group["lr"] / self.count)


class MomentumAside(Stepping):
    """Its momentum is a list, which no checkpoint holds."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.kept = {id(p): torch.zeros_like(p) for p in self.param_groups[0]["params"]}

    def one(self, p, grad, state, group):
        p.add_(self.kept[id(p)].mul_(0.9).add_(grad), alpha=-group["lr"])


class Rebinds(Stepping):
    """Keeps the last gradient, as a new tensor each time."""

    def one(self, p, grad, state, group):
        p.sub_((grad + 0.5 * state.get("last", torch.zeros_like(p))) * group["lr"])
        state["last"] = grad.clone()


def by_signs(step):
    @functools.wraps(step)
    def inner(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad = p.grad.sign()
        return step(self, closure)

    return inner


class Decorated(Stepping):
    """Has a decorator of its own around its step."""

    @by_signs
    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad * self.param_groups[0]["lr"])


class Projects(torch.optim.Adam):
    """Keeps weights within bounds, by a hook."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.register_step_post_hook(lambda own, *_: [p.data.clamp_(-0.2, 0.2) for p in own.param_groups[0]["params"]])


class HalfMomentum(Stepping):
    """Momentum of bfloat16, a mask and a flag, in two groups."""

    def __init__(self, params, lr=1e-3):
        params = list(params)
        first, second = [p for p in params if p.dim() < 2], [p for p in params if p.dim() >= 2]
        super().__init__([g for g in ({"params": first, "k": 0.5}, {"params": second}) if g["params"]], lr, k=1.0)

    def one(self, p, grad, state, group):
        if not state:
            state |= {"m": torch.zeros_like(p, dtype=torch.bfloat16), "seen": torch.zeros_like(p, dtype=torch.bool)}
            state |= {"begun": True, "nothing": None}
        state["m"].mul_(0.9).add_(grad.to(torch.bfloat16))
        state["seen"].logical_or_(grad != 0)
        p.sub_(torch.where(state["seen"], state["m"].float(), 0.0) * group["lr"] * group["k"] * state["begun"])


class OwnRate(Stepping):
    """Goes by the learning rate that it was made with."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.lr = lr

    def one(self, p, grad, state, group):
        p.add_(grad.sign(), alpha=-self.lr)


class RateInMomentum(Stepping):
    """The learning rate is within the momentum: shares of its steps are not its steps at shares of the rate."""

    def one(self, p, grad, state, group):
        if not state:
            state["m"] = torch.zeros_like(p)
        p.sub_(state["m"].mul_(0.9).add_(grad * group["lr"]))


class LargeAsOne(Stepping):
    """Looks at large tensors as a whole, at small ones element by element."""

    def one(self, p, grad, state, group):
        if p.dim() > 1 and p.shape[-2] >= 16:
            grad = grad / (grad.norm() + 1e-6)
        p.add_(grad, alpha=-group["lr"])


class ClipsSpikes(Stepping):
    """Shortens a tensor's step where it is longer than twice the usual: not elementwise, seldom."""

    def one(self, p, grad, state, group):
        if not state:
            state["v"] = torch.zeros_like(p)
        step = grad / (state["v"].mul_(0.9).addcmul_(grad, grad, value=0.1).sqrt() + 1e-8)
        p.sub_(step / (step.square().mean().sqrt() / 2).clamp_min(1.0) * group["lr"])


class ClipsLate(Stepping):
    """Shortens a tensor's step from the twentieth on."""

    def one(self, p, grad, state, group):
        state["n"] = state.get("n", torch.tensor(0.0)) + 1
        p.sub_(torch.where(state["n"] < 20, grad, grad / (grad.norm() + 1e-6)) * group["lr"])


class SkipsNaN(Stepping):
    """Takes no step where a gradient is not finite, as a scaler of losses does."""

    @torch.no_grad()
    def step(self, closure=None):
        if all(p.grad.isfinite().all() for p in self.param_groups[0]["params"]):
            super().step()

    def one(self, p, grad, state, group):
        p.sub_(grad * group["lr"])


class LateByItself(CountsByItself):
    """As its base, from the thousandth step on: in no trial."""

    def one(self, p, grad, state, group):
        p.sub_(grad * group["lr"] / (1 + self.count // 1000))


class LateInArray(LateByItself):
    """As its base; its count is within an array."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.counts = np.zeros(1)

    def step(self, closure=None):
        self.counts += 1
        Stepping.step(self)

    def one(self, p, grad, state, group):
        p.sub_(grad * group["lr"] / (1 + self.counts.item() // 1000))


class SkipsInfinite(Stepping):
    """Takes no step where a gradient is infinite."""

    def one(self, p, grad, state, group):
        if not grad.isinf().any():
            p.sub_(grad * group["lr"])


class LateInGroup(CountsInGroup):
    """Its count is a number in its group, and decides the step from the thousandth on."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] += 1
            for p in group["params"]:
                p.sub_(p.grad * group["lr"] / (1 + group["step"] // 1000))


class FindsOut(Stepping):
    """Finds out in its first step how to compute, and keeps that, its parameters and a function."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.known, self.mine, self.how = None, [*self.param_groups[0]["params"]], torch.sign

    def one(self, p, grad, state, group):
        self.known = self.known or {"device": str(p.device)}
        p.sub_(self.how(grad) * group["lr"])


class WantsRate(Stepping):
    """Cannot be made with a learning rate of 0."""

    def __init__(self, params, lr=1e-3):
        assert lr > 0, "the learning rate must be positive"
        super().__init__(params, lr)

    def one(self, p, grad, state, group):
        p.add_(grad.sign(), alpha=-group["lr"])


class Langevin(Stepping):
    """Adds noise."""

    def one(self, p, grad, state, group):
        p.sub_(grad * group["lr"]).add_(torch.randn_like(p), alpha=group["lr"])
