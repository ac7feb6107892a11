"""Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783), synchronous: one step on each rollout."""

from dataclasses import dataclass

from torch import Tensor

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.data import Batch
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class A2C(PPO):
    """L = −E[ log π_θ(a|s) A ] + c_v L_value − c_e H.

    With one epoch of one minibatch π_θ is π_old, ρ = 1, and the gradient is that of L_clip: PPO's special case
    (Huang et al. 2022, arXiv 2205.09123). Fields are explained in conf/algo/a2c.yaml.
    """

    rollout_steps: int = 5
    epochs: int = 1
    minibatches: int = 1
    norm_adv: bool = False

    def surrogate(self, policy: Policy, batch: Batch, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """−E[ log π_θ(a|s) A ], scalar; log π_θ = log ρ + log π_old."""
        return -weighted_mean((log_ratio + batch.log_probs) * advantages, batch.weights)
