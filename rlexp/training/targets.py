"""The step from a rollout's rewards to advantages and returns, what the learner is trained towards."""

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor

from rlexp.algos.advantages import GAE, Advantages
from rlexp.algos.base import Algorithm
from rlexp.algos.return_scaler import ReturnScaler
from rlexp.checks.hook_outputs import describe, require_finite_rewards, require_rewards
from rlexp.checks.location import located_errors
from rlexp.data import ExtraRewards, Rollout, masked
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import Policies
from rlexp.seeding import no_global_randomness
from rlexp.user_code import where_defined


class Targets:
    """Computes `Advantages`.

    Args:
        algo: the objective, which may add rewards.
        gae: advantage estimation.
        sign: learn from the signs of rewards.
        scaler: scales rewards, if any.
    """

    def __init__(self, algo: Algorithm, gae: GAE, *, sign: bool, scaler: ReturnScaler | None) -> None:
        self.algo, self.gae, self.sign, self.scaler = algo, gae, sign, scaler
        self.first = True

    def __call__(self, rollout: Rollout, policies: Policies) -> Advantages:
        """Advantages and returns (A, T, E) of a rollout, of which `learner_rewards` is set."""
        rewards = rollout.rewards.clone()  # a hook may change them in place
        if self.sign:
            rewards = rewards.sign()
        if self.scaler is not None:
            rewards = self.scaler(rewards, rollout.terminated | rollout.truncated, rollout.weights)
        rollout.learner_rewards = rewards
        first, self.first = self.first, False
        drawing = no_global_randomness("algo.rewards") if first else contextlib.nullcontext()
        with located_errors(self.algo, "rewards"), drawing, torch.no_grad():
            extra = self.algo.rewards(rollout, policies)
        require_rewards(self.algo, extra, rollout)
        if first:
            require_finite_rewards(self.algo, extra, rollout)
        added = None if extra is None else extra.rewards if extra.values is None else extra.joined
        if added is not None:
            rollout.learner_rewards = rewards + masked(added, rollout.weights)
        ends = rollout.terminated, rollout.truncated
        targets = estimated(self.gae, rollout.learner_rewards, rollout.values, rollout.last_values, *ends)
        if extra is None:
            return targets
        rows = dict(extra.rows)
        if extra.values is not None:
            apart = self._stream(extra, rollout)
            targets = targets._replace(advantages=targets.advantages + extra.coef * apart.advantages)
            rows |= {"returns": apart.returns}
        return targets._replace(extra=rows)

    def _stream(self, extra: ExtraRewards, rollout: Rollout) -> Advantages:
        """Advantages and returns of rewards that have a critic of their own."""
        if not hasattr(self.gae, "gamma"):
            raise ConfigError(f"gae: {type(self.gae).__name__} has no gamma, which rewards with their own critic set")
        gae = copy.copy(self.gae)
        gae.gamma = extra.gamma
        assert extra.values is not None
        assert extra.last_values is not None
        values, last, ends = extra.values, extra.last_values, [rollout.terminated, rollout.truncated]
        if not extra.episodic:
            # a reset's row is a step of reward 0 from the final observation, of which no loss trains a value: it has
            # the one of the step after it, γ V, so that its temporal difference is 0. Where the rollout ends with a
            # final observation, that step is yet to come: the value counts as staying what it was
            last = torch.where((ends[0] | ends[1])[:, -1], values[:, -1], last)
            following = torch.cat([values[:, 1:], last[:, None]], 1)
            values = torch.where(rollout.weights == 0, extra.gamma * following, values)
            ends = [torch.zeros_like(end) for end in ends]
        return estimated(gae, masked(extra.rewards, rollout.weights), values, last, *ends)


def estimated(gae: GAE, rewards: Tensor, *rest: Tensor) -> Advantages:
    """What an estimator returns, possibly a third party's; ConfigError for another shape than the rewards'."""
    found: Any = gae(rewards, *rest)
    both = found[:2] if isinstance(found, tuple) else ()
    if len(both) < 2 or any(not isinstance(x, Tensor) or x.shape != rewards.shape for x in both):
        given = " and ".join(describe(x) for x in both) or describe(found)
        what = f"returns {given}; wants Advantages(advantages, returns), each {tuple(rewards.shape)}"
        raise ConfigError(f"gae: {where_defined(type(gae), '__call__') or type(gae).__name__}: {what}")
    return Advantages(*found)
