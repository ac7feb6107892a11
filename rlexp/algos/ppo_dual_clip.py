"""PPO with a dual clip (Ye et al. 2020, arXiv 1912.09729): a bound on how much a bad action's ratio may count."""

from dataclasses import dataclass

from torch import Tensor

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled
from rlexp.data import Batch
from rlexp.networks.actor_critic import Policy

LARGEST = 80.0  # of log ρ, just below what float32 can hold the exponential of


@dataclass(kw_only=True)
class PPODualClip(PPO):
    """L = L_dual + c_v L_value − c_e H, with c = `dual_clip`. Fields are explained in conf/algo/ppo_dual_clip.yaml."""

    dual_clip: Scheduled = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("dual_clip", min(self.dual_clip.knots) > 1, "must be above 1, or nothing is learnt of bad actions")

    def surrogate(self, policy: Policy, batch: Batch, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """L_dual = −E[ m where A ≥ 0, max(m, c A) where A < 0 ], m = min(ρ A, clip(ρ, 1 − ε, 1 + ε) A), scalar."""
        ratio = log_ratio.clamp(max=LARGEST).exp()  # (B,); an infinite one has a gradient of 0 · ∞ beyond the bound
        clipped = ratio.clamp(1.0 - self.clip_coef, 1.0 + self.clip_coef)
        m = (ratio * advantages).minimum(clipped * advantages)
        bounded = m.maximum(self.dual_clip * advantages)
        return -weighted_mean(bounded.where(advantages < 0, m), batch.weights)
