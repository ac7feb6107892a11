"""Random network distillation (Burda et al. 2018, arXiv 1810.12894): a bonus for states that are new."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.losses import weighted_mean
from rlexp.algos.return_scaler import ReturnScaler
from rlexp.data import Batch, ExtraRewards, FinalObs, Rollout, RunSpec, Spaces
from rlexp.networks.actor_critic import Policies, Policy
from rlexp.networks.reader import Reader


@dataclass(kw_only=True)
class RND(Algorithm):
    """r_i = e(s′) / σ, e(s) = ‖f̂_φ(s) − f(s)‖² / rnd_features: how wrongly f̂ predicts a fixed random f; a bonus.

    σ is the running standard deviation of the discounted e. r_i has a critic V_i of its own, whose return goes on past
    episodes, and A = A_e + rnd_coef · A_i. L = L_algo + E[e(s′)] + rnd_vf_coef · ½ E[(V_i − R_i)²]. See `bonus.py`.
    Fields are explained in conf/bonus/rnd.yaml.
    """

    rnd_coef: float = 0.5
    rnd_gamma: float = 0.99
    rnd_vf_coef: float = 0.5
    rnd_features: int = 64
    rnd_hidden: Sequence[int] = (64, 64)
    rnd_proportion: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("rnd_coef", self.rnd_coef >= 0, "must not be below 0")
        self.require("rnd_gamma", 0 <= self.rnd_gamma <= 1, "must lie in [0, 1]")
        self.require("rnd_vf_coef", self.rnd_vf_coef >= 0, "must not be below 0")
        self.require("rnd_features", self.rnd_features >= 1, "must be at least 1")
        self.require("rnd_proportion", 0 < self.rnd_proportion <= 1, "must lie in (0, 1]")

    def modules(self, spaces: Spaces) -> dict[str, nn.Module]:
        """The two networks whose outputs are compared, and V_i."""
        space, hidden = spaces.observation, list(self.rnd_hidden)
        error, value = Distillation(space, hidden, self.rnd_features), Reader(space, hidden, 1)
        return super().modules(spaces) | {"rnd": error, "rnd_value": value}

    @property
    def final_obs(self) -> FinalObs:
        """All: each has a bonus."""
        return "all"

    def prepare(self, spec: RunSpec) -> None:
        """Start the statistics."""
        super().prepare(spec)
        self.rnd_scaler = ReturnScaler(spec.num_agents, spec.num_envs, self.rnd_gamma, math.inf, spec.device)
        self.rnd_mean = torch.full((spec.num_agents,), math.nan, device=spec.device)
        self.rnd_started = False

    def rewards(self, rollout: Rollout, policies: Policies) -> ExtraRewards | None:
        """r_i with V_i; 0 in the first rollout, before which there are no statistics of observations."""
        error = policies.each(lambda policy, obs: policy.module("rnd")(obs), rollout.next_obs)  # (A, T, E)
        obs = torch.cat([rollout.obs, rollout.next_obs[:, -1:]], 1)
        values = policies.each(lambda policy, obs: policy.module("rnd_value")(obs).squeeze(-1), obs)  # (A, T + 1, E)
        if self.rnd_started:
            novelty = self.rnd_scaler(error, torch.zeros_like(rollout.terminated), rollout.weights)
        else:
            novelty, self.rnd_started = torch.zeros_like(error), True
        self.rnd_mean = torch.vmap(weighted_mean)(novelty.flatten(1), rollout.weights.flatten(1))
        stream = ExtraRewards(
            rewards=novelty,
            values=values[:, :-1],
            last_values=values[:, -1],
            gamma=self.rnd_gamma,
            coef=self.rnd_coef,
            episodic=False,
            rows={"rnd_next_obs": rollout.next_obs},
        )
        return stream.beside(super().rewards(rollout, policies))

    def observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """The rollout's mean r_i."""
        return super().observe(rollout) | {"rnd_reward": self.rnd_mean}

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """The objective's loss, the error on a random share of the rows, and the loss of V_i."""
        loss, metrics = super().loss(policy, batch)
        error = policy.module("rnd")(batch.extra["rnd_next_obs"])  # (B,)
        drawn = batch.weights * (policy.rand_like(error) < self.rnd_proportion)
        prediction = weighted_mean(error, drawn)
        values = policy.module("rnd_value")(batch.obs).squeeze(-1)
        value_loss = 0.5 * weighted_mean((values - batch.extra["returns"]).square(), batch.weights)
        terms = {"rnd_loss": prediction, "rnd_value_loss": value_loss}
        return loss + prediction + self.rnd_vf_coef * value_loss, metrics | terms

    def state_dict(self) -> dict[str, Any]:
        """State of the objective, and the statistics."""
        return {"of_algo": super().state_dict(), "rnd": self.rnd_scaler.state_dict(), "rnd_started": self.rnd_started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        super().load_state_dict(state["of_algo"])
        self.rnd_scaler.load_state_dict(state["rnd"])
        self.rnd_started = state["rnd_started"]


class Distillation(nn.Module):
    """‖f̂(s) − f(s)‖² / features (...), of a network f̂ that is trained and f that is not."""

    def __init__(self, space: spaces.Space, hidden: list[int], features: int) -> None:
        super().__init__()
        self.target, self.predictor = (Reader(space, hidden, features) for _ in range(2))
        for parameter in self.target.parameters():
            parameter.requires_grad_(False)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., *space.shape) -> (...)."""
        return (self.predictor(obs) - self.target(obs)).square().mean(-1)
