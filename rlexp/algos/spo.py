"""Simple policy optimization (Xie et al. 2025, arXiv 2401.16025): a quadratic penalty in place of PPO's clip."""

from dataclasses import dataclass

from torch import Tensor

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.data import Batch
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class SPO(PPO):
    """L = L_SPO + c_v L_value − c_e H, with ε = `clip_coef`. Fields are explained in conf/algo/spo.yaml."""

    def __post_init__(self) -> None:
        super().__post_init__()
        knots = self.clip_coef.knots  # the last is the end of the run, which no update reaches
        wanted = (
            "must be above 0, as the penalty is divided by it; only a schedule's last value may be 0, as in [0.2,0]"
        )
        self.require("clip_coef", min(knots[:-1] or knots) > 0, wanted)

    def surrogate(self, policy: Policy, batch: Batch, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """L_SPO = −E[ ρ A − |A| / (2ε) · (ρ − 1)² ], scalar. A row's term is least at ρ = 1 + sign(A) ε."""
        ratio = log_ratio.exp()  # (B,)
        penalty = advantages.abs() / (2.0 * self.clip_coef) * (ratio - 1.0).square()
        return -weighted_mean(ratio * advantages - penalty, batch.weights)
