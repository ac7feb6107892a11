"""Objectives that are right in ways that are easily taken for mistakes, or wrong in other hooks than the loss.

The line at fault is marked.
"""

import collections
import functools
import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from mistake_helpers import halved, seventh
from torch import nn

from rlexp.algos.ppo import PPO

PRETRAINED = nn.Parameter(torch.ones(4, 2))
CALLS = SimpleNamespace(made=0)
KINDS = {
    "deque": collections.deque,
    "ndarray": lambda: np.zeros(1),
    "float64": lambda: np.float64(2.0),
    "defaultdict": lambda: collections.defaultdict(int),
    "function": lambda: lambda: None,
    "int64": lambda: {np.int64(3): 1},
    "Counter": lambda: collections.Counter("a"),
    "set": lambda: {1, 2},
    "dtype": lambda: torch.float32,
}


@dataclass(kw_only=True)
class Named(PPO):
    """Logs one more metric."""

    name: str = "calm"

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss, metrics | {self.name: loss}


class ObservesStep(PPO):
    def observe(self, rollout):
        return {"step": torch.zeros(len(rollout.obs))}  # here


class ObservesEntropy(PPO):
    def observe(self, rollout):
        return {"entropy": torch.zeros(len(rollout.obs))}  # here


# What is random at the start ----------------------------------------------------------------------------------------


class Reads(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + (policy(batch)[0] - self.net(batch.obs)).square().mean(), metrics


class GlobalNet(Reads):
    def prepare(self, spec):
        self.net = nn.Linear(4, 2)  # here


class GlobalNetAtInit(Reads):
    def __post_init__(self):
        super().__post_init__()
        self.net = nn.Linear(4, 2)  # here


class ClockedNumber(PPO):
    def prepare(self, spec):
        self.start = np.random.default_rng().random()  # here


class SeededNet(Reads):
    def prepare(self, spec):
        torch.manual_seed(3)
        self.net = nn.Linear(4, 2)


class OwnNets(PPO):
    """A random network an agent, as RND has, and one more that learns when it observes."""

    def prepare(self, spec):
        self.targets = spec.per_agent(lambda: nn.Linear(4, 1))
        self.learnt = spec.per_agent(lambda: nn.Linear(4, 1))

    def observe(self, rollout):
        errors = []
        for target, net, obs in zip(self.targets, self.learnt, rollout.obs, strict=True):
            with torch.enable_grad():
                error = (net(obs) - target(obs).detach()).square().mean()
                grads = torch.autograd.grad(error, list(net.parameters()))
            with torch.no_grad():
                for own, grad in zip(net.parameters(), grads, strict=True):
                    own -= 0.1 * grad
            errors.append(error.detach())
        return {"novelty": torch.stack(errors)}


class OwnNetsSaved(OwnNets):
    def state_dict(self):
        return {"learnt": [net.state_dict() for net in self.learnt]}

    def load_state_dict(self, state):
        for net, own in zip(self.learnt, state["learnt"], strict=True):
            net.load_state_dict(own)


# Right, though the made-up rollout may look otherwise ---------------------------------------------------------------


class Positive(PPO):
    def loss(self, policy, batch):
        torch.distributions.Poisson(batch.returns.detach())
        return super().loss(policy, batch)


class Demanding(PPO):
    def loss(self, policy, batch):
        assert (batch.returns > 1e9).all(), "too small"  # here
        return super().loss(policy, batch)


class Remembers(PPO):
    def prepare(self, spec):
        self.best = None
        self.agents = spec.num_agents

    def observe(self, rollout):
        of = rollout.episodes.agents
        if len(set(of)) == self.agents:
            self.best = torch.tensor([float(rollout.episodes.returns[of == k].max()) for k in range(self.agents)])
        return {}

    def replay(self, minibatches):
        return {} if self.best is None else {"best": self.best[:, None].expand(-1, minibatches)}

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + (policy(batch)[1] - batch.replay["best"]).square().mean(), metrics


class Lazy(PPO):
    @functools.cached_property
    def table(self):
        return torch.ones(1)

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        if not hasattr(self, "ramp"):
            self.ramp = torch.linspace(0, 1, len(batch.obs))
        return loss + self.table.sum() * (self.ramp * policy(batch)[1]).mean(), metrics


class OddTensors(PPO):
    def prepare(self, spec):
        self.half = torch.ones(3, dtype=torch.bfloat16)
        self.sparse = torch.eye(3).to_sparse()
        self.meta = torch.ones(2, device="meta")
        self.turned = torch.ones(12, dtype=torch.complex64).conj()


class Shares(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + (policy(batch)[0] - batch.obs @ PRETRAINED).square().mean(), metrics


class AddsInPlace(PPO):
    def loss(self, policy, batch):
        batch.returns.add_(1.0)
        return super().loss(policy, batch)


# What slipped through -----------------------------------------------------------------------------------------------


class OnlyCritic(PPO):
    def loss(self, policy, batch):
        return policy(batch)[1].square().mean(), {}  # here


class Complex(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss.to(torch.complex64), metrics  # here


class Flickers(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        CALLS.made += 1
        return loss, metrics | ({"calm": loss} if CALLS.made % 2 else {})  # here


class Clock(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * (1 + time.time() % 1), metrics  # here


class System(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * (1 + os.urandom(4)[0] / 255 + os.urandom(4)[1]), metrics  # here


class Backward(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        values = policy(batch)[1].exp()
        squares = values.square()  # here
        values.mul_(2.0)
        return loss + squares.mean(), metrics


class MovesWeights(PPO):
    def loss(self, policy, batch):
        with torch.no_grad():
            for x in policy.parameters():
                x.mul_(0.99)  # here
        return super().loss(policy, batch)


# Other hooks --------------------------------------------------------------------------------------------------------


class ObservesNothing(PPO):
    def observe(self, rollout):  # here
        pass


class ObservesNumber(PPO):
    def observe(self, rollout):
        return {"calm": 1.0}  # here


class ObservesScalar(PPO):
    def observe(self, rollout):
        return {"calm": torch.zeros(())}  # here


class ObservesComplex(PPO):
    def observe(self, rollout):
        return {"calm": torch.zeros(len(rollout.obs), dtype=torch.complex64)}  # here


class ReplaysFew(PPO):
    def replay(self, minibatches):
        return {"rows": torch.zeros(1, 1)}  # here


class CoefficientNumber(PPO):
    def coefficients(self, progress, num_agents, device):
        return super().coefficients(progress, num_agents, device) | {"calm": 1.0}  # here


class Late(PPO):
    """Goes wrong in the second update."""

    def prepare(self, spec):
        self.updates = 0

    def observe(self, rollout):
        self.updates += 1
        return {}


class ObservesLate(Late):
    def observe(self, rollout):
        super().observe(rollout)
        return {} if self.updates < 2 else {"calm": torch.zeros(len(rollout.obs))}  # here


class ReplaysLate(Late):
    def replay(self, minibatches):
        return {} if self.updates < 2 else {"rows": torch.zeros(1, 1)}  # here


class CoefficientLate(Late):
    def coefficients(self, progress, num_agents, device):
        calm = torch.zeros(num_agents) if self.updates < 2 else 1.0
        return super().coefficients(progress, num_agents, device) | {"calm": calm}  # here


class ObservesEntropyLate(PPO):
    def observe(self, rollout):
        if float(rollout.rewards.max()) != 1.0:
            raise ValueError("rewards of CartPole are 1")
        return {"entropy": torch.zeros(len(rollout.obs))}  # here


class RaisesAtFirst(PPO):
    """Cannot observe what is made up, and branches."""

    def observe(self, rollout):
        if float(rollout.rewards.max()) != 1.0:
            raise ValueError("rewards of CartPole are 1")
        return {}

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return (loss * 2 if loss > 1e3 else loss), metrics  # here


class AdaptsToNothing(PPO):
    def adapt(self, metrics):
        metrics["nothing"]  # here


# Places -------------------------------------------------------------------------------------------------------------


class SetsMixin:
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        setattr(self, "last", loss)  # noqa: B010  # here
        return loss, metrics


class Mixed(SetsMixin, PPO):
    pass


class Partial(PPO):
    def whole(self, flag, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss.expand(2), metrics  # here

    loss = functools.partialmethod(whole, True)


class Yields(PPO):
    def loss(self, policy, batch):
        yield super().loss(policy, batch)  # here


class CallsHelper(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + seventh(batch.obs).mean(), metrics  # here


class Unpacks(PPO):
    def loss(self, policy, batch):
        params, values, more = policy(batch)  # here
        return (params.mean() + values.mean()) * more, {}


class PicksRows(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + policy(batch)[1][batch.advantages > 0].sum(), metrics  # here


class BranchesInHelper(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return halved(loss), metrics  # here


class Accumulates(PPO):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        total = torch.zeros(())
        for _ in range(2):
            total += policy(batch)[1].mean()  # here
        return loss + total, metrics


class Undecorated(PPO):
    extra: float = 1.0


class NoAlgorithm:
    def __init__(self, **settings):
        pass


@dataclass(kw_only=True)
class Listed(PPO):
    """A list as default."""

    shares: list = field(default_factory=lambda: [0.5, 0.5])


@dataclass(kw_only=True)
class Recalls(PPO):
    """A coefficient that is the mean of the last three entropies, each a tensor (A,) in a list."""

    def prepare(self, spec):
        self.recent = [torch.zeros(spec.num_agents)]

    def coefficients(self, progress, num_agents, device):
        return super().coefficients(progress, num_agents, device) | {"c": torch.stack(self.recent).mean(0)}

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * (1 + self.c), metrics | {"c": self.c}

    def adapt(self, metrics):
        self.recent = [*self.recent, metrics["entropy"]][-3:]

    def state_dict(self):
        return {"recent": self.recent}

    def load_state_dict(self, state):
        self.recent = [*state["recent"]]


@dataclass(kw_only=True)
class OfManyKinds(Recalls):
    """Keeps what agents share and what is each one's, in every form."""

    def prepare(self, spec):
        super().prepare(spec)
        agents = range(spec.num_agents)
        self.kept = {
            "projection": torch.ones(4, 2),
            "scales": [1.0 for _ in agents],
            "elite": [[] for _ in agents],
            "counts": collections.Counter(),
            "betas": [0.9, 0.999],
            "nets": [net.state_dict() for net in spec.per_agent(lambda: nn.Linear(4, 4))],
            "pairs": (torch.zeros(spec.num_agents), [torch.zeros(2 * spec.num_agents, 3)]),
        }

    def observe(self, rollout):
        self.kept["counts"]["late"] += self.kept["counts"]["early"]
        self.kept["counts"]["early"] += 1
        means = rollout.rewards.mean((1, 2)) + rollout.obs.mean((1, 2, 3))
        for k in range(len(means)):
            self.kept["scales"][k] += float(means[k])
            if self.kept["scales"][k] > 1.0:
                self.kept["elite"][k].append(means[k].clone())
            self.kept["nets"][k]["weight"] += means[k]
        self.kept["pairs"][0].add_(means)
        return {"kept": torch.tensor(self.kept["scales"]) + torch.stack([x["weight"].sum() for x in self.kept["nets"]])}

    def state_dict(self):
        return super().state_dict() | {"kept": self.kept}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.kept = state["kept"]


@dataclass(kw_only=True)
class TimeFirst(PPO):
    """Keeps eight numbers of each agent in columns."""

    def prepare(self, spec):
        self.history = torch.zeros(8, spec.num_agents)

    def state_dict(self):  # here
        return {"history": self.history}


@dataclass(kw_only=True)
class NetByName(PPO):
    """Keeps a network of each agent under a name of its own."""

    def prepare(self, spec):
        self.nets = spec.per_agent(lambda: nn.Linear(4, 4))

    def state_dict(self):  # here
        return {f"net{k}": net.state_dict() for k, net in enumerate(self.nets)}


@dataclass(kw_only=True)
class GrowsLate(PPO):
    """Keeps a list that is empty at first, and then as long as there are agents."""

    def prepare(self, spec):
        self.late, self.agents, self.seen = [], spec.num_agents, 0

    def observe(self, rollout):
        self.seen += 1
        if self.seen == 4:
            self.late = [torch.zeros(4) for _ in range(self.agents)]
        return {}

    def state_dict(self):  # here
        return {"late": self.late}


@dataclass(kw_only=True)
class FromRewards(PPO):
    """Keeps what it sees where it adds rewards, some of it from the second update on."""

    def prepare(self, spec):
        self.seen, self.best = {}, None

    def rewards(self, rollout, policies):
        if self.seen:
            self.best = rollout.obs.mean((1, 2))
        self.seen["mean"] = rollout.obs.mean((1, 2, 3))

    def state_dict(self):
        return {"seen": self.seen, "best": self.best}

    def load_state_dict(self, state):
        self.seen, self.best = state["seen"], state["best"]


@dataclass(kw_only=True)
class TimeMajor(PPO):
    """Keeps two numbers of each agent, all first ones first, in one row."""

    def prepare(self, spec):
        self.buffer = torch.zeros(2, spec.num_agents)

    def observe(self, rollout):
        self.buffer = torch.stack([rollout.obs.mean((1, 2, 3)), self.buffer[0]])
        return {}

    def state_dict(self):  # here
        return {"buffer": self.buffer.flatten()}


@dataclass(kw_only=True)
class Keeps(PPO):
    """Keeps an object of some kind, from an update on."""

    kind: str = "deque"
    since: int = 0

    def prepare(self, spec):
        self.held, self.seen = {"x": torch.zeros(spec.num_agents)}, 0

    def observe(self, rollout):
        self.seen += 1
        if self.seen > self.since:
            self.held["x"] = KINDS[self.kind]()
        return {}

    def state_dict(self):  # here
        return {"held": self.held, "seen": self.seen}

    def load_state_dict(self, state):
        self.held, self.seen = state["held"], state["seen"]


@dataclass(kw_only=True)
class Resizes(PPO):
    """Changes a setting once it has trained."""

    of: str = "epochs"
    to: int | float = 3

    def prepare(self, spec):
        self.seen = 0

    def observe(self, rollout):
        self.seen += 1
        if self.seen == 3:
            setattr(self, self.of, self.to)
        return {}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


@dataclass(kw_only=True)
class ResizesWithin(Resizes):
    """Changes it within an update."""

    def observe(self, rollout):
        return {}

    def replay(self, minibatches):
        return super().observe(None)


@dataclass(kw_only=True)
class SumsAll(PPO):
    """Keeps a number of all agents together."""

    agents: int | None = None

    def prepare(self, spec):
        self.total = 0.0

    def observe(self, rollout):
        self.total += float(rollout.obs[: self.agents].sum())
        return {}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]
