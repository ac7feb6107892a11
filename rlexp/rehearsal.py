"""A resumed run, rehearsed: an objective goes on from what another's `state_dict` gives, and both see the same."""

import copy
import functools
import logging
from collections.abc import Callable

from torch import Tensor

from rlexp.algos.base import Algorithm
from rlexp.digest import digest
from rlexp.rollout import Rollout, RunSpec
from rlexp.trial import unless_made_up
from rlexp.whereabouts import named

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

    def update(own: Algorithm, spec: RunSpec) -> bool:
        own.observe(make_rollout())
        own.coefficients(0.5, spec.num_agents, spec.device)
        own.replay(own.epochs * own.minibatches)
        own.adapt(metrics)
        return True

    def adapt() -> bool:
        algo.adapt(metrics)
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
        if digest(value, opaque=False) != digest(theirs.get(name), opaque=False):
            log.warning(
                "algo.%s changes, and state_dict() does not hold it: a run that is resumed starts it anew", name
            )
