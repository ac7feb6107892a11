"""Self-imitation learning (Oh et al. 2018, arXiv 1806.05635) on PPO: actions that did better than expected, again."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlexp.algos.base import Metrics
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled
from rlexp.algos.transition_memory import TransitionMemory
from rlexp.data import Batch, FinalObs, Rollout, RunSpec, masked
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class SIL(PPO):
    """L = L_PPO + c · ( E[ −log π_θ(a|s) · G ] + c_v · E[ ½ G² ] ), G = max(R − V_θ(s), 0), constant in the first term.

    (s, a, R): transitions of finished episodes with their discounted returns; see `TransitionMemory` for how they are
    drawn. Fields are explained in conf/algo/sil.yaml.
    """

    sil_coef: Scheduled = 0.1
    sil_vf_coef: Scheduled = 0.01
    sil_buffer: int = 50_000
    sil_rows: int = 64
    priority_alpha: float = 0.6
    priority_beta: float = 0.1
    gamma: float = 0.99
    bootstrap_truncation: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sil_coef", "sil_vf_coef"):
            self.require_knots(name, 0.0)
        self.require("sil_rows", self.sil_rows >= 1, "must be at least 1")
        for name in ("priority_alpha", "priority_beta"):
            self.require(name, getattr(self, name) >= 0, "must not be below 0")
        self.require("gamma", 0 <= self.gamma <= 1, "must lie in [0, 1]; by default it is gae.gamma")

    @property
    def final_obs(self) -> FinalObs:
        """Those of truncated episodes, if their values end the returns."""
        return "truncated" if self.bootstrap_truncation else "none"

    def prepare(self, spec: RunSpec) -> None:
        """Allocate the memory."""
        least = spec.num_envs
        self.require("sil_buffer", self.sil_buffer >= least, f"must be at least env.num_envs, which is {least}")
        self.memory = TransitionMemory(
            spec,
            size=self.sil_buffer,
            gamma=self.gamma,
            bootstrap_truncation=self.bootstrap_truncation,
            alpha=self.priority_alpha,
            beta=self.priority_beta,
        )

    def observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """Add the rollout to the memory."""
        self.memory.add(rollout)
        return {f"sil_{name}": value for name, value in self.memory.summary().items()}

    def replay(self, minibatches: int) -> Any:
        """Transitions from the memory, `sil_rows` per minibatch."""
        return self.memory.sample(minibatches, self.sil_rows)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_PPO + sil_coef · (policy term + sil_vf_coef · value term); both are 0 while the memory has nothing."""
        loss, metrics = super().loss(policy, batch)
        rows = batch.replay
        params, values = policy(rows)
        gain = (rows.returns - values).clamp_min(0.0)  # G (sil_rows,)
        log_probs = policy.distribution.log_prob(params, rows.actions)

        def mean(x: Tensor) -> Tensor:  # weighed by importance, not divided by the weights' sum
            return masked(rows.weights * x, rows.weights).mean()

        policy_loss, value_loss = mean(-log_probs * gain.detach()), mean(0.5 * gain.square())
        loss = loss + self.sil_coef * (policy_loss + self.sil_vf_coef * value_loss)
        terms = {"sil_policy_loss": policy_loss, "sil_value_loss": value_loss, "sil_gain": mean(gain.detach())}
        return loss, metrics | terms

    def state_dict(self) -> dict[str, Any]:
        """State of the memory."""
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory."""
        self.memory.load_state_dict(state["memory"])
