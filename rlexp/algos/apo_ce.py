"""APO with a cross-entropy anchor: behaviour cloning of the best episode's actions, a control for APO."""

from dataclasses import dataclass

from torch import Tensor

from rlexp.algos.apo import APO
from rlexp.data import Batch
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class APOCrossEntropy(APO):
    """L = L_PPO + c · E_{(s, a) ~ best episode}[ −log π_θ(a|s) ].

    Tests whether the recorded distributions matter or the actions alone suffice. Close to RAPID
    (Zha et al. 2021, arXiv 2101.08152). `direction` has no effect.
    """

    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        """−log π_θ(a|s) on the anchor's rows: (anchor_rows,), nats."""
        return -policy.distribution.log_prob(policy.dist_params(batch.replay), batch.replay.actions)
