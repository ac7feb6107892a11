"""Optimistic policy regularization (Pham et al. 2026, arXiv 2603.06793) on PPO, as far as the paper's summary says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlexp.algos.base import Metrics
from rlexp.algos.episode_memory import EpisodeMemory
from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled
from rlexp.data import Batch, ExtraRewards, Rollout, RunSpec, Spaces
from rlexp.networks.actor_critic import Policies, Policy
from rlexp.networks.distributions import DiagGaussian, make_distribution
from rlexp.networks.reader import Reader


@dataclass(kw_only=True)
class OPR(PPO):
    """L = L_PPO(r′) − E[ c · log π_θ(a|s) + log π_good(a|s) ],  r′ = r + b · clip(log π_good/π_old (a|s), 0, d).

    The expectation is over (s, a) from the best episodes so far, of which π_good is a clone with a network of its own.
    Fields are explained in conf/algo/opr.yaml, what the paper leaves open in opr.md.
    """

    shaping_coef: float = 0.1
    shaping_clip: float = 1.0
    bc_coef: Scheduled = 0.1
    top_k: int = 8
    max_steps: int = 512
    good_rows: int = 64
    good_hidden: Sequence[int] = (64, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_knots("bc_coef", 0.0)
        self.require("shaping_coef", self.shaping_coef >= 0, "must not be below 0")
        self.require_positive("shaping_clip", "must be positive")
        for name in ("top_k", "max_steps", "good_rows"):
            self.require(name, getattr(self, name) >= 1, "must be at least 1")

    def modules(self, spaces: Spaces) -> dict[str, nn.Module]:
        """The network of π_good."""
        return super().modules(spaces) | {"good": Clone(spaces, list(self.good_hidden))}

    def prepare(self, spec: RunSpec) -> None:
        """Allocate the memory of good episodes."""
        self.memory = EpisodeMemory(spec, top_k=self.top_k, max_steps=self.max_steps)
        self.shaping = torch.full((spec.num_agents,), float("nan"), device=spec.device)

    def rewards(self, rollout: Rollout, policies: Policies) -> ExtraRewards | None:
        """r′ − r = b · clip(log π_good(a|s) − log π_old(a|s), 0, d); 0 until an episode has finished."""

        def of_clone(policy: Policy, obs: Tensor, actions: Tensor) -> Tensor:
            return policy.distribution.log_prob(policy.module("good")(obs), actions)

        log_good = policies.each(of_clone, rollout.obs, rollout.actions)  # (A, T, E)
        known = torch.from_numpy((self.memory.counts > 0).any(1)).to(log_good.device)
        ratio = (log_good - rollout.log_probs).clamp(0.0, self.shaping_clip) * known[:, None, None]
        self.shaping = torch.vmap(weighted_mean)(ratio.flatten(1), rollout.weights.flatten(1))
        return ExtraRewards(self.shaping_coef * ratio)

    def observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """Add the rollout's finished episodes to the memory."""
        self.memory.add(rollout)
        return {f"good_{name}": value for name, value in self.memory.summary().items()} | {"shaping": self.shaping}

    def replay(self, minibatches: int) -> Any:
        """State–action pairs of the good episodes, `good_rows` per minibatch."""
        return self.memory.sample(minibatches, self.good_rows)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_PPO + bc_coef · cloning by π_θ + cloning by π_good; both are 0 until an episode has finished."""
        loss, metrics = super().loss(policy, batch)
        rows, log_prob = batch.replay, policy.distribution.log_prob
        bc_loss = weighted_mean(-log_prob(policy.dist_params(rows), rows.actions), rows.weights)
        good_loss = weighted_mean(-log_prob(policy.module("good")(rows.obs), rows.actions), rows.weights)
        return loss + self.bc_coef * bc_loss + good_loss, metrics | {"bc_loss": bc_loss, "good_loss": good_loss}

    def state_dict(self) -> dict[str, Any]:
        """State of the memory."""
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory."""
        self.memory.load_state_dict(state["memory"])


class Clone(nn.Module):
    """π_good: packed parameters (..., P). As in the policy, log σ of continuous actions is no function of the state."""

    def __init__(self, spaces: Spaces, hidden: list[int]) -> None:
        super().__init__()
        distribution = make_distribution(spaces.action)
        gaussian = isinstance(distribution, DiagGaussian)
        outputs = distribution.noise_size if gaussian else distribution.num_params
        self.reader = Reader(spaces.observation, hidden, outputs)
        self.log_std = nn.Parameter(torch.zeros(outputs)) if gaussian else None

    def forward(self, obs: Tensor) -> Tensor:
        """(..., *space.shape) -> (..., P)."""
        params = self.reader(obs)
        return params if self.log_std is None else torch.cat([params, self.log_std.expand_as(params)], -1)
