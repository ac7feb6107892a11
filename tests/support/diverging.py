"""Objectives by which one agent, that of seed `victim`, diverges from a moment of training on, and no other."""

import math
from dataclasses import dataclass

import torch

from rlexp.algos.apo import APO
from rlexp.algos.ppo import PPO
from rlexp.algos.ppo_kl import PPOKL
from rlexp.data import ExtraRewards


class SpoilsMixin:
    """`victim`: a seed; `since`: progress; `what`: loss (NaN), value_loss (its metric alone is inf) or gradient (NaN).

    What a healthy agent's loss takes for it is 0, so that it is the same number whoever the victim is.
    """

    def prepare(self, spec):
        super().prepare(spec)
        self.seeds = [stream.seed for stream in spec.streams]

    def coefficients(self, progress, num_agents, device):
        hit = [seed == self.victim and progress >= self.since for seed in self.seeds]
        value = {"loss": math.nan, "value_loss": math.inf, "gradient": 1.0}[self.what]
        spoil = torch.tensor([value if one else 0.0 for one in hit], device=device)
        return super().coefficients(progress, num_agents, device) | {"spoil": spoil}

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        if self.what == "loss":
            loss = loss + self.spoil
        elif self.what == "value_loss":
            metrics = metrics | {"value_loss": metrics["value_loss"] + self.spoil}
        else:  # √0 is finite, and its derivative is not; √1 is a constant
            zero = (batch.values.mean() - policy(batch)[1].mean()) * 0.0
            loss = loss + torch.where(self.spoil > 0, zero, 1.0).sqrt() * self.spoil
        return loss, metrics


@dataclass(kw_only=True)
class SpoilsPPO(SpoilsMixin, PPO):
    victim: int = -1
    since: float = 0.25
    what: str = "loss"


@dataclass(kw_only=True)
class SpoilsAPO(SpoilsMixin, APO):
    victim: int = -1
    since: float = 0.25
    what: str = "loss"


@dataclass(kw_only=True)
class SpoilsKL(SpoilsMixin, PPOKL):
    victim: int = -1
    since: float = 0.25
    what: str = "loss"


@dataclass(kw_only=True)
class SpoilsRewards(PPO):
    """The rewards that it adds are 0, and infinite for `victim` from the third rollout on."""

    victim: int = -1

    def prepare(self, spec):
        super().prepare(spec)
        self.seeds, self.rollouts = [stream.seed for stream in spec.streams], 0

    def rewards(self, rollout, policies):
        self.rollouts += 1
        hit = [seed == self.victim and self.rollouts > 2 for seed in self.seeds]
        spoil = torch.tensor([math.inf if one else 0.0 for one in hit])
        return ExtraRewards(torch.zeros_like(rollout.rewards) + spoil[:, None, None])

    def state_dict(self):
        return super().state_dict() | {"rollouts": self.rollouts}

    def load_state_dict(self, state):
        self.rollouts = state["rollouts"]
