"""A loss tried for one agent, on a minibatch that is made up: what it gives, its gradient, what it writes.

An exception that may be of the made-up numbers alone proves nothing: the first real update tells it.
"""

import contextlib
import logging
import random
import warnings
from bdb import BdbQuit
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from rlexp.algos.base import Algorithm, Batch
from rlexp.digest import digest
from rlexp.errors import ObjectiveError, UserError
from rlexp.made_up import copied, other
from rlexp.networks.checks import no_global_randomness
from rlexp.outputs import ANOTHER, require_apart, require_gradient, require_loss, require_same_names, same
from rlexp.policy import ActorCritic, Policy
from rlexp.whereabouts import CHANGING, is_mistake, named, refusal, where_defined, where_undone
from rlexp.whose import raised

log = logging.getLogger(__name__)

STREAMS = (torch.Generator, np.random.Generator, random.Random)
Result = TypeVar("Result")


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


class Trial:
    """A loss tried for one agent."""

    def __init__(
        self, algo: Algorithm, networks: list[ActorCritic], batch: Batch, coefficients: dict[str, Tensor]
    ) -> None:
        self.algo, self.network, self.batch, self.coefficients = algo, networks[0], batch, coefficients
        self.leaves = {name: x.detach() for name, x in self.network.named_buffers()}
        for name, x in self.network.named_parameters():
            self.leaves[name] = x.detach().clone().requires_grad_(x.requires_grad)
        self.learnt = {name: x for name, x in self.leaves.items() if x.requires_grad}
        self.ran = False

    def run(self, observed: dict[str, Tensor]) -> None:
        """Refuse a loss that is none."""
        algo, bound = self.algo, self.algo.bind(self.coefficients)
        before = {name: digest(value, opaque=False) for name, value in bound._attributes().items()}
        weights = {name: x.detach().clone() for name, x in self.leaves.items()}
        policy = Policy(self.network, self.leaves, self.batch.key)
        given = unless_made_up(algo, "loss", lambda: (self._call(bound, policy, self.batch),))
        if given is None:
            return
        require_loss(algo, given[0])
        loss, metrics = given[0]
        require_gradient(algo, loss)
        require_apart(algo, observed, metrics)
        self._require_nothing_written(bound, before)
        if not all(torch.equal(x, weights[name]) for name, x in self.leaves.items()):
            what = "writes in place on the policy's parameters, which the optimizer alone moves; give a penalty instead"
            raise refusal(algo, "loss", what, "_(", "+=", "-=", "*=", ".data", "policy.parameters")
        grads = self._gradients(loss)
        again = unless_made_up(algo, "loss", lambda: (self._once_more(self.batch)[1],))
        if again is not None:
            require_same_names(algo, metrics, again[0][1])
            found, new = (
                tree_flatten((loss, metrics, grads))[0],
                tree_flatten((*again[0], self._gradients(again[0][0])))[0],
            )
            if not same(found, new, on_cuda=loss.is_cuda):
                raise refusal(algo, "loss", ANOTHER, *CHANGING)
        self._tell_unmoved(grads)
        self.ran = True

    def _call(self, bound: Algorithm, policy: Policy, batch: Batch) -> Any:
        with no_global_randomness("the loss"), torch.enable_grad():
            return bound.loss(policy, copied(batch))

    def _once_more(self, batch: Batch) -> tuple[Algorithm, Any]:
        """The copy that is called, and what it gives."""
        bound = self.algo.bind(self.coefficients)
        return bound, self._call(bound, Policy(self.network, self.leaves, batch.key), batch)

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
                    self._gradients_of(self._once_more(self.batch)[1][0])
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

    def _require_nothing_written(self, bound: Algorithm, before: dict[str, str]) -> None:
        now = {name: digest(value, opaque=False) for name, value in bound._attributes().items()}
        changed = [name for name in now if now[name] != before.get(name)]
        new = [name for name in changed if name not in before]
        if new:  # what is made when it is first needed is fine where it is the same for all rows
            once_more = unless_made_up(self.algo, "loss", lambda: self._once_more(other(self.batch)))
            fresh = {} if once_more is None else once_more[0]._attributes()
            fixed = {name: digest(value, opaque=False) for name, value in fresh.items()}
            changed = [name for name in changed if name not in new or fixed.get(name) != now[name]]
        for name in changed:
            needles = (f"self.{name}", f'"{name}"', f"'{name}'")
            if isinstance(bound._attributes()[name], STREAMS):
                what = (
                    f"draws from self.{name}, whose state is no agent's own; policy.rand_like(x) and randn_like(x) draw"
                )
            else:
                what = (
                    f"writes self.{name}, which is lost: it is called on a copy, for one agent of several, and not at "
                    f"all once it is compiled; return a metric and keep it in adapt(metrics), or in observe(rollout)"
                )
            raise refusal(self.algo, "loss", what, *needles)

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
