"""Checks an objective's `state_dict`: a copy restored from it must behave the same as the original."""

import copy
import functools
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlexp.algos.base import Algorithm
from rlexp.checks.location import located_errors, where_defined
from rlexp.checks.loss import none_if_synthetic
from rlexp.data import Rollout, RunSpec
from rlexp.plain.attributes import leaves
from rlexp.plain.digest import digest

log = logging.getLogger(__name__)


def check_resume(
    algo: Algorithm,
    twin: Algorithm,
    specs: Sequence[RunSpec],
    metrics: dict[str, Tensor],
    make_rollout: Callable[[], Rollout],
) -> None:
    """Warn about state of an objective that a resumed run would lose.

    algo has observed a rollout; twin, prepared identically, loads its state. specs: passed to `prepare` of each;
    metrics: of an update (A,); make_rollout: makes the next rollout, always the same.

    Raises:
        ObjectiveError: `load_state_dict` fails on the result of `state_dict`.
    """

    def adapt(one: Algorithm) -> None:
        one.adapt({name: x.clone() for name, x in metrics.items()})

    def update(one: Algorithm, spec: RunSpec) -> None:
        one.observe(make_rollout())
        one.coefficients(0.5, spec.num_agents, spec.device)
        one.replay(one.epochs * one.minibatches)
        adapt(one)

    if not none_if_synthetic(algo, "adapt", lambda: adapt(algo)):
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
        if _digests(value) != _digests(restored.get(name)):
            how = "not saved by state_dict(), or not restored by load_state_dict(): a resumed run would reset it"
            log.warning("%s: algo.%s changes during training but is %s", where_defined(algo, "state_dict"), name, how)


def _digests(value: Any) -> dict[str, str]:
    """Digests of what is in a value, by path: the order of names, and what is the same object, do not count."""
    found: dict[str, str] = {}
    for path, leaf in leaves(value, kinds=(list, tuple, deque)):
        if isinstance(leaf, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
            found |= {path + below: each for below, each in _digests(leaf.state_dict()).items()}
        elif not isinstance(leaf, Mapping | list | tuple | deque) or leaf:
            found[path] = digest(leaf.item() if isinstance(leaf, np.generic) else leaf, opaque=False)
    return found
