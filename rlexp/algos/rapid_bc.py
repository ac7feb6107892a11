"""RAPID (Zha et al. 2021, arXiv 2101.08152) on PPO: behaviour cloning of the episodes that explored best."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlexp.algos.base import Metrics
from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.algos.ranking_buffer import RankingBuffer
from rlexp.algos.schedules import Scheduled
from rlexp.data import Batch, Rollout, RunSpec
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class RAPID(PPO):
    """L = L_PPO + c · E[ −log π_θ(a|s) ], (s, a) from the episodes with the highest exploration scores.

    The scores: `RankingBuffer`. Fields are explained in conf/algo/rapid_bc.yaml.
    """

    bc_coef: Scheduled = 0.1
    bc_rows: int = 64
    buffer_size: int = 10_000
    max_steps: int = 1024
    w_extrinsic: float = 1.0
    w_local: float = 0.1
    w_global: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_knots("bc_coef", 0.0)
        for name in ("bc_rows", "buffer_size", "max_steps"):
            self.require(name, getattr(self, name) >= 1, "must be at least 1")

    def prepare(self, spec: RunSpec) -> None:
        """Allocate the buffer."""
        weights = (self.w_extrinsic, self.w_local, self.w_global)
        self.buffer = RankingBuffer(spec, size=self.buffer_size, max_steps=self.max_steps, weights=weights)

    def observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """Score and rank the episodes that ended."""
        self.buffer.add(rollout)
        return {f"rapid_{name}": value for name, value in self.buffer.summary().items()}

    def replay(self, minibatches: int) -> Any:
        """State–action pairs from the buffer, `bc_rows` per minibatch."""
        return self.buffer.sample(minibatches, self.bc_rows)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_PPO + bc_coef · mean of −log π_θ(a|s); the term is 0 until an episode has finished."""
        loss, metrics = super().loss(policy, batch)
        rows = batch.replay
        log_probs = policy.distribution.log_prob(policy.dist_params(rows), rows.actions)  # (bc_rows,)
        bc_loss = weighted_mean(-log_probs, rows.weights)
        return loss + self.bc_coef * bc_loss, metrics | {"bc_loss": bc_loss}

    def state_dict(self) -> dict[str, Any]:
        """State of the buffer."""
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the buffer."""
        self.buffer.load_state_dict(state["buffer"])
