"""Verifies compiled updates: now and then an update is also made eagerly, and the results are compared.

A graph is traced once. Anything else that a loss or an optimizer reads, such as a global number, the length of a list
or a NumPy random stream, is a constant in it; anything they write besides tensors is written once, while tracing.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlexp.compiling.compile import CudaGraph, Graph
from rlexp.errors import ObjectiveError

NEAR = 1e-3  # tolerance for losses, norms and state, relative to their size or change; rounding stays below
NEAR_PARAMETERS = 5e-2  # the same for parameters, whose change may depend on the sign of gradients near 0
PARAMETERS = ("", "average")  # keys of these, and of averages of them
FAR = 0.1  # rounding cannot explain this, even if the code is unchanged


class Twin:
    """Parameters and optimizer state before and after an eager minibatch, for comparison with a compiled one.

    Args:
        params: by name.
        states: of the optimizer, one per parameter.
    """

    def __init__(self, params: Mapping[str, Tensor], states: Sequence[Mapping[str, Tensor]]) -> None:
        keys = sorted({key for state in states for key in state})
        self.tensors: dict[str, list[Tensor]] = {"": [param.detach() for param in params.values()]}
        self.tensors |= {key: [state[key] for state in states if key in state] for key in keys}
        self.before = self._copy()

    def _copy(self) -> dict[str, list[Tensor]]:
        return {key: [x.clone() for x in tensors] for key, tensors in self.tensors.items()}

    @torch.no_grad()
    def remember(self, metrics: Tensor) -> None:
        """Store the result of an eager minibatch, and restore the tensors before it."""
        self.metrics, self.eager = metrics.clone(), self._copy()
        for key, tensors in self.tensors.items():
            for x, old in zip(tensors, self.before[key], strict=True):
                x.copy_(old)

    @torch.no_grad()
    def use_eager(self) -> Tensor:
        """Set the tensors to the eager result. Returns its metrics."""
        for key, tensors in self.tensors.items():
            for x, new in zip(tensors, self.eager[key], strict=True):
                x.copy_(new)
        return self.metrics

    def _is_per_agent(self, x: Tensor) -> bool:
        """Whether a parameter, or state of its shape, is stacked (a, ...); a step count is shared."""
        return self.metrics.shape[1] > 1 and x.dim() > 0

    def _finite_agents(self) -> Tensor:
        """Whether each agent's eager loss, gradient norm, parameters and state are finite (a,); if none is, all."""
        finite = self.metrics[-2:].isfinite().all(0)
        for tensors in self.eager.values():
            for x in tensors:
                if self._is_per_agent(x):
                    finite &= x.isfinite().flatten(1).all(1) if x.dim() > 1 else x.isfinite()
        return finite | ~finite.any()

    def distance(self, metrics: Tensor) -> float:
        """Difference of a compiled minibatch's result from the eager one, in units of the tolerance.

        metrics: (metrics, a); the last two are the loss and the gradient norm. Agents of which an eager number is not
        finite have diverged, or do now, and are left out, unless all have.
        """
        sound = self._finite_agents()
        ours, theirs = metrics[-2:, sound], self.metrics[-2:, sound]
        if not torch.equal(ours.isfinite(), theirs.isfinite()):
            return float("inf")
        loss, norm = (ours - theirs).abs().nan_to_num(0.0)
        size = theirs.abs().nan_to_num(0.0)
        far = [(loss / (size[0] + 1.0)).max() / NEAR, (norm / (size[1] + 1e-6)).max() / NEAR]
        for key, tensors in self.tensors.items():
            before, eager, compiled = (
                [x[sound].double() if self._is_per_agent(x) else x.double() for x in each]
                for each in (self.before[key], self.eager[key], tensors)
            )
            moved, apart = (
                torch.stack([(x - y).square().sum() for x, y in zip(xs, ys, strict=True)]).sum().sqrt()
                for xs, ys in ((eager, before), (compiled, eager))
            )
            length = torch.stack([x.square().sum() for x in eager]).sum().sqrt()
            far.append(apart / (moved + 1e-6 * length + 1e-12) / (NEAR_PARAMETERS if key in PARAMETERS else NEAR))
        return float(torch.stack([x.double() for x in far]).nan_to_num(0.0).max())


def is_faithful(graph: Graph | CudaGraph, distance: float, name: str, function: Any, *args: Any) -> bool:
    """Whether a graph agrees with eager code up to rounding; False: a compiler bug.

    Args:
        graph: that was run.
        distance: from the eager minibatch; see `Twin.distance`.
        name: of the objective's class.
        function: from which the graph was traced.
        args: its arguments.

    Raises:
        ObjectiveError: the code traces differently now; names the first constant that changed, if any.
    """
    if distance <= 1.0:
        return True
    difference = ""
    if isinstance(graph, Graph):
        now = Graph(function, *args)
        if now.key == graph.key:
            return distance * NEAR < FAR  # rounding, or a compiler bug
        difference = _difference(graph.code, now.code)
    elif distance * NEAR < FAR:
        return True
    raise ObjectiveError(
        f"{name}: the compiled update differs from its code{difference}. Whatever a loss reads besides its tensor "
        f"arguments is fixed when it is compiled, and so is what it writes: make changing values Scheduled, or return "
        f"them from coefficients(), as algos/ppo_kl.py does with beta; or use compile=false"
    )


def _difference(before: str, now: str) -> str:
    """Describes the first number in which two traces differ; empty if they differ elsewhere."""
    old, new = before.splitlines(), now.splitlines()
    for tag, i, j, m, n in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "replace" and j - i == n - m:
            for one, other in zip(old[i:j], new[m:n], strict=True):
                numbers = [re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e-?\d+)?", line) for line in (one, other)]
                for x, y in zip(*numbers, strict=False):
                    if x != y:
                        return f": a number that was {x} is now {y}"
    return ""
