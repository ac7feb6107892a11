"""Checks an objective's `state_dict`: a copy restored from it must behave the same as the original."""

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
from rlexp.checks.location import located_errors, where_defined
from rlexp.checks.loss import none_if_synthetic
from rlexp.data import Rollout, RunSpec
from rlexp.plain.digest import digest

log = logging.getLogger(__name__)


def check_resume(
    algo: Algorithm,
    twin: Algorithm,
    specs: tuple[RunSpec, RunSpec],
    metrics: dict[str, Tensor],
    make_rollout: Callable[[], Rollout],
) -> None:
    """Warn about state of an objective that a resumed run would lose.

    Args:
        algo: has observed a rollout.
        twin: prepared identically; loads the state of `algo`.
        specs: passed to `prepare` of each.
        metrics: of an update (A,).
        make_rollout: makes the next rollout, always the same.

    Raises:
        ObjectiveError: `load_state_dict` fails on the result of `state_dict`.
    """

    def copied(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.clone() for name, x in metrics.items()}

    def update(one: Algorithm, spec: RunSpec) -> bool:
        one.observe(make_rollout())
        one.coefficients(0.5, spec.num_agents, spec.device)
        one.replay(one.epochs * one.minibatches)
        one.adapt(copied(metrics))
        return True

    def adapt() -> bool:
        algo.adapt(copied(metrics))
        return True

    if not none_if_synthetic(algo, "adapt", adapt):
        return
    with located_errors(algo, "state_dict"):
        state = copy.deepcopy(algo.state_dict())
    with located_errors(algo, "load_state_dict"):
        twin.load_state_dict(state)
    for stream, other in zip(*(spec.streams for spec in specs), strict=True):
        other.load_state_dict(stream.state_dict())
    for one, spec in ((algo, specs[0]), (twin, specs[1])):
        if not none_if_synthetic(one, "observe", functools.partial(update, one, spec)):
            return
    restored = twin._attributes()
    for name, value in algo._attributes().items():
        if dict(_leaves(value)) != dict(_leaves(restored.get(name))):
            log.warning(
                "%s: algo.%s changes during training but is not saved by state_dict(), or not restored by "
                "load_state_dict(): a resumed run would reset it",
                where_defined(algo, "state_dict"),
                name,
            )


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Digests of a value's leaves by path, regardless of the order of names and of aliasing."""
    if isinstance(value, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
        value = value.state_dict()
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list | tuple | deque):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, digest(value.item() if isinstance(value, np.generic) else value, opaque=False)
