"""The compiled parts of training: acting, and the minibatch update.

The first update is always eager, as it creates the optimizer's state. From then on graphs act and update, even if
they are cached already, so that a run is computed the same way each time. Whatever does not compile stays eager.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from rlexp.compiling.compile import CudaGraph, Graph, LayoutError, Notes, compile_or_warn
from rlexp.compiling.verify import Twin, is_faithful
from rlexp.watch import Watch

log = logging.getLogger(__name__)

ACTING, UPDATE = "acting", "the minibatch update"  # names of graphs, in warnings and run.json

Step = Callable[[Tensor], Tensor]  # makes the minibatch update of a number (1,), and returns its metrics (metrics, a)


class Graphs:
    """Graphs of agents that are computed together.

    Args:
        watch: aborts compilation when the run is asked to stop.
        notes: shared by all graphs of a learner.
        name: of the objective's class.
        unrecordable: why the update cannot be part of a graph; empty: it can.
    """

    def __init__(self, watch: Watch, notes: Notes, name: str, unrecordable: str = "") -> None:
        self.watch, self.notes, self.name, self.unrecordable = watch, notes, name, unrecordable
        self.made: dict[str, Graph | CudaGraph | None] = {}  # None: could not be compiled
        self.pending_update: tuple[Any, ...] = ()  # its function and arguments, to be compiled beside acting
        self.seconds = 0.0  # spent compiling
        self.rollouts = 0  # learnt from by a graph
        self.warned_of_layout = False

    def _compile(self, functions: dict[str, tuple[Any, ...]]) -> None:
        began = time.perf_counter()
        self.made |= self.watch.call_or_stop(compile_or_warn, functions, self.notes, self.watch.raise_if_stopped)
        self.seconds += time.perf_counter() - began

    def acting(self, act: Callable[..., Any], tensors: dict[str, Tensor], slots: Sequence[Any]) -> list[Callable]:
        """``act(tensors, slot)`` of each slot, compiled, together with a pending update: both at the same time."""
        calls: list[Callable] = []
        for slot in slots:
            functions: dict[str, tuple[Any, ...]] = {}
            if ACTING not in self.made or isinstance(self.made[ACTING], CudaGraph):  # a CUDA graph is of one slot
                functions[ACTING] = (act, tensors, slot)
            if self.pending_update and not self.unrecordable:
                functions[UPDATE], self.pending_update = self.pending_update, ()
            if functions:
                self._compile(functions)
            graph = self.made[ACTING]
            calls.append(
                partial(act, tensors, slot) if graph is None else partial(graph.run, graph.leaves(tensors, slot))
            )
        return calls

    def other(self, name: str, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """``function(*args)``, compiled, or else eager; what it takes to compile is not in `seconds` and `notes`."""
        functions, notes = {name: (function, *args)}, Notes()
        graph = self.watch.call_or_stop(compile_or_warn, functions, notes, self.watch.raise_if_stopped)[name]
        return partial(function, *args) if graph is None else partial(graph.run, graph.leaves(*args))

    def _leave_update(self, why: str) -> None:
        self.notes.uncompiled[UPDATE], self.made[UPDATE] = why, None
        log.warning("%s runs uncompiled: %s", UPDATE, why)

    def update(
        self, eager: Step, function: Callable[..., Any], fixed: tuple[Any, ...], number: Tensor, *, last: bool
    ) -> Step:
        """The minibatch updates of one rollout, compiled.

        Args:
            eager: the same, uncompiled.
            function: the update as a function of tensors, called with `fixed` and the number of the minibatch.
            fixed: its arguments for this rollout; the first two are parameters by name and optimizer states.
            number: of the first minibatch.
            last: this is the run's last rollout.
        """
        if UPDATE not in self.made and self.unrecordable:
            self._leave_update(self.unrecordable)
        elif UPDATE not in self.made:
            self._compile({UPDATE: (function, *fixed, number)})
        graph = self.made[UPDATE]
        if graph is None:
            return eager
        try:
            leaves = graph.leaves(*fixed, number)[:-1]
        except LayoutError as error:
            if not self.warned_of_layout:
                log.warning("%s runs uncompiled where algo.replay returns other shapes: %s", UPDATE, str(error)[:120])
            self.warned_of_layout = True
            return eager

        def compiled(number: Tensor) -> Tensor:
            return graph.run([*leaves, number])[0]

        self.rollouts += 1
        if self.rollouts.bit_count() > 1 and not last:
            return compiled
        verified = False  # of rollouts 1, 2, 4, 8, ..., and the last, the first minibatch

        def verify_first(number: Tensor) -> Tensor:
            """The first minibatch is also made eagerly, and the results must agree."""
            nonlocal verified
            if verified:
                return compiled(number) if self.made[UPDATE] is not None else eager(number)
            verified, twin = True, Twin(*fixed[:2])
            twin.remember(eager(number))
            metrics = compiled(number)
            if is_faithful(graph, twin.distance(metrics), self.name, function, *fixed, number):
                return metrics
            self._leave_update("its graph computes something different from its code")
            return twin.use_eager()

        return verify_first
