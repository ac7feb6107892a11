"""PPO with an adaptive KL penalty (Schulman et al. 2017, section 4)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlexp.algos.base import Metrics
from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.data import Batch, RunSpec
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class PPOKL(PPO):
    """L = L_PPO + β · E_s[ KL(π_old(·|s) ‖ π_θ(·|s)) ], s from the rollout.

    With `kl_target`, β doubles after an update whose mean KL exceeds 1.5 · kl_target and halves below
    kl_target / 1.5; without, β stays at `kl_coef`. A control for APO: does any KL help, or only the best episode's?
    """

    kl_coef: float = 1.0
    kl_target: float | None = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("kl_coef", self.kl_coef >= 0, "must not be below 0")
        self.require_positive("kl_target", "must be positive, or null for a fixed coefficient")
        steps = self.epochs * self.minibatches  # before the first of which the KL is 0
        alone = "wants more than one step per update, algo.epochs * algo.minibatches; or null for a fixed coefficient"
        self.require("kl_target", self.kl_target is None or steps > 1, alone)

    def prepare(self, spec: RunSpec) -> None:
        """Initialise every agent's β to `kl_coef`."""
        self.beta = torch.full((spec.num_agents,), float(self.kl_coef), device=spec.device)

    def coefficients(self, progress: float, num_agents: int, device: torch.device) -> dict[str, Tensor]:
        """The scheduled values, and β."""
        return super().coefficients(progress, num_agents, device) | {"beta": self.beta}

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_PPO + β · mean KL(π_old ‖ π_θ)."""
        loss, metrics = super().loss(policy, batch)
        kl = policy.distribution.kl(batch.dist_params, policy.dist_params(batch))  # (B,)
        mean_kl = weighted_mean(kl, batch.weights)
        return loss + self.beta * mean_kl, metrics | {"kl": mean_kl, "kl_beta": self.beta}

    def adapt(self, metrics: Metrics) -> None:
        """β ← 2β if KL > 1.5 · kl_target; β ← β/2 if KL < kl_target / 1.5."""
        if self.kl_target is None:
            return
        grow, shrink = metrics["kl"] > 1.5 * self.kl_target, metrics["kl"] < self.kl_target / 1.5
        factor = torch.where(grow, 2.0, torch.where(shrink, 0.5, 1.0))
        self.beta = (self.beta * factor).clamp(1e-4, 1e4)

    def state_dict(self) -> dict[str, Any]:
        """β of every agent (A,)."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore β."""
        self.beta = state["beta"].to(self.beta.device)
