"""A loss tried for one agent, on a minibatch that is made up: what it gives, its gradient, what it writes.

An exception that may be of the made-up numbers alone proves nothing: the first real update tells it.
"""

import contextlib
import itertools
import logging
import random
import sys
import warnings
from bdb import BdbQuit
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.metric_names import EXPLAINED_VARIANCE, GRAD_NORM, LOSS
from rlexp.checks.hook_outputs import ANOTHER, require_apart, require_gradient, require_loss, require_same_names, same
from rlexp.checks.location import CHANGING, is_mistake, named, refusal, where_defined, where_undone
from rlexp.checks.synthetic import copied, other
from rlexp.data import Batch
from rlexp.errors import ObjectiveError, UserError
from rlexp.networks.actor_critic import ActorCritic, Policy
from rlexp.plain.digest import digest
from rlexp.seeding import no_global_randomness
from rlexp.user_code import package_of, raised

log = logging.getLogger(__name__)

STREAMS = (torch.Generator, np.random.Generator, random.Random)
PLAIN = (bool, int, float, str, list, dict, set, deque, itertools.count, Tensor, np.ndarray, *STREAMS)
Held = dict[tuple[str, str], str]  # (owner, name) -> digest of the value
Result = TypeVar("Result")


def _held(bound: Algorithm) -> Held:
    """What an objective could keep from call to call: its attributes, and those of its classes and modules."""
    found: Held = {("", name): digest(value, opaque=False) for name, value in bound._attributes().items()}
    for kind in type(bound).__mro__:
        if package_of(kind.__module__) in ("rlexp", "builtins"):
            continue
        for owner, holder in ((kind.__name__, kind), (f"module {kind.__module__}", sys.modules.get(kind.__module__))):
            for name, value in vars(holder).items() if holder else ():
                if isinstance(value, PLAIN) and not name.startswith("__"):
                    found[owner, name] = digest(value, opaque=False)
    return found


def unless_made_up(algo: Algorithm, hook: str, call: Callable[[], Result]) -> Result | None:
    """What a call gives; None: it raised what may be of made-up numbers.

    Raises:
        ObjectiveError: it raised what it would always raise.
    """
    try:
        return call()
    except (UserError, BdbQuit) as error:
        with named(algo, hook):
            raise error
    except Exception as error:  # whatever somebody else's code raises
        if is_mistake(error):
            with named(algo, hook):
                raise
        return None


def _writing(name: str) -> list[str]:
    """How what a name holds is changed, in code."""
    return [f"{name}{how}" for how in (" +=", " -=", " *=", " =", "[", ".append(", ".update(", ".add(")]


class Trial:
    """A loss tried for one agent."""

    def __init__(self, algo: Algorithm, network: ActorCritic, batch: Batch, coefficients: dict[str, Tensor]) -> None:
        self.algo, self.network, self.batch, self.coefficients = algo, network, batch, coefficients
        self.leaves = {name: x.detach() for name, x in self.network.named_buffers()}
        for name, x in self.network.named_parameters():
            self.leaves[name] = x.detach().clone().requires_grad_(x.requires_grad)
        self.learnt = {name: x for name, x in self.leaves.items() if x.requires_grad}
        self.ran = False

    def run(self, observed: dict[str, Tensor]) -> Metrics | None:
        """Refuse a loss that is none. What `adapt` is given of it; None: it raised what may be of made-up numbers."""
        algo, bound = self.algo, self.algo.bind(self.coefficients)
        before = _held(bound)
        weights = {name: x.detach().clone() for name, x in self.leaves.items()}
        given = self._try(bound, self.batch)
        if given is None:
            return None
        once = _held(bound)
        require_loss(algo, given[0])
        loss, metrics = given[0]
        require_gradient(algo, loss)
        require_apart(algo, observed, metrics)
        again = self._try(bound, self.batch)
        self._require_nothing_written(bound, before, once)
        if not all(torch.equal(x, weights[name]) for name, x in self.leaves.items()):
            what = "writes in place on the policy's parameters, which the optimizer alone moves; give a penalty instead"
            raise refusal(algo, "loss", what, "_(", "+=", "-=", "*=", ".data", "policy.parameters")
        grads = self._gradients(loss)
        if again is not None:
            require_same_names(algo, metrics, again[0][1])
            found, new = (
                tree_flatten((loss, metrics, grads))[0],
                tree_flatten((*again[0], self._gradients(again[0][0])))[0],
            )
            if not same(found, new, on_cuda=loss.is_cuda):
                raise refusal(algo, "loss", ANOTHER, *CHANGING)
        self._tell_unmoved(grads)
        self._tell_without_effect(loss, grads)
        self.ran = True
        return metrics | {LOSS: loss, GRAD_NORM: loss.abs(), EXPLAINED_VARIANCE: torch.zeros_like(loss)}

    def warm(self, twin: Algorithm) -> None:
        """Let another object make what the loss makes when it first needs it."""
        self._try(twin.bind(self.coefficients), self.batch)

    def _call(self, bound: Algorithm, batch: Batch) -> Any:
        with no_global_randomness("the loss"), torch.enable_grad():
            return bound.loss(Policy(self.network, self.leaves, batch.key), copied(batch))

    def _try(self, bound: Algorithm, batch: Batch) -> tuple[Any] | None:
        """What it gives; None: it raised what may be of made-up numbers."""
        return unless_made_up(self.algo, "loss", lambda: (self._call(bound, batch),))

    def _gradients(self, loss: Tensor) -> list[Tensor | None]:
        if not self.learnt:
            return []
        try:
            return self._gradients_of(loss)
        except BdbQuit:
            raise
        except Exception as error:  # of a backward of somebody's own, or of what was changed in place
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                # the same once more, as it tells where
                with torch.autograd.detect_anomaly(check_nan=False), contextlib.suppress(Exception):
                    self._gradients_of(self._call(self.algo.bind(self.coefficients), self.batch)[0])
            place = where_undone(error, [str(warning.message) for warning in caught], self.algo)
            raise ObjectiveError(
                f"{place}: {type(self.algo).__name__}.loss: its gradient fails: {raised(error)}"
            ) from error

    def _gradients_of(self, output: Tensor) -> list[Tensor | None]:
        if not output.requires_grad:
            return [None] * len(self.learnt)
        learnt = list(self.learnt.values())
        return list(
            torch.autograd.grad(output.sum(), learnt, allow_unused=True, retain_graph=True)
        )  # torsos are shared

    def _require_nothing_written(self, bound: Algorithm, before: Held, once: Held) -> None:
        """Refuse a loss that keeps something from call to call; what it makes when it first needs it is fine."""
        twice, fresh = _held(bound), self.algo.bind(self.coefficients)
        changed = [at for at in twice if twice[at] != once.get(at)]
        made = [at for at in once if once[at] != before.get(at) and not at[0] and at not in changed]
        if made and self._try(fresh, other(self.batch)) is not None:
            by_rows = _held(fresh)  # what depends on the rows is a result that somebody keeps
            changed += [at for at in made if by_rows.get(at) != once[at]]
        for owner, name in changed:
            if owner:
                what = f"changes {name} of {owner}, which all agents share and no checkpoint holds"
            elif isinstance(bound._attributes()[name], STREAMS):
                way_out = "whose state is no agent's own; policy.rand_like(x) and randn_like(x) draw"
                raise refusal(self.algo, "loss", f"draws from self.{name}, {way_out}", f"self.{name}")
            else:
                what = f"writes self.{name}, which is lost: it is called on a copy, for one agent of several"
            raise refusal(
                self.algo,
                "loss",
                f"{what}, and not at all once it is compiled; return a metric and keep it in adapt(metrics), or in "
                f"observe(rollout), and hand it out by coefficients()",
                *_writing(name if owner else f"self.{name}"),
                *((name,) if owner else (f"self.{name}", f'"{name}"', f"'{name}'")),
            )

    def _tell_without_effect(self, loss: Tensor, grads: list[Tensor | None]) -> None:
        """Say of a coefficient that weighs what no gradient passes, as a detached penalty.

        It changes the loss, by another amount on other rows, which a target or a threshold does not, and no gradient.
        """
        if type(self.algo).__module__.startswith("rlexp."):
            return

        def given(values: dict[str, Tensor], batch: Batch) -> Tensor:
            return self._call(self.algo.bind(values), batch)[0]

        for name, value in self.coefficients.items():
            nudged = self.coefficients | {name: value * 0.99}
            try:
                here = given(nudged, self.batch)
                moved = (here - loss).detach()
                there = given(nudged, other(self.batch)) - given(self.coefficients, other(self.batch))
                found = self._gradients_of(here)
            except BdbQuit:
                raise
            except Exception:  # of numbers that nobody has set
                continue
            apart = moved.abs() > 1e-6 * loss.abs() and not torch.allclose(moved, there.detach(), rtol=0.1)
            if apart and same(grads, found, on_cuda=loss.is_cuda):
                log.warning(
                    "%s: %s.loss: %s changes the loss and none of its gradients: is what it weighs detached, or made "
                    "under no_grad?",
                    where_defined(self.algo, "loss", f"self.{name}"),
                    type(self.algo).__name__,
                    name,
                )

    def _tell_unmoved(self, grads: list[Tensor | None]) -> None:
        """Say of a loss by which nothing moves that only the actor has."""
        reached = self._named(grads)
        if self.learnt and not reached:
            require_gradient(self.algo, torch.zeros(()))
        with torch.enable_grad():
            params, values = Policy(self.network, self.leaves)(self.batch.obs[:1].clone())
        actors = self._named(self._gradients_of(params)) - self._named(self._gradients_of(values))
        if actors and not reached & actors:
            log.warning(
                "%s: %s.loss moves the critic alone: no gradient reaches what gives actions, so that the policy stays "
                "as it is",
                where_defined(self.algo, "loss", "return"),
                type(self.algo).__name__,
            )

    def _named(self, grads: list[Tensor | None]) -> set[str]:
        return {name for name, grad in zip(self.learnt, grads, strict=True) if grad is not None}
