"""PPO-EWMA (Hilton et al. 2021, arXiv 2110.00641): the policy is held to an average of its own recent weights."""

from dataclasses import dataclass

from torch import Tensor

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.data import Batch
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class PPOEWMA(PPO):
    """L = −E[ min(ρ A, clip(π_θ / π_prox, 1 − ε, 1 + ε) · π_prox / π_old · A) ] + c_v L_value − c_e H.

    ρ = π_θ / π_old corrects for the behaviour policy; how far the policy may move is measured from the proximal policy
    π_prox, that of the weights θ̄ ← β θ̄ + (1 − β) θ, averaged over optimizer steps (equation 3 there).
    """

    ewma_decay: float = 0.889

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("ewma_decay", 0.0 <= self.ewma_decay < 1.0, "must lie in [0, 1)")

    @property
    def average_decay(self) -> float | None:
        """β."""
        return self.ewma_decay

    def surrogate(self, policy: Policy, batch: Batch, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """The clipped surrogate around π_prox, scalar."""
        params = policy.average.dist_params(batch)
        of_prox = policy.distribution.log_prob(params, batch.actions) - batch.log_probs  # log π_prox / π_old (B,)
        moved = (log_ratio - of_prox).exp().clamp(1.0 - self.clip_coef, 1.0 + self.clip_coef)
        clipped = moved * of_prox.exp()
        return -weighted_mean((log_ratio.exp() * advantages).minimum(clipped * advantages), batch.weights)
