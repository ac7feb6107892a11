"""Objectives with rewards and modules of their own, as a user would write them."""

from dataclasses import dataclass, field

import torch
from torch import nn

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.data import ExtraRewards


@dataclass(kw_only=True)
class Auxiliary(PPO):
    """Predicts the reward from the observation by a network of its own, one layer of which stays as it is."""

    aux_coef: float = 1.0

    def modules(self, spaces):
        width = spaces.observation.shape[0]
        fixed = nn.Linear(width, 3)
        fixed.requires_grad_(False)
        return {"aux": nn.Sequential(fixed, nn.Tanh(), nn.Linear(3, 1))}

    def rewards(self, rollout, policies):
        return ExtraRewards(torch.zeros_like(rollout.rewards), rows={"aux_rewards": rollout.learner_rewards})

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        predicted = policy.module("aux")(batch.obs).squeeze(-1)
        error = weighted_mean((predicted - batch.extra["aux_rewards"]).square(), batch.weights)
        return loss + self.aux_coef * error, metrics | {"aux_error": error}


@dataclass(kw_only=True)
class Given(PPO):
    """Adds rewards that a test gives."""

    extra: object = field(default=None)

    def rewards(self, rollout, policies):
        return self.extra
