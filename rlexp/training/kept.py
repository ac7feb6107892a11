"""Weights that are evaluated instead of the last ones: an average over updates, or those of the best evaluation."""

from typing import Any, Literal

import numpy as np
import torch

from rlexp.training.learner import Learner

Which = Literal["last", "average", "best"]


class Kept:
    """All agents' weights, (A, ...), that `evaluation.weights` names: average or best.

    average: θ̄ ← θ̄ + (θ − θ̄) / n, n ← decay · n + 1 after each update: an exponential average, from n = 1 on without a
    share of the first weights. Statistics of observations are the current ones. best: those at the evaluation during
    training with the highest mean return so far, by the actions of the final one: the most likely, or sampled ones; the
    later one of two.
    """

    def __init__(self, which: Which, decay: float, learner: Learner) -> None:
        self.which, self.decay, self.learner = which, decay, learner
        self.averaged = {name for group in learner.groups for name in group.params}
        self.tensors = {name: x.clone() for name, x in learner.tensors().items()}
        self.count = 0.0  # n
        self.scores = np.full(len(learner.streams), -np.inf)
        self.before: dict[str, Any] | None = None  # the state before an extra evaluation, for a run that goes on

    @torch.no_grad()
    def updated(self) -> None:
        """After an update."""
        if self.which != "average":
            return
        self.count = self.decay * self.count + 1.0
        for name, x in self.learner.tensors().items():
            if name in self.averaged:
                self.tensors[name].lerp_(x, 1.0 / self.count)
            else:
                self.tensors[name].copy_(x)

    @torch.no_grad()
    def evaluated(self, returns: np.ndarray, extra: bool = False) -> None:
        """After an evaluation of all agents; returns: (A,), NaN for those that were not evaluated.

        extra: it is only made because the run ends.
        """
        if self.which != "best":
            return
        if extra:
            tensors = {name: x.clone() for name, x in self.tensors.items()}
            self.before = {"tensors": tensors, "scores": torch.from_numpy(self.scores.copy()), "count": self.count}
        better = np.nan_to_num(returns, nan=-np.inf) >= self.scores
        better &= np.isfinite(returns)
        self.scores[better] = returns[better]
        rows = torch.from_numpy(np.flatnonzero(better)).to(self.learner.device)
        for name, x in self.learner.tensors().items():
            self.tensors[name][rows] = x[rows]

    def state_dict(self) -> dict[str, Any]:
        """Weights and scores (A, ...)."""
        before = {} if self.before is None else {"before": self.before}
        return {"tensors": self.tensors, "scores": torch.from_numpy(self.scores.copy()), "count": self.count, **before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.tensors = {name: x.to(self.learner.device) for name, x in state["tensors"].items()}
        self.scores, self.count = state["scores"].cpu().numpy().copy(), float(state["count"])
        self.before = state.get("before")
