"""An objective that returns its metrics in another order in the second process."""

import os
from dataclasses import dataclass

from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO


@dataclass(kw_only=True)
class Shuffled(PPO):
    """`ones` and `twos` are what they are called."""

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        one = weighted_mean(batch.weights * 0 + 1, batch.weights)
        more = {"ones": one, "twos": 2 * one}
        if os.environ.get("RANK") == "1":
            more = {name: more[name] for name in reversed(more)}
        return loss, metrics | more
