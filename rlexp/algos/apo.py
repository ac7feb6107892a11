"""Best-episode Anchored Policy Optimization: PPO held close to the best episode seen so far.

Not to be confused with Average Policy Optimization, nor with the language-model method of 2026 of the same name.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from rlexp.algos.base import Metrics, added
from rlexp.algos.episode_memory import EpisodeMemory
from rlexp.algos.episode_scores import AdvantageScores, random_scores, redrawn_scores
from rlexp.algos.losses import weighted_mean
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled
from rlexp.data import Batch, FinalObs, Rollout, RunSpec
from rlexp.networks.actor_critic import Policy


@dataclass(kw_only=True)
class APO(PPO):
    """L = L_PPO + c · E_{s ~ best episode}[ KL(π*(·|s) ‖ π_θ(·|s)) ].

    π* are the action distributions recorded during the episode, s its raw observations. Fields are explained in
    conf/algo/apo.yaml.
    """

    anchor_coef: Scheduled = 1.0
    direction: Literal["forward", "reverse"] = "forward"
    anchor: Literal["best", "random"] = "best"
    anchor_by: Literal["return", "advantage"] = added("return")
    anchor_half_life: float | None = added(None)
    anchor_share: bool = added(False)
    gamma: float | None = None
    top_k: int = 1
    replace_on_tie: bool = True
    max_steps: int = 512
    anchor_rows: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_knots("anchor_coef", 0.0)
        for name in ("top_k", "max_steps", "anchor_rows"):
            self.require(name, getattr(self, name) >= 1, "must be at least 1")
        self.require_positive("anchor_half_life", "must be a positive number of steps, or null for no decay")
        by_advantage = self.anchor_by == "advantage"
        for name, given in (("anchor_by", by_advantage), ("anchor_half_life", self.anchor_half_life is not None)):
            drawn = "wants a score, and algo.anchor=random ranks by a draw among all episodes; leave out one of them"
            self.require(name, not given or self.anchor == "best", drawn)
        if by_advantage:
            usable = self.gamma is not None and 0.0 <= self.gamma <= 1.0
            self.require("gamma", usable, "algo.anchor_by=advantage discounts by it; must lie in [0, 1]")
        else:  # it is not read, and agents side by side may differ in gae.gamma, which is its default
            self.gamma = None

    @property
    def final_obs(self) -> FinalObs:
        """With anchor_by=advantage those of truncated episodes, whose values it takes."""
        return "none" if self.gamma is None else "truncated"

    def check_population(self, population: int) -> None:
        """A shared anchor takes a population."""
        what = f"the agents of a population share it, and population={population} has one; use population=2 or more"
        self.require("anchor_share", not self.anchor_share or population > 1, what)

    def prepare(self, spec: RunSpec) -> None:
        """Allocate the episode memory."""
        self.memory = EpisodeMemory(
            spec,
            top_k=self.top_k,
            max_steps=self.max_steps,
            replace_on_tie=self.replace_on_tie,
            half_life=self.anchor_half_life,
            share=self.anchor_share,
        )
        self.advantages = None if self.gamma is None else AdvantageScores(spec, self.gamma)

    def observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """Add the rollout's finished episodes to the memory."""
        scores = None  # their returns
        if self.anchor == "random":
            scores = random_scores(self.memory.spec, rollout.episodes)
        elif self.advantages is not None:
            scores = self.advantages(rollout)
        self.memory.add(rollout, scores)
        summary = self.memory.summary(score=self.advantages is not None or self.anchor_half_life is not None)
        return {f"anchor_{name}": value for name, value in summary.items()}

    def replay(self, minibatches: int) -> Any:
        """Rows of the anchor, `anchor_rows` per minibatch: an unbiased estimate of the mean over its states."""
        return self.memory.sample(minibatches, self.anchor_rows)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """L_PPO + anchor_coef · mean divergence from the anchor; the term is 0 until an episode has finished."""
        loss, metrics = super().loss(policy, batch)
        divergence = self.divergence(policy, batch)  # (anchor_rows,)
        anchor_kl = weighted_mean(divergence, batch.replay.weights)
        return loss + self.anchor_coef * anchor_kl, metrics | {"anchor_kl": anchor_kl}

    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        """KL(π* ‖ π_θ) on the anchor's rows, or KL(π_θ ‖ π*) if `direction` is reverse: (anchor_rows,), nats."""
        anchor, current = batch.replay.dist_params, policy.dist_params(batch.replay)
        if self.direction == "forward":
            return policy.distribution.kl(anchor, current)
        return policy.distribution.kl(current, anchor)

    def state_dict(self) -> dict[str, Any]:
        """State of the memory, and of the scores of running episodes."""
        scores = {} if self.advantages is None else {"advantages": self.advantages.state_dict()}
        return {"memory": self.memory.state_dict(), **scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory."""
        memory = self.memory
        memory.load_state_dict(state["memory"])
        if self.anchor == "random" and "scores" not in state["memory"]["arrays"]:  # of an earlier version
            memory.scores = redrawn_scores(memory.spec, memory.seen, memory.counts > 0)
        if self.advantages is not None:
            self.advantages.load_state_dict(state["advantages"])
