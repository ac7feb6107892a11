"""Whether a compiled update is still the one that its code makes: now and then both are made, and compared.

A graph is traced once. Whatever else a loss or an optimizer reads that changes later, as a global number, the length of
a list, a stream of NumPy's, stays in it as it was; what they write is written once and never again.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlexp.compiling.compile import CudaGraph, Graph
from rlexp.errors import ObjectiveError

NEAR = 1e-3  # difference of losses, norms and state, relative to their size or change; rounding alone makes less
NEAR_PARAMETERS = 5e-2  # of changes of parameters, which may go by the sign of gradients near 0
FAR = 0.1  # which no rounding makes, whatever the code says


class Twin:
    """Parameters and optimizer state as they are, and what an eager minibatch would make of them.

    Args:
        params: by name.
        states: of the optimizer, one a parameter.
    """

    def __init__(self, params: Mapping[str, Tensor], states: Sequence[Mapping[str, Tensor]]) -> None:
        keys = sorted({key for state in states for key in state})
        self.tensors: dict[str, list[Tensor]] = {"": [param.detach() for param in params.values()]}
        self.tensors |= {key: [state[key] for state in states if key in state] for key in keys}
        self.before = self._copy()

    def _copy(self) -> dict[str, list[Tensor]]:
        return {key: [x.clone() for x in own] for key, own in self.tensors.items()}

    @torch.no_grad()
    def remember(self, metrics: Tensor) -> None:
        """Note what an eager minibatch has made of them, and put them back."""
        self.metrics, self.eager = metrics.clone(), self._copy()
        for key, own in self.tensors.items():
            for x, old in zip(own, self.before[key], strict=True):
                x.copy_(old)

    @torch.no_grad()
    def use_eager(self) -> Tensor:
        """Set them to the eager minibatch's result. Returns its metrics."""
        for key, own in self.tensors.items():
            for x, new in zip(own, self.eager[key], strict=True):
                x.copy_(new)
        return self.metrics

    def distance(self, metrics: Tensor) -> float:
        """How far a compiled minibatch went from the eager one, in terms of what is near; 1 is too far.

        metrics: (metrics, a); the last two are the loss and the norm of its gradient.
        """
        if not torch.equal(metrics[-2:].isfinite(), self.metrics[-2:].isfinite()):
            return float("inf")
        loss, norm = (metrics[-2:] - self.metrics[-2:]).abs().nan_to_num(0.0)
        size = self.metrics[-2:].abs().nan_to_num(0.0)
        far = [(loss / (size[0] + 1.0)).max() / NEAR, (norm / (size[1] + 1e-6)).max() / NEAR]
        for key, own in self.tensors.items():
            moved, apart = (
                torch.stack([(x.double() - y.double()).square().sum() for x, y in zip(xs, ys, strict=True)])
                .sum()
                .sqrt()
                for xs, ys in ((self.eager[key], self.before[key]), (own, self.eager[key]))
            )
            length = torch.stack([x.double().square().sum() for x in self.eager[key]]).sum().sqrt()
            far.append(apart / (moved + 1e-6 * length + 1e-12) / (NEAR if key else NEAR_PARAMETERS))
        return float(torch.stack([x.double() for x in far]).nan_to_num(0.0).max())


def is_faithful(graph: Graph | CudaGraph, distance: float, who: str, function: Any, *args: Any) -> bool:
    """Whether a graph went the way of eager code but for rounding; False: it computes something else than its code.

    Args:
        graph: that was run.
        distance: how far it went from the eager minibatch; see `Twin.distance`.
        who: wrote the loss.
        function: what the graph was made of, and its arguments.
        args: the same.

    Raises:
        ObjectiveError: tells what is other in the code than when it was compiled, as far as it shows.
    """
    if distance <= 1.0:
        return True
    told = ""
    if isinstance(graph, Graph):
        now = Graph(function, *args)
        if now.key == graph.key:
            return distance * NEAR < FAR  # rounding, or a compiler's mistake
        told = _difference(graph.code, now.code)
    elif distance * NEAR < FAR:
        return True
    raise ObjectiveError(
        f"{who}: the compiled update has gone another way than its code does{told}. Whatever a loss reads that is no "
        f"tensor handed to it is fixed when it is compiled, and so is what it writes: declare what changes Scheduled, "
        f"or return it from coefficients(), as algos/ppo_kl.py does with its beta; compile=false runs the code as it is"
    )


def _difference(before: str, now: str) -> str:
    """The first number in which two traces differ, in words; nothing where they differ otherwise."""
    old, new = before.splitlines(), now.splitlines()
    for tag, i, j, m, n in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "replace" and j - i == n - m:
            for one, other in zip(old[i:j], new[m:n], strict=True):
                numbers = [re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e-?\d+)?", line) for line in (one, other)]
                for x, y in zip(*numbers, strict=False):
                    if x != y:
                        return f": a number that was {x} is {y}"
    return ""
