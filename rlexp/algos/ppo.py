"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

from dataclasses import dataclass

from torch import Tensor

from rlexp.algos import losses
from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.schedules import Scheduled
from rlexp.data import Batch
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class PPO(Algorithm):
    """L = L_clip + c_v L_value − c_e H, minimised over several epochs of minibatches of each rollout.

    Fields are explained in conf/algo/ppo.yaml.
    """

    clip_coef: Scheduled = 0.2
    clip_vloss: bool = False
    vf_coef: Scheduled = 0.5
    ent_coef: Scheduled = 0.0
    norm_adv: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_knots("clip_coef", 0.0)
        self.require("clip_coef", max(self.clip_coef.knots) > 0, "must be above 0")
        self.require_knots("vf_coef", 0.0)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """L = L_clip(θ) + vf_coef · L_value(θ) − ent_coef · H[π_θ], scalar; terms as in `rlexp.algos.losses`."""
        dist, weights = policy.distribution, batch.weights
        params, values = policy(batch)
        log_ratio = dist.log_prob(params, batch.actions) - batch.log_probs  # (B,)
        advantages = batch.advantages
        if self.norm_adv:
            advantages = losses.normalize_advantages(advantages, weights, moments=batch.moments)

        policy_loss = self.surrogate(policy, batch, log_ratio, advantages)
        if self.clip_vloss:
            value_loss = losses.clipped_value_loss(values, batch.values, batch.returns, weights, self.clip_coef)
        else:
            value_loss = losses.value_loss(values, batch.returns, weights)
        entropy = losses.weighted_mean(dist.entropy(params), weights)

        loss = policy_loss + self.vf_coef * value_loss - self.ent_coef * entropy
        statistics = losses.ratio_statistics(log_ratio, weights, self.clip_coef)
        terms = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return loss, terms | statistics._asdict()

    def surrogate(self, policy: Policy, batch: Batch, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """The policy's term, here L_clip, scalar. log_ratio: log ρ (B,); advantages: normalized if `norm_adv` (B,)."""
        return losses.clipped_surrogate(log_ratio.exp(), advantages, batch.weights, self.clip_coef)
