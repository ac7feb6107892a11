"""What an objective keeps and should not: views of a rollout, and networks that nothing trains."""

import logging
from collections.abc import Iterable

from torch import Tensor, nn

from rlexp.algos.base import Algorithm
from rlexp.checks.apart import held
from rlexp.checks.location import refusal
from rlexp.data import Rollout
from rlexp.plain.attributes import leaves

log = logging.getLogger(__name__)


def warn_if_rollout_is_kept(algo: Algorithm, rollout: Rollout) -> None:
    """Warn about state to save that lies in the memory of a rollout, which the next one overwrites."""
    rows = sorted(held(rollout).items(), key=lambda each: each[1].numel())  # of views of one tensor the largest
    lent = {x.untyped_storage().data_ptr(): name for name, x in rows if x.numel()}
    for path, x in leaves(algo.state_dict()):
        if isinstance(x, Tensor) and (name := lent.get(x.untyped_storage().data_ptr())):
            what = f"keeps rollout.{name}, saved as {path}, which the next rollout overwrites; keep a copy, by .clone()"
            log.warning("%s", refusal(algo, "observe", what, f"rollout.{name}"))


def warn_if_network_is_kept(algo: Algorithm, loss: Tensor, learnt: Iterable[Tensor]) -> None:
    """Warn about parameters of the objective's own that the gradient reaches, and that no optimizer gets.

    learnt: parameters of the policy and of the objective's modules.
    """
    known, seen, todo = {id(x) for x in learnt}, set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(x := getattr(node, "variable", None), nn.Parameter) and id(x) not in known:
            what = "has a network that no optimizer gets, so it stays as it is; return it from modules(spaces) and "
            what += "call policy.module(name), or .requires_grad_(False)"
            log.warning("%s", refusal(algo, "loss", what, "](", "self."))
            return
        todo += [following for following, _ in node.next_functions]
