"""Objectives with the mistakes that authors make first; the line at fault is marked."""

import time
from dataclasses import dataclass

import torch

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled
from rlexp.data import ExtraRewards

CALLS = []


@dataclass(kw_only=True)
class Calm(PPO):
    count: int = 0

    def calm(self, policy, batch):
        return policy(batch)[1].square()


@dataclass(kw_only=True)
class Halves(PPO):
    c: Scheduled = 0.1

    def __post_init__(self):
        super().__post_init__()
        self.half = self.c / 2  # here


class FailsToInit(PPO):
    def __init__(self, **settings):
        super().__init__(**settings)
        torch.nn.Linear(3)  # here


class MisspeltHook(Calm):
    def prepared(self):  # called below
        return 0.0

    def reward(self, rollout, policies):  # here
        return None

    def losses(self):  # beside `loss`, a name of its own
        return None

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.prepared(), metrics


class VectorLoss(Calm):
    def loss(self, policy, batch):
        return self.calm(policy, batch), {}  # here


class VectorMetric(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        calm = self.calm(policy, batch)
        metrics["calm"] = calm  # here
        return loss, metrics


class NumberMetric(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss, metrics | {"calm": 0.5}  # here


class NoMetrics(Calm):
    def loss(self, policy, batch):
        return super().loss(policy, batch)[0]  # here


class Nothing(Calm):
    def loss(self, policy, batch):  # here
        super().loss(policy, batch)


class Counts(Calm):
    def loss(self, policy, batch):
        self.count += 1  # here
        return super().loss(policy, batch)


class NewState(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        self.last = loss  # here
        return loss, metrics


class CountsOnceThere(Calm):
    def loss(self, policy, batch):
        if not hasattr(self, "calls"):
            self.calls = 0
        self.calls += 1  # here
        loss, metrics = super().loss(policy, batch)
        return loss * 0.9**self.calls, metrics


class Keeps(Calm):
    def loss(self, policy, batch):
        self.history = [*getattr(self, "history", []), 1]  # here
        return super().loss(policy, batch)


class CountsForAll(Calm):
    calls = 0

    def loss(self, policy, batch):
        type(self).calls += 1  # here
        loss, metrics = super().loss(policy, batch)
        return loss * (1.0 if self.calls < 20 else 0.5), metrics


class CountsInModule(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        CALLS.append(1)  # here
        return loss * (1.0 if len(CALLS) < 20 else 0.5), metrics


class Random(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + torch.rand(()), metrics  # here


class NoGradient(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss.detach(), metrics  # here


class Misspelt(Calm):
    def loss(self, policy, batch):
        return policy(batch.observations)[1].mean(), {}  # here


class Observations(Calm):
    def loss(self, policy, batch):
        return policy(batch.obs)[1].mean(), {}  # here


class ObservationsOfActor(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + policy.dist_params(batch.obs).mean(), metrics  # here


class WrongShape(Calm):
    def loss(self, policy, batch):
        params, values = policy(batch)
        return (params + values).mean(), {}  # here


class Branches(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        if self.calm(policy, batch).mean() > 0.1:  # here
            loss = loss * 0.5
        return loss, metrics


class Items(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * (1.0 + batch.advantages.std().item()), metrics  # here


class Floats(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * (1.0 + float(batch.advantages.std())), metrics  # here


class Numpy(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss * (1.0 + batch.advantages.numpy().std().item()), metrics  # here


@dataclass(kw_only=True)
class MeanOfAll(Calm):
    """Its coefficient is one for all agents, however many there are."""

    def prepare(self, spec):
        self.beta = torch.ones(spec.num_agents)

    def coefficients(self, progress, num_agents, device):
        return super().coefficients(progress, num_agents, device) | {"beta": self.beta}

    def adapt(self, metrics):
        self.beta = torch.full_like(self.beta, metrics["value_loss"].mean().item())  # here

    def state_dict(self):
        return {"beta": self.beta}

    def load_state_dict(self, state):
        self.beta = state["beta"]


@dataclass(kw_only=True)
class Detached(Calm):
    """A penalty that nobody feels."""

    calm_coef: float = 0.5

    def coefficients(self, progress, num_agents, device):
        own = {"calm_coef": torch.full((num_agents,), self.calm_coef)}
        return super().coefficients(progress, num_agents, device) | own

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.calm_coef * self.calm(policy, batch).mean().detach(), metrics  # here


@dataclass(kw_only=True)
class Forgets(Calm):
    """A mean over updates that is not saved, beside one that is and a result of each rollout."""

    def prepare(self, spec):
        self.mean, self.kept, self.latest = (torch.zeros(spec.num_agents) for _ in range(3))

    def observe(self, rollout):
        self.latest = rollout.rewards.mean((1, 2))
        self.mean, self.kept = self.mean + self.latest, self.kept + self.latest
        return {}

    def state_dict(self):
        return {"kept": self.kept}

    def load_state_dict(self, state):
        self.kept = state["kept"]


@dataclass(kw_only=True)
class LoadsMore(Forgets):
    def load_state_dict(self, state):
        self.mean = state["mean"]  # here


class Broadcasts(Calm):
    """(B, 1) − (B,) is (B, B)."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        values = policy(batch)[1][:, None]
        return loss + weighted_mean(values - batch.returns, batch.weights), metrics  # here


class RewardsOfAll(Calm):
    def rewards(self, rollout, policies):
        x = rollout.obs[..., 0]
        return ExtraRewards((x - x.mean()) / x.std())  # here


class WritesRewards(Calm):
    def rewards(self, rollout, policies):
        rollout.learner_rewards += 5  # here


class WritesObservations(Calm):
    def observe(self, rollout):
        rollout.obs.mul_(0.5)  # here
        return {}


class NoStream(Calm):
    def rewards(self, rollout, policies):
        return ExtraRewards(rollout.rewards, coef=0.5)  # here


class OwnRewards(Calm):
    """Each agent's own: nothing is wrong with it."""

    def rewards(self, rollout, policies):
        x = rollout.obs[..., 0]
        return ExtraRewards(x - x.mean((1, 2), keepdim=True))


class Idle(Calm):
    def modules(self, spaces):
        return {"idle": torch.nn.Linear(4, 1), "fixed": torch.nn.Linear(4, 1).requires_grad_(False)}  # here


@dataclass(kw_only=True)
class ScheduledReward(Calm):
    weight: Scheduled = 0.1

    def rewards(self, rollout, policies):
        return ExtraRewards(self.weight * rollout.rewards)  # here


class NoExtra(Calm):
    def loss(self, policy, batch):
        return batch.extra["mine"].mean(), {}  # here


@dataclass(kw_only=True)
class MeanOfKL(MeanOfAll):
    """Of a metric that is 0 as long as the policy is the one that acted."""

    def adapt(self, metrics):
        self.beta = self.beta * (2.0 if metrics["approx_kl"].mean() > 0.01 else 0.5)  # here


@dataclass(kw_only=True)
class FirstOfAll(MeanOfAll):
    def adapt(self, metrics):
        self.beta = torch.full_like(self.beta, metrics["value_loss"][0].item())  # here


@dataclass(kw_only=True)
class Sums(MeanOfAll):
    """An integral, which shows an update later."""

    def prepare(self, spec):
        super().prepare(spec)
        self.sum = torch.zeros(spec.num_agents)

    def adapt(self, metrics):
        self.beta = self.beta + self.sum
        self.sum = self.sum + metrics["value_loss"].mean()  # here

    def state_dict(self):
        return {"beta": self.beta, "sum": self.sum}

    def load_state_dict(self, state):
        self.beta, self.sum = state["beta"], state["sum"]


class ObservesAll(MeanOfAll):
    def observe(self, rollout):
        self.beta = 0.9 * self.beta + 0.1 * torch.quantile(rollout.rewards, 0.9)  # here
        return {}

    def adapt(self, metrics):
        pass


class EpisodesOfAll(Calm):
    def observe(self, rollout):
        return {"best": torch.full((len(rollout.obs),), float(rollout.episodes.returns.max()))}  # here


class OutlierOfAll(Calm):
    def observe(self, rollout):
        return {"high": (rollout.learner_rewards.max() > 1.5).float().repeat(len(rollout.obs))}  # here


class StatisticsOfAll(Calm):
    """Of the rollout before."""

    def prepare(self, spec):
        self.deviation = torch.ones(())

    def rewards(self, rollout, policies):
        extra = ExtraRewards(rollout.rewards / self.deviation)
        self.deviation = rollout.values.std()  # here
        return extra


class OneStream(Calm):
    def prepare(self, spec):
        self.streams = spec.streams

    def rewards(self, rollout, policies):
        return ExtraRewards(torch.rand(rollout.rewards.shape, generator=self.streams[0].memory))  # here


class GlobalStream(Calm):
    def rewards(self, rollout, policies):
        return ExtraRewards(torch.rand_like(rollout.rewards))  # here


class Clock(Calm):
    def rewards(self, rollout, policies):
        return ExtraRewards(rollout.rewards * (time.time() % 1))  # here


class WritesEpisodes(Calm):
    def observe(self, rollout):
        rollout.episodes.returns[:] -= 1  # here
        return {}


class ReplaysAll(Calm):
    def prepare(self, spec):
        self.obs, self.streams = torch.zeros(spec.num_agents, 128, 4), spec.streams

    def observe(self, rollout):
        self.obs = rollout.obs.flatten(1, 2).clone()
        return {}

    def replay(self, minibatches):
        drawn = [torch.randint(256, (minibatches, 8), generator=each.memory) for each in self.streams]
        return self.obs.flatten(0, 1)[torch.stack(drawn)]  # here


class TrueSchedule(Calm):
    def rewards(self, rollout, policies):
        return ExtraRewards(rollout.rewards) if self.ent_coef else None  # here


class EqualSchedule(Calm):
    def rewards(self, rollout, policies):
        return None if self.ent_coef == 0 else ExtraRewards(rollout.rewards)  # here


class Shares(Calm):
    """What the others of a population see: there is no number without them."""

    def prepare(self, spec):
        self.population = spec.population

    def rewards(self, rollout, policies):
        values = rollout.values.unflatten(0, (-1, self.population))
        others = (values.sum(1, keepdim=True) - values) / (self.population - 1)
        return ExtraRewards(others.flatten(0, 1))


@dataclass(kw_only=True)
class RestoresLate(MeanOfAll):
    """Its coefficient is made again by `adapt`, an update too late."""

    def adapt(self, metrics):
        self.beta = metrics["value_loss"].clone()

    def load_state_dict(self, state):
        pass


class KeepsRows(Calm):
    def prepare(self, spec):
        self.old = torch.zeros(())

    def observe(self, rollout):
        self.old = rollout.values  # here
        return {}

    def state_dict(self):
        return {"old": self.old}

    def load_state_dict(self, state):
        self.old = state["old"]


class KeepsCopies(KeepsRows):
    def observe(self, rollout):
        self.old = rollout.values.clone()
        return {}


class KeepsNetworks(Calm):
    frozen = False

    def prepare(self, spec):
        self.networks = spec.per_agent(lambda: torch.nn.Linear(4, 1).requires_grad_(not self.frozen))

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        values = self.networks[0](batch.obs).squeeze(-1)  # here
        return loss + weighted_mean((values - policy(batch)[1]).square(), batch.weights), metrics


class KeepsTargets(KeepsNetworks):
    frozen = True


class CountsDummies(Calm):
    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + policy(batch)[1].square().mean(), metrics  # here


class NoSuper(Calm):
    def coefficients(self, progress, num_agents, device):
        return {"beta": torch.ones(num_agents)}  # here


class ReadsModule(Calm):
    def modules(self, spaces):
        return {"head": torch.nn.Linear(4, 1)}

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + policy.module("head").weight.square().sum(), metrics  # here
