"""One minibatch of an update: rows, loss, gradient, clipping, optimizer step; eager, or to be compiled."""

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.metric_names import GRAD_NORM, LOSS
from rlexp.checks.hook_outputs import NOT_REPEATABLE, require_loss, require_same_names, same_outputs
from rlexp.checks.location import CHANGING, located_errors, refusal
from rlexp.checks.loss_reads import Reads
from rlexp.compiling.graphs import Graphs
from rlexp.data import Batch
from rlexp.errors import ObjectiveError
from rlexp.networks.actor_critic import Policy
from rlexp.seeding import no_global_randomness
from rlexp.training.agents import Agents
from rlexp.training.minibatches import Inputs
from rlexp.training.optimizer_state import AVERAGE
from rlexp.training.ranks import Ranks


class MinibatchStep:
    """Moves agents by the gradient of the algorithm's loss on one minibatch.

    Args:
        algo: the objective and its hyperparameters.
        ranks: that share minibatches.
        verify_loss: call the loss twice before the first minibatch, and require equal results.
    """

    def __init__(self, algo: Algorithm, ranks: Ranks, *, verify_loss: bool) -> None:
        self.algo, self.ranks, self.verify_loss = algo, ranks, verify_loss
        self.metric_names: list[str] = []
        self.reads = Reads()  # attributes of the algorithm that its loss reads

    def bound(
        self, agents: Agents, graphs: Graphs | None, inputs: Inputs, number: Tensor, last: bool
    ) -> Callable[[Tensor], Tensor]:
        """`minibatch` as a function of the minibatch's number (1,), which returns metrics (metrics, a).

        graphs: where it is compiled; number: of any minibatch; last: of the run's last update.
        """
        lr = agents.lr

        def eager(number: Tensor) -> Tensor:
            if self.verify_loss and not self.metric_names:
                self._verify_loss(agents, inputs, number)
            try:
                return self.minibatch(agents, agents.params, agents.states, agents.optimizer.step, lr, inputs, number)
            except Exception as error:
                if "loss" in {frame.name for frame in traceback.extract_tb(error.__traceback__)}:
                    with located_errors(self.algo, "loss"):
                        raise
                raise

        if graphs is None:
            return eager
        traceable, *arguments = self.traceable(agents, inputs)
        return graphs.update(eager, traceable, tuple(arguments), number, last=last)

    def minibatch(
        self,
        agents: Agents,
        params: dict[str, Tensor],
        states: Callable[[], list[dict[str, Tensor]]],
        optimizer_step: Callable[[], Any],
        lr: float | Tensor,
        inputs: Inputs,
        number: Tensor,
    ) -> Tensor:
        """One minibatch: rows, loss, gradient, clipping, optimizer step. Returns metrics (metrics, a).

        params, states: updated by `optimizer_step` from gradients, at rate `lr`. number: of the minibatch, (1,).
        """
        batch = inputs.rows(number, agents.size, self.ranks)
        gradient, decay = partial(self._gradient, agents), self.algo.average_decay
        averages = {} if decay is None else agents.averages(params, states())
        grads, metrics = agents.each(gradient, (params, inputs.buffers, averages), batch, inputs.coefficients)
        if self.ranks.size > 1:  # of all rows, so that they are clipped as one process does
            names = sorted(metrics)  # a loss of one agent may return them in another order on another rank
            means = self.ranks.mean([*grads, *(metrics[name] for name in names)])
            of_all = dict(zip(names, means[len(grads) :], strict=True))
            grads, metrics = means[: len(grads)], {name: of_all[name] for name in metrics}
        limit = self.algo.max_grad_norm
        self.reads.note("max_grad_norm", limit)  # a constant in a graph, like everything that the loss reads
        grads, norm = self._clip(grads, limit, agents)
        before = averages if not averages or AVERAGE in states()[0] else {n: x.clone() for n, x in averages.items()}
        agents.step(params, grads, optimizer_step, lr, inputs.lr_scale)
        if decay is not None:
            self.reads.note("average_decay", decay)
            agents.average(params, states(), list(before.values()), decay)
        metrics = metrics | {GRAD_NORM: norm}  # the last two, with the loss, are also used to verify graphs
        if self.metric_names and list(metrics) != self.metric_names:
            require_same_names(self.algo, self.metric_names, metrics)
            metrics = {name: metrics[name] for name in self.metric_names}
        self.metric_names = list(metrics)
        return torch.stack([value.detach() for value in metrics.values()]).reshape(len(metrics), agents.size)

    @staticmethod
    def _clip(grads: list[Tensor], limit: float | None, agents: Agents) -> tuple[list[Tensor], Tensor]:
        """Gradients scaled to a norm of at most `limit`, agent by agent, and the norms before (a,)."""
        # not lifted by vmap, as a sum in another order would round differently
        squares = [g.square().sum() if agents.single else g.reshape(agents.size, -1).square().sum(1) for g in grads]
        norm = torch.stack(squares).sum(0).sqrt()  # () for one agent, whose gradients have no axis a
        if limit is None:
            return grads, norm
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        axes = 0 if agents.single else 1
        return [g * scale.reshape(scale.shape + (1,) * (g.dim() - axes)) for g in grads], norm

    def _gradient(
        self,
        agents: Agents,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        averages: dict[str, Tensor],
        batch: Batch,
        coefficients: dict[str, Tensor],
    ) -> tuple[list[Tensor], Metrics]:
        """One agent's gradient of the loss, and metrics."""

        def loss_of(
            params: dict[str, Tensor],
            buffers: dict[str, Tensor],
            averages: dict[str, Tensor],
            batch: Batch,
            coefficients: dict[str, Tensor],
        ) -> tuple[Tensor, Metrics]:
            algo = self.reads.watch(self.algo.bind(coefficients))
            rows = self.ranks.share(len(batch.weights) * self.ranks.size)
            result = algo.loss(Policy(agents.network, params | buffers, batch.key, averages, rows), batch)
            if not self.metric_names:  # the first call
                require_loss(self.algo, result)
            return result

        grads, loss, metrics = agents.gradient(loss_of, params, buffers, averages, batch, coefficients)
        return grads, metrics | {LOSS: loss}

    def traceable(self, agents: Agents, inputs: Inputs) -> tuple[Any, ...]:
        """`minibatch` as a function of tensors alone, and its arguments except the number of the minibatch."""
        lr = torch.tensor(agents.lr, device=agents.device)
        return partial(self._recorded, agents), agents.params, agents.states(), lr, inputs

    def _recorded(
        self,
        agents: Agents,
        params: dict[str, Tensor],
        states: list[dict[str, Tensor]],
        lr: Tensor,
        inputs: Inputs,
        number: Tensor,
    ) -> tuple[Tensor, ...]:
        """`minibatch` with a temporary optimizer over these parameters and states."""
        step = agents.recorded_step(params, states, lr)
        return (self.minibatch(agents, params, lambda: states, step, lr, inputs, number),)

    def _verify_loss(self, agents: Agents, inputs: Inputs, number: Tensor) -> None:
        """Call the loss twice on the same rows and require equal results.

        Raises:
            ObjectiveError: it draws random numbers, counts its calls, or cannot be stacked.
        """
        found = []
        gradient = partial(self._gradient, agents)
        averages = {} if self.algo.average_decay is None else agents.averages(agents.params, agents.states())
        try:
            for _ in range(2):
                batch = inputs.rows(number, agents.size, self.ranks)  # each time, as the loss may modify its rows
                with located_errors(self.algo, "loss"), no_global_randomness("the loss"):
                    tensors = agents.params, inputs.buffers, averages
                    result = agents.each(gradient, tensors, batch, inputs.coefficients)
                    found.append(tree_flatten(result)[0])
        except ObjectiveError as error:
            if agents.single or "vmap" not in str(error):
                raise
            raise ObjectiveError(
                f"{error}: it cannot be vectorised over agents; batching=loop trains them one after the other"
            ) from error
        if not same_outputs(found[0], found[1], on_cuda=agents.device.type == "cuda"):
            raise refusal(self.algo, "loss", NOT_REPEATABLE, *CHANGING)

    def approx_kl(self, metrics: Tensor) -> Tensor:
        """The metric of the only agent, by which `algo.target_kl` stops an update."""
        if "approx_kl" not in self.metric_names:
            raise ObjectiveError(
                f"algo.target_kl={self.algo.target_kl}: needs the metric approx_kl, which "
                f"{type(self.algo).__name__}.loss does not return; return it, or set target_kl=null"
            )
        # of one agent, as agents with target_kl are not stacked; reading it is a device synchronisation per epoch
        return metrics[self.metric_names.index("approx_kl"), 0]
