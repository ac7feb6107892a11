"""A resumed run, rehearsed: an objective goes on from what another's `state_dict` gives, and both see the same."""

import copy
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlexp.algos.base import Algorithm
from rlexp.checks.location import named, where_defined
from rlexp.checks.loss import unless_made_up
from rlexp.data import Rollout, RunSpec
from rlexp.plain.digest import digest

log = logging.getLogger(__name__)


def rehearse(
    algo: Algorithm,
    twin: Algorithm,
    specs: tuple[RunSpec, RunSpec],
    metrics: dict[str, Tensor],
    make_rollout: Callable[[], Rollout],
) -> None:
    """Tell of what an objective keeps from update to update and a resumed run would lose.

    Args:
        algo: has observed a rollout.
        twin: is prepared, and takes up the other's state.
        specs: that they were prepared with.
        metrics: of an update (A,).
        make_rollout: makes the next one, always the same.

    Raises:
        ObjectiveError: `load_state_dict` cannot use what `state_dict` gives.
    """

    def copied(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.clone() for name, x in metrics.items()}

    def update(own: Algorithm, spec: RunSpec) -> bool:
        own.observe(make_rollout())
        own.coefficients(0.5, spec.num_agents, spec.device)
        own.replay(own.epochs * own.minibatches)
        own.adapt(copied(metrics))
        return True

    def adapt() -> bool:
        algo.adapt(copied(metrics))
        return True

    if not unless_made_up(algo, "adapt", adapt):
        return
    with named(algo, "state_dict"):
        state = copy.deepcopy(algo.state_dict())
    with named(algo, "load_state_dict"):
        twin.load_state_dict(state)
    for one, other in zip(*(spec.streams for spec in specs), strict=True):
        other.load_state_dict(one.state_dict())
    for own, spec in ((algo, specs[0]), (twin, specs[1])):
        if not unless_made_up(own, "observe", functools.partial(update, own, spec)):
            return
    theirs = twin._attributes()
    for name, value in algo._attributes().items():
        if dict(_leaves(value)) != dict(_leaves(theirs.get(name))):
            log.warning(
                "%s: algo.%s changes, and state_dict() does not hold it, or load_state_dict() does not take it up: a "
                "run that is resumed starts it anew",
                where_defined(algo, "state_dict"),
                name,
            )


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """What a value holds, by its place: neither the order of names counts nor who else holds the same."""
    if isinstance(value, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
        value = value.state_dict()
    if isinstance(value, Mapping):
        for key, own in value.items():
            yield from _leaves(own, (*path, str(key)))
    elif isinstance(value, list | tuple | deque):
        for number, own in enumerate(value):
            yield from _leaves(own, (*path, str(number)))
    else:
        yield path, digest(value.item() if isinstance(value, np.generic) else value, opaque=False)
