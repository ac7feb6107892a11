"""What every algorithm shares: hyperparameters, schedules, and the places a subclass may fill."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self, get_type_hints

import numpy as np
import torch
from torch import Tensor

from rlexp.algos.schedules import Schedule, Scheduled, side_by_side
from rlexp.data import Batch, Rollout, RunSpec
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import Policy
from rlexp.plain.digest import digest

Metrics = dict[str, Tensor]


@functools.cache
def _slots(kind: Any) -> list[str]:
    return [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]


@dataclasses.dataclass(kw_only=True)
class Algorithm:
    """Base of all objectives. Fields annotated `Scheduled` take a number or a list (see `Schedule`).

    Within `loss` they read as tensors holding the current value; everywhere else they are Schedule objects. Whatever
    else `loss` reads is fixed once training starts; what adapts is handed to it by `coefficients`.

    Raises:
        ConfigError: a setting out of its range, named.
    """

    rollout_steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    max_grad_norm: float | None = 0.5
    target_kl: float | None = None

    def __post_init__(self) -> None:
        """Turn scheduled fields into schedules and check the ranges."""
        for name in self.scheduled():
            setattr(self, name, Schedule.named(f"algo.{name}", getattr(self, name)))
        for name in ("rollout_steps", "epochs", "minibatches"):
            self.require(name, getattr(self, name) >= 1, "must be at least 1")
        self.require_positive("max_grad_norm", "must be positive, or null for no clipping")
        self.require_positive("target_kl", "must be positive, or null for no early stop")

    def require(self, name: str, holds: bool, wanted: str) -> None:
        """Refuse a hyperparameter with one line that names it, its value and what is wanted."""
        if not holds:
            raise ConfigError(f"algo.{name}={getattr(self, name)}: {wanted}")

    def require_positive(self, name: str, wanted: str) -> None:
        """Refuse a hyperparameter that is not positive; None is good: it turns something off."""
        value = getattr(self, name)
        self.require(name, value is None or value > 0, wanted)

    def require_knots(self, name: str, low: float) -> None:
        """Refuse a schedule that ever goes below `low`."""
        self.require(name, min(getattr(self, name).knots) >= low, f"must not be below {low:g}")

    # The objective, for one agent --------------------------------------------------------------------------------

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """The scalar to minimise, and scalars to log. Pure and traceable."""
        raise NotImplementedError(f"{type(self).__name__} defines none")

    # Memory; most algorithms have none ---------------------------------------------------------------------------

    def prepare(self, spec: RunSpec) -> None:
        """Called before the first step: once for a run's own object, and for others that only try what it does.

        Those may have fewer agents. An algorithm with a memory makes it here. What is drawn at random is
        each agent's own where `spec.per_agent` makes it, or where it is drawn from `spec.streams`; what is drawn
        elsewhere is refused.
        """

    def observe(self, rollout: Rollout) -> dict[str, Tensor]:
        """Take in a fresh rollout; the returned metrics, one value an agent (A,), are logged."""
        return {}

    def replay(self, minibatches: int) -> Any:
        """What the loss reads beside the rollout: tensors (A, minibatches, ...), delivered as `batch.replay`."""
        return ()

    def adapt(self, metrics: Metrics) -> None:
        """React to an update's mean metrics, one value an agent (A,): adaptive coefficients."""

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs: tensors (A · n, ...), agent by agent, and plain values that agents share."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""

    # Mechanism ---------------------------------------------------------------------------------------------------

    @classmethod
    def scheduled(cls) -> list[str]:
        """Names of the scheduled fields: those in which agents trained side by side may differ."""
        try:  # under any name, and where annotations are texts
            hints = get_type_hints(cls, include_extras=True)
        except Exception:  # a name that stands for something only while types are checked
            hints = {}
        return [f.name for f in dataclasses.fields(cls) if hints.get(f.name, f.type) in (Scheduled, "Scheduled")]

    def shared(self) -> dict[str, str]:
        """What agents trained side by side must have alike: every attribute but the scheduled ones, as text."""
        return {name: digest(value) for name, value in self._attributes().items() if name not in self.scheduled()}

    def _attributes(self) -> dict[str, Any]:
        """Attributes of its own, those of dataclasses with slots too."""
        kind: Any = type(self)
        slots = {name: getattr(self, name) for name in _slots(kind) if hasattr(self, name)}
        return slots | vars(self)

    @classmethod
    def side_by_side(cls, algos: "Sequence[Algorithm]") -> "Algorithm":
        """One algorithm for agents whose own, one each, differ in scheduled fields alone.

        Raises:
            ConfigError: they differ in something else, as in what one derives from a scheduled field at its start.
        """
        whole = copy.copy(algos[0])
        for algo in algos:
            for name, value in whole.shared().items():
                if algo.shared().get(name) != value:
                    raise ConfigError(f"algo.{name}: is {value} for one agent, another for one beside it")
        for name in whole.scheduled():
            setattr(whole, name, side_by_side([getattr(algo, name) for algo in algos]))
        return whole

    def coefficients(self, progress: float, num_agents: int, device: torch.device) -> dict[str, Tensor]:
        """Current value of every scheduled field, one an agent: name -> (A,)."""
        values = {name: getattr(self, name)(progress) for name in self.scheduled()}
        return {
            name: torch.tensor(np.broadcast_to(value, num_agents), dtype=torch.float32, device=device)
            for name, value in values.items()
        }

    def bind(self, coefficients: dict[str, Tensor]) -> Self:
        """A shallow copy whose scheduled fields are those tensors. Traceable, hence not copy.copy."""
        bound = object.__new__(type(self))
        for name, value in self._attributes().items():
            object.__setattr__(bound, name, value)
        for name, value in coefficients.items():
            object.__setattr__(bound, name, value)
        return bound
