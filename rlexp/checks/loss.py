"""Dry run of a loss for one agent on a synthetic minibatch: its outputs, gradient and side effects.

Exceptions that may be due to synthetic values are ignored: the first real update reports them.
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
from rlexp.checks.hook_outputs import (
    NOT_REPEATABLE,
    quoted,
    require_distinct,
    require_gradient,
    require_loss,
    require_same_names,
    same_outputs,
)
from rlexp.checks.kept import warn_if_network_is_kept
from rlexp.checks.location import CHANGING, is_mistake, located_errors, refusal, where_defined, where_gradient_failed
from rlexp.checks.synthetic import copied, different_rows
from rlexp.data import Batch
from rlexp.errors import ObjectiveError, UserError
from rlexp.networks.actor_critic import OF_OBJECTIVE, ActorCritic, Policy
from rlexp.plain.digest import digest
from rlexp.seeding import no_global_randomness
from rlexp.user_code import describe_error, package_of

log = logging.getLogger(__name__)

STREAMS = (torch.Generator, np.random.Generator, random.Random)
PLAIN = (bool, int, float, str, list, dict, set, deque, itertools.count, Tensor, np.ndarray, *STREAMS)
Held = dict[tuple[str, str], str]  # (owner, name) -> digest of the value
Result = TypeVar("Result")


def _held(bound: Algorithm) -> Held:
    """Digests of state that could persist between calls: attributes of the objective, its classes and modules."""
    found: Held = {("", name): digest(value, opaque=False) for name, value in bound._attributes().items()}
    for kind in type(bound).__mro__:
        if package_of(kind.__module__) in ("rlexp", "builtins"):
            continue
        for owner, holder in ((kind.__name__, kind), (f"module {kind.__module__}", sys.modules.get(kind.__module__))):
            for name, value in vars(holder).items() if holder else ():
                if isinstance(value, PLAIN) and not name.startswith("__"):
                    found[owner, name] = digest(value, opaque=False)
    return found


def none_if_synthetic(algo: Algorithm, hook: str, call: Callable[[], Result]) -> tuple[Result] | None:
    """A call's result in a tuple; None: its error may be due to synthetic values. Others become ObjectiveError."""
    with located_errors(algo, hook):
        try:
            return (call(),)
        except Exception as error:  # anything that user code raises
            if isinstance(error, UserError | BdbQuit) or is_mistake(error):
                raise
            return None


class LossCheck:
    """Checks a loss for one agent."""

    def __init__(self, algo: Algorithm, network: ActorCritic, batch: Batch, coefficients: dict[str, Tensor]) -> None:
        self.algo, self.network, self.batch, self.coefficients = algo, network, batch, coefficients
        self.leaves = {name: x.detach() for name, x in self.network.named_buffers()}
        for name, x in self.network.named_parameters():
            self.leaves[name] = x.detach().clone().requires_grad_(x.requires_grad)
        self.learnt = {name: x for name, x in self.leaves.items() if x.requires_grad}
        self.average = {name: x.detach() for name, x in self.learnt.items()} if algo.average_decay is not None else None
        self.ran = False

    def run(self, observed: dict[str, Tensor]) -> Metrics | None:
        """Check the loss. Returns the metrics that `adapt` would receive; None if it failed on synthetic values."""
        algo, bound = self.algo, self.algo.bind(self.coefficients)
        before = _held(bound)
        weights = {name: x.detach().clone() for name, x in self.leaves.items()}
        result = self.call_or_none(bound, self.batch)
        if result is None:
            return None
        once = _held(bound)
        require_loss(algo, result[0])
        loss, metrics = result[0]
        require_gradient(algo, loss)
        require_distinct(algo, observed, metrics)
        again = self.call_or_none(bound, self.batch)
        self._require_nothing_written(bound, before, once)
        written = [name for name, x in self.leaves.items() if not torch.equal(x.detach(), weights[name])]
        if written and not self.leaves[written[0]].requires_grad:
            what = "which only `observe`, or the framework, may do; keep what changes outside the loss"
            raise refusal(algo, "loss", f"changes the buffer {written[0]}, {what}")
        if written:
            what = "in place, which only the optimizer may do; return a penalty instead"
            needles = "_(", "+=", "-=", "*=", ".data", "policy.parameters"
            raise refusal(algo, "loss", f"modifies the policy's parameters {what}", *needles)
        grads = self._gradients(loss)
        if again is not None:
            require_same_names(algo, metrics, again[0][1])
            now = *again[0], self._gradients(again[0][0])
            found, new = (tree_flatten(each)[0] for each in ((loss, metrics, grads), now))
            if not same_outputs(found, new, on_cuda=loss.is_cuda):
                raise refusal(algo, "loss", NOT_REPEATABLE, *CHANGING)
        self._warn_if_actor_untrained(grads)
        self._warn_if_module_untrained(grads)
        warn_if_network_is_kept(self.algo, loss, self.leaves.values())
        self._warn_if_dummy_rows_count(bound)
        self._warn_if_coefficient_unused(loss, grads)
        self.ran = True
        return metrics | {LOSS: loss, GRAD_NORM: loss.abs(), EXPLAINED_VARIANCE: torch.zeros_like(loss)}

    def _call(self, bound: Algorithm, batch: Batch) -> Any:
        with no_global_randomness("the loss"), torch.enable_grad():
            return bound.loss(Policy(self.network, self.leaves, batch.key, self.average), copied(batch))

    def call_or_none(self, bound: Algorithm, batch: Batch) -> tuple[Any] | None:
        """The loss's result in a tuple; None if it failed on synthetic values."""
        return none_if_synthetic(self.algo, "loss", lambda: self._call(bound, batch))

    def _gradients(self, loss: Tensor) -> list[Tensor | None]:
        if not self.learnt:
            return []
        try:
            return self._gradients_of(loss)
        except BdbQuit:
            raise
        except Exception as error:  # in a user's backward, or of a tensor changed in place
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                # once more to locate it
                with torch.autograd.detect_anomaly(check_nan=False), contextlib.suppress(Exception):
                    self._gradients_of(self._call(self.algo.bind(self.coefficients), self.batch)[0])
            where = where_gradient_failed(error, [str(warning.message) for warning in caught], self.algo)
            what = f"its gradient fails: {describe_error(error)}"
            raise ObjectiveError(f"{where}: {type(self.algo).__name__}.loss: {what}") from error

    def _gradients_of(self, output: Tensor) -> list[Tensor | None]:
        if not output.requires_grad:
            return [None] * len(self.learnt)
        learnt = list(self.learnt.values())  # the graph is retained, as torsos are shared
        return list(torch.autograd.grad(output.sum(), learnt, allow_unused=True, retain_graph=True))

    def _require_nothing_written(self, bound: Algorithm, before: Held, once: Held) -> None:
        """Refuse a loss that keeps state between calls; lazy initialization is fine."""
        twice, fresh = _held(bound), self.algo.bind(self.coefficients)
        changed = [at for at in twice if twice[at] != once.get(at)]
        made = [at for at in once if once[at] != before.get(at) and not at[0] and at not in changed]
        if made and self.call_or_none(fresh, different_rows(self.batch)) is not None:
            by_rows = _held(fresh)  # state that depends on the rows is a cached result
            changed += [at for at in made if by_rows.get(at) != once[at]]
        for owner, name in changed:
            needle = name if owner else f"self.{name}"
            if owner:
                what = f"changes {name} of {owner}, which all agents share and no checkpoint holds"
            elif isinstance(bound._attributes()[name], STREAMS):
                why = "whose state all agents share; draw with policy.rand_like(x) or randn_like(x)"
                raise refusal(self.algo, "loss", f"draws from self.{name}, {why}", needle)
            else:
                what = f"writes self.{name}, which is lost: it is called on a per-agent copy"
            remedy = "return a metric, keep it in adapt(metrics) or observe(rollout), and return it from coefficients()"
            writes = [needle + how for how in (" +=", " -=", " *=", " =", "[", ".append(", ".update(", ".add(")]
            needles = *writes, needle, *(() if owner else quoted(name))
            raise refusal(self.algo, "loss", f"{what}, and not at all once compiled; {remedy}", *needles)

    def _warn_if_coefficient_unused(self, loss: Tensor, grads: list[Tensor | None]) -> None:
        """Warn about a coefficient whose term has no gradient, as a detached penalty.

        It changes the loss but no gradient, by an amount that depends on the rows, unlike a target or a threshold.
        """
        if type(self.algo).__module__.startswith("rlexp."):
            return

        def loss_of(values: dict[str, Tensor], batch: Batch) -> Tensor:
            return self._call(self.algo.bind(values), batch)[0]

        others = different_rows(self.batch)
        for name, value in self.coefficients.items():
            nudged = self.coefficients | {name: value * 0.99}
            try:
                here = loss_of(nudged, self.batch)
                moved = (here - loss).detach()
                there = loss_of(nudged, others) - loss_of(self.coefficients, others)
                found = self._gradients_of(here)
            except BdbQuit:
                raise
            except Exception:  # due to the changed value
                continue
            depends_on_rows = moved.abs() > 1e-6 * loss.abs() and not torch.allclose(moved, there.detach(), rtol=0.1)
            if depends_on_rows and same_outputs(grads, found, on_cuda=loss.is_cuda):
                why = "changes the loss but none of its gradients: is its term detached, or computed under no_grad?"
                log.warning("%s", refusal(self.algo, "loss", f"{name} {why}", f"self.{name}"))

    def _warn_if_actor_untrained(self, grads: list[Tensor | None]) -> None:
        """Warn about a loss whose gradient reaches none of the parameters that only the actor has."""
        reached = self._names(grads)
        if self.learnt and not reached:
            require_gradient(self.algo, torch.zeros(()))
        with torch.enable_grad():
            params, values = Policy(self.network, self.leaves)(self.batch._replace(obs=self.batch.obs[:1].clone()))
        actors = self._names(self._gradients_of(params)) - self._names(self._gradients_of(values))
        if actors and not reached & actors:
            why = "trains the critic only: no gradient reaches the actor, so the policy does not change"
            log.warning("%s: %s.loss %s", where_defined(self.algo, "loss", "return"), type(self.algo).__name__, why)

    def _warn_if_module_untrained(self, grads: list[Tensor | None]) -> None:
        """Warn about modules of the objective with parameters to train, of which the gradient reaches none."""
        parts = {name: name.split(".")[1] for name in self.learnt if name.startswith(f"{OF_OBJECTIVE}.")}
        for part in sorted({*parts.values()} - {parts.get(name) for name in self._names(grads)}):
            what = f"brings {part!r}, which no loss trains; add its term, or .requires_grad_(False)"
            log.warning("%s", refusal(self.algo, "modules", what, *quoted(part)))

    def _warn_if_dummy_rows_count(self, bound: Algorithm) -> None:
        """Warn about a loss that changes with rows of weight 0."""
        if type(self.algo).__module__.startswith("rlexp."):
            return
        rows = torch.arange(len(self.batch.weights), device=self.batch.weights.device)
        weights = self.batch.weights * (rows % 3 != 1)
        instead = torch.where(weights > 0, rows, weights.argmax())
        batch = self.batch._replace(weights=weights)
        found = self.call_or_none(bound, batch)
        other = self.call_or_none(bound, batch.map_rows(lambda x: x[instead])._replace(weights=weights))
        if found and other and not torch.allclose(found[0][0], other[0][0], rtol=1e-4, atol=1e-6, equal_nan=True):
            what = "depends on rows of weight 0, the dummy steps of resets; use weighted_mean(x, batch.weights)"
            log.warning("%s", refusal(self.algo, "loss", what, ".mean()", "mean(", ".sum()", "return"))

    def _names(self, grads: list[Tensor | None]) -> set[str]:
        return {name for name, grad in zip(self.learnt, grads, strict=True) if grad is not None}
