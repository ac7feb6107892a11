"""Base class of all algorithms: shared hyperparameters, schedules, and the hooks that a subclass overrides."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Self, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from rlexp.algos.schedules import Schedule, Scheduled, side_by_side
from rlexp.data import Batch, ExtraRewards, FinalObs, Rollout, RunSpec, Spaces
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import Policies, Policy
from rlexp.plain.digest import digest

Metrics = dict[str, Tensor]


def added(default: Any) -> Any:
    """A field for a class of which there are runs: at its default it does nothing, and those keep their hash."""
    return dataclasses.field(default=default, metadata={"added": True})


@dataclasses.dataclass(kw_only=True)
class Algorithm:
    """Base of all objectives. Fields annotated `Scheduled` take a number or a list (see `Schedule`).

    Inside `loss` they are tensors holding the current value; everywhere else they are Schedule objects. Everything
    else that `loss` reads is fixed once training starts; adaptive values are passed to it by `coefficients`. Raises
    ConfigError for a hyperparameter out of range.
    """

    rollout_steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    max_grad_norm: float | None = 0.5
    target_kl: float | None = None

    def __post_init__(self) -> None:
        """Convert scheduled fields to schedules and check ranges."""
        for name in self.scheduled():
            setattr(self, name, Schedule(getattr(self, name), self.key(name)))
        for name in ("rollout_steps", "epochs", "minibatches"):
            self.require(name, getattr(self, name) >= 1, "must be at least 1")
        self.require_positive("max_grad_norm", "must be positive, or null for no clipping")
        self.require_positive("target_kl", "must be positive, or null for no early stop")

    def require(self, name: str, holds: bool, wanted: str) -> None:
        """Raise ConfigError, naming the hyperparameter and its value, unless `holds`."""
        if not holds:
            raise ConfigError(f"{self.key(name)}={getattr(self, name)}: {wanted}")

    def require_positive(self, name: str, wanted: str) -> None:
        """Require a positive hyperparameter, or None, which turns a feature off."""
        value = getattr(self, name)
        self.require(name, value is None or value > 0, wanted)

    def require_knots(self, name: str, low: float) -> None:
        """Require a schedule that never goes below `low`."""
        self.require(name, min(getattr(self, name).knots) >= low, f"must not be below {low:g}")

    def key(self, name: str) -> str:
        """A hyperparameter as it is typed."""
        return f"algo.{name}"

    @property
    def final_obs(self) -> FinalObs:
        """Whose final observations it reads, as in `rollout.next_obs`: of "truncated" episodes, of "all", or of "none".

        They must then be finite; others may be anything.
        """
        return "none"

    def check_population(self, population: int) -> None:
        """Raise ConfigError if agents cannot be trained in populations of this size; by default in any."""

    # The objective, for one agent --------------------------------------------------------------------------------

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """The scalar to minimise, and scalars to log. Pure and traceable."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    @property
    def average_decay(self) -> float | None:
        """Decay β of an average of the weights, θ̄ ← β θ̄ + (1 − β) θ after each optimizer step; None: none is kept.

        The loss gets it as `policy.average`. It starts as the first weights.
        """
        return None

    def modules(self, spaces: Spaces) -> dict[str, nn.Module]:
        """Networks besides the policy: trained with it, by gradients of the loss, and saved; parameters without
        requires_grad stay. The loss calls them by ``policy.module(name)``. Called once per agent, before `prepare`.
        """
        return {}

    # Memory; most algorithms have none ---------------------------------------------------------------------------

    def prepare(self, spec: RunSpec) -> None:
        """Called before the first step; allocate memory here. Also called on throwaway copies during checks.

        Those may have fewer agents. Draw random numbers inside `spec.per_agent` or from `spec.streams`, so that they
        depend on the agent's seed alone; drawing from a global stream is an error.
        """

    def rewards(self, rollout: Rollout, policies: Policies) -> ExtraRewards | None:
        """Rewards to add to the environment's before advantages are computed; None: none.

        `rollout.learner_rewards` are the environment's, signed or scaled. Recorded returns stay the environment's.
        The rollout is not to be written on, here or in `observe`: what follows reads it.
        """
        return None

    def observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """Process a new rollout. Returns metrics to log, one value per agent (A,)."""
        return {}

    def replay(self, minibatches: int) -> Any:
        """Extra data for the loss: tensors (A, minibatches, ...), passed as `batch.replay`."""
        return ()

    def adapt(self, metrics: Metrics) -> None:
        """Adapt coefficients to the update's mean metrics, one value per agent (A,)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs: tensors (A · n, ...), agent by agent, and plain values shared by all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""

    # Mechanism ---------------------------------------------------------------------------------------------------

    @classmethod
    def scheduled(cls) -> list[str]:
        """Names of the scheduled fields: those that may differ between agents trained side by side."""
        try:  # resolves aliases and string annotations
            hints = get_type_hints(cls, include_extras=True)
        except Exception:  # a name that is imported under TYPE_CHECKING only
            hints = {}
        return [f.name for f in dataclasses.fields(cls) if hints.get(f.name, f.type) in (Scheduled, "Scheduled")]

    def shared(self) -> dict[str, str]:
        """Settings that agents trained side by side must share: every attribute but the scheduled ones, as text."""
        return {name: digest(value) for name, value in self._attributes().items() if name not in self.scheduled()}

    def _attributes(self) -> dict[str, Any]:
        """Instance attributes, including slots."""
        slots = [name for base in type(self).__mro__ for name in getattr(base, "__slots__", ())]
        return {name: getattr(self, name) for name in slots if hasattr(self, name)} | vars(self)

    @classmethod
    def side_by_side(cls, algos: "Sequence[Algorithm]") -> "Algorithm":
        """Merge the algorithms of several agents, one each, that differ in scheduled fields only.

        Raises ConfigError if they differ elsewhere, e.g. in an attribute derived from a scheduled field.
        """
        merged = copy.copy(algos[0])
        for algo in algos:
            for name, value in merged.shared().items():
                if algo.shared().get(name) != value:
                    what = f"is {value} for one agent and differs for another in the same batch"
                    raise ConfigError(f"algo.{name}: {what}")
        for name in merged.scheduled():
            setattr(merged, name, side_by_side([getattr(algo, name) for algo in algos]))
        return merged

    def coefficients(self, progress: float, num_agents: int, device: torch.device) -> dict[str, Tensor]:
        """Current value of every scheduled field, per agent: name -> (A,)."""

        def current(schedule: Schedule) -> Tensor:
            values = np.broadcast_to(schedule(progress), num_agents)
            return torch.tensor(values, dtype=torch.float32, device=device)

        return {name: current(getattr(self, name)) for name in self.scheduled()}

    def bind(self, coefficients: dict[str, Tensor]) -> Self:
        """A shallow copy whose scheduled fields are these tensors. Traceable, hence not copy.copy."""
        bound = object.__new__(type(self))
        for name, value in (self._attributes() | coefficients).items():
            object.__setattr__(bound, name, value)
        return bound
