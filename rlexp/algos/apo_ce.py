"""A control for best-episode APO: behaviour cloning of the same episodes' actions instead of KL to distributions."""

from dataclasses import dataclass

from torch import Tensor

from rlexp.algos.apo import APO
from rlexp.data import Batch
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class APOCrossEntropy(APO):
    """L = L_PPO + c · E_{(s, a) ~ best episode}[ −log π_θ(a|s) ].

    Answers whether the recorded distributions matter or the actions alone would do. Close to RAPID
    (Zha et al. 2021, arXiv 2101.08152). `direction` is without effect.
    """

    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        """−log π_θ(a|s) on the anchor's rows: (rows,), nats."""
        rows = batch.replay
        return -policy.distribution.log_prob(policy.dist_params(rows.obs), rows.actions)
