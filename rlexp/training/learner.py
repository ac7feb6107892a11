"""The learner: networks and optimizers of all agents, and the update: epochs of minibatches over one rollout."""

import contextlib
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_map

from rlexp.algos.advantages import Advantages
from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.losses import explained_variance
from rlexp.algos.metric_names import EPOCHS, EXPLAINED_VARIANCE, GRAD_NORM, LOSS
from rlexp.algos.schedules import PerAgent, Schedule
from rlexp.checks.hook_outputs import (
    NOT_REPEATABLE,
    require_coefficients,
    require_loss,
    require_replay,
    require_same_names,
    same_outputs,
)
from rlexp.checks.location import CHANGING, located_errors, refusal
from rlexp.checks.loss_reads import Reads
from rlexp.compiling.compile import Notes
from rlexp.compiling.graphs import UPDATE, Graphs
from rlexp.data import Batch, Rollout
from rlexp.envs.classic_control import World
from rlexp.errors import ObjectiveError
from rlexp.networks.actor_critic import ActorCritic, Policy
from rlexp.seeding import AgentStreams, no_global_randomness
from rlexp.training.acting import Actor, Slot, in_turn
from rlexp.training.agents import Agents
from rlexp.training.minibatches import PADDED, Inputs, padded, rows_with_weight
from rlexp.training.optimizer_state import AVERAGE
from rlexp.training.policies import AllPolicies
from rlexp.training.ranks import Ranks
from rlexp.watch import Watch


class Learner:
    """Trains A agents, stacked or one after the other.

    Args:
        networks: one per agent.
        algo: the objective and its hyperparameters.
        make_optimizer: called with a list of tensors and ``lr=``.
        lr: learning rate as a function of training progress.
        streams: one per agent.
        stacked: train all agents as one computation.
        compiled: run acting and minibatch updates as compiled graphs.
        recordable: the optimizer's steps can be part of a graph; see `optimizers.Traits`.
        world: torch dynamics of environments whose step is fused with acting, if any.
        watch: aborts compilation when the run is asked to stop.
        most_epochs: that an update may have; default: those of the algorithm.
        verify_loss: call the loss twice before the first minibatch, and require equal results.
        ranks: that share minibatches.
    """

    def __init__(
        self,
        networks: list[ActorCritic],
        algo: Algorithm,
        make_optimizer: Callable[..., torch.optim.Optimizer],
        lr: Schedule | PerAgent,
        streams: list[AgentStreams],
        *,
        stacked: bool,
        compiled: bool,
        recordable: bool,
        world: World | None,
        watch: Watch,
        verify_loss: bool,
        most_epochs: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.algo, self.lr, self.streams, self.compiled, self.verify_loss = algo, lr, streams, compiled, verify_loss
        size = len(networks) if stacked else 1
        optimizer = partial(make_optimizer, lr=lr.highest or 1.0)  # some optimizers reject a rate of 0
        self.groups = [Agents(networks[k : k + size], optimizer, compiled) for k in range(0, len(networks), size)]
        self.device = self.groups[0].device
        self.notes = Notes()
        if compiled and self.ranks.size > 1:
            self.notes.uncompiled[UPDATE] = "processes average gradients within it"
        name = type(self.groups[0].optimizer).__name__
        unrecordable = "" if recordable else f"{name} uses more than parameters, gradients and tensors of its state"
        self.graphs = [Graphs(watch, self.notes, type(algo).__name__, unrecordable) for _ in self.groups]
        self.actor = Actor(self.groups, self.graphs, world)
        self.most_epochs = most_epochs or algo.epochs  # so that graphs have room for them
        self.updated = False  # whether an update has created the optimizers' state
        self.metric_names: list[str] = []
        self.reads = Reads()  # attributes of the algorithm that its loss reads

    @property
    def compiling(self) -> float:
        """Seconds spent compiling."""
        return sum(graphs.seconds for graphs in self.graphs)

    def _parts(self) -> list[tuple[Agents, slice]]:
        size = self.groups[0].size
        return [(group, slice(i * size, (i + 1) * size)) for i, group in enumerate(self.groups)]

    def acting(self, slots: list[Slot]) -> list[Callable[[], Any]]:
        """One call per slot, which acts on it; see `Actor.bind`."""
        return self.actor.bind(slots, compiled=self.compiled and self.updated)

    @torch.no_grad()
    def policy(self, obs: Tensor, tensors: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Distribution parameters (A, E, P) and values (A, E) of observations (A, E, ...).

        tensors: other parameters and buffers than the agents' own, as `tensors` returns them.
        """
        outputs = []
        for agents, part in self._parts():
            own = agents.params | agents.buffers
            if tensors is not None:
                own = {name: tensors[name][part].squeeze(0) if agents.single else tensors[name][part] for name in own}
            outputs.append(agents.policy(own, obs[part]))
        params, values = zip(*outputs, strict=True)
        return torch.cat(params), torch.cat(values)

    @property
    def policies(self) -> AllPolicies:
        """All agents' policies, for hooks of the objective."""
        return AllPolicies(self._parts())

    def lifted(
        self, name: str, function: Callable[[Agents, dict[str, Tensor], Any], tuple[Tensor, ...]], data: Any
    ) -> Callable[[], Any]:
        """``function(agents, tensors, part of data)`` of all groups of agents as one call, which may change the data.

        data: nested tensors (A, ...), the same at each call. Compiled where acting is; name: in warnings.
        """
        calls: list[Callable[[], Any]] = []
        for (agents, part), graphs in zip(self._parts(), self.graphs, strict=True):
            one, tensors = partial(function, agents), agents.params | agents.buffers
            share = tree_map(lambda x, part=part: x[part], data)
            is_compiled = self.compiled and self.updated
            calls.append(graphs.other(name, one, tensors, share) if is_compiled else partial(one, tensors, share))
        return calls[0] if len(calls) == 1 else partial(in_turn, calls)

    # The update ---------------------------------------------------------------------------------------------------

    def update(self, rollout: Rollout, targets: Advantages, progress: float, *, last: bool = False) -> Metrics:
        """Epochs × minibatches of the algorithm's loss on one rollout. Returns each agent's mean metrics (A,).

        progress: of the run, from 0 to 1; last: this is the run's last update.
        """
        algo, agents = self.algo, len(self.streams)
        first, minibatches = not self.metric_names, algo.epochs * algo.minibatches

        def hook(name: str) -> contextlib.ExitStack:
            stack = contextlib.ExitStack()
            stack.enter_context(located_errors(algo, name))
            if first:
                stack.enter_context(no_global_randomness(f"algo.{name}"))
            return stack

        with located_errors(algo, "coefficients"):
            coefficients = algo.coefficients(progress, agents, self.device)
        require_coefficients(algo, coefficients, agents)
        rates = np.broadcast_to(self.lr(progress), agents)
        data = self._rows(rollout, targets)  # (A, N, ...), N = T*E
        with hook("replay"):
            data = data._replace(replay=algo.replay(minibatches))
        require_replay(algo, data.replay, agents, minibatches)
        data = data._replace(key=torch.stack([self._keys(stream, minibatches) for stream in self.streams]))
        self.reads.require_same(algo)  # hooks such as `observe` may have changed an attribute
        order = torch.stack([self._order(stream, data.weights.shape[1]) for stream in self.streams])  # (A, epochs, N)
        if self.most_epochs > algo.epochs:  # rows that are not read, so that graphs are the same for any number
            most = self.most_epochs * algo.minibatches
            data = data._replace(**{name: tree_map(partial(padded, to=most), getattr(data, name)) for name in PADDED})
            order = padded(order, to=self.most_epochs)
        metrics: list[Metrics] = []
        for (group, part), graphs in zip(self._parts(), self.graphs, strict=True):
            group.set_rates(rates[part], per_agent=isinstance(self.lr, PerAgent))
            group_data, group_coefficients = tree_map(lambda x, part=part: x[part], (data, coefficients))
            metrics.append(self._epochs(group, graphs, group_data, order[part], group_coefficients, last))
        self.updated = True
        for others in metrics[1:]:
            require_same_names(algo, metrics[0], others)
        merged = {name: torch.cat([m[name] for m in metrics]) for name in metrics[0]}
        merged[EXPLAINED_VARIANCE] = vmap(explained_variance)(data.values, data.returns, data.weights)
        with hook("adapt"):
            algo.adapt(merged)
        self.reads.require_same(algo)
        return merged

    def _rows(self, rollout: Rollout, targets: Advantages) -> Batch:
        """A rollout's rows (A, T*E, ...); each dummy row is a copy of another one, of weight 0."""
        rows = rows_with_weight(rollout.weights)
        data = Batch.of(rollout, *targets).map_rows(lambda x: x.flatten(0, 2)[rows])
        if (rollout.steps == 0).any():  # an agent has only dummy rows, none of which may be read
            any_row = (rollout.weights.flatten(1).sum(1) > 0)[:, None]
            data = data.map_rows(
                lambda x: torch.where(any_row.reshape(-1, *[1] * (x.dim() - 1)), x, torch.zeros_like(x))
            )
        return data._replace(weights=rollout.weights.flatten(1))

    def _keys(self, stream: AgentStreams, minibatches: int) -> Tensor:
        """Random keys of an agent's minibatches (minibatches,)."""
        return torch.randint(2**62, (minibatches,), generator=stream.loss, device=self.device)

    def _order(self, stream: AgentStreams, rows: int) -> Tensor:
        """An agent's random order of its rows in each epoch (epochs, rows)."""
        epochs = range(self.algo.epochs)
        return torch.stack([torch.randperm(rows, generator=stream.order, device=self.device) for _ in epochs])

    def _epochs(
        self, agents: Agents, graphs: Graphs, data: Batch, order: Tensor, coefficients: dict[str, Tensor], last: bool
    ) -> Metrics:
        """All epochs over rows `data` (a, N, ...) in the order (a, epochs, N). Returns mean metrics (a,).

        N is divisible by the number of minibatches, which is checked when the run is configured.
        """
        rows = order.shape[2]
        minibatches, target_kl = self.algo.minibatches, self.algo.target_kl
        offset = torch.arange(agents.size, device=order.device)[:, None, None] * rows
        order = (order + offset).reshape(agents.size, self.most_epochs * minibatches, rows // minibatches)
        order = order.transpose(0, 1).flatten(1)  # (epochs * minibatches, a*B)
        flat = data.map_rows(lambda x: x.flatten(0, 1))
        inputs = Inputs(agents.buffers, coefficients, flat, order, agents.lr_scale)
        numbers = torch.arange(self.algo.epochs * minibatches, device=order.device).split(1)
        step = self._stepper(agents, graphs, inputs, numbers[0], last)
        total: Tensor | None = None
        done = 0
        for number in numbers:
            metrics = step(number)  # one minibatch: see `_minibatch`
            total = metrics if total is None else total + metrics
            done += 1
            if target_kl is not None and done % minibatches == 0 and self._approx_kl(metrics) > target_kl:
                break
        assert total is not None
        if not self.updated and self.compiled and self.ranks.size == 1:
            graphs.pending_update = (partial(self._traceable, agents), *self._arguments(agents, inputs), numbers[0])
        mean = dict(zip(self.metric_names, total / done, strict=True))
        if target_kl is not None:
            mean[EPOCHS] = torch.full_like(mean[LOSS], done / minibatches)
        return mean

    def _approx_kl(self, metrics: Tensor) -> Tensor:
        if "approx_kl" not in self.metric_names:
            raise ObjectiveError(
                f"algo.target_kl={self.algo.target_kl}: needs the metric approx_kl, which "
                f"{type(self.algo).__name__}.loss does not return; return it, or set target_kl=null"
            )
        # of one agent, as agents with target_kl are not stacked; reading it is a device synchronisation per epoch
        return metrics[self.metric_names.index("approx_kl"), 0]

    def _minibatch(
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

    # The update, eager and compiled -------------------------------------------------------------------------------

    def _stepper(
        self, agents: Agents, graphs: Graphs, inputs: Inputs, number: Tensor, last: bool
    ) -> Callable[[Tensor], Tensor]:
        """`_minibatch` as a function of the minibatch's number (1,), compiled from the second update on."""
        lr = agents.lr

        def eager(number: Tensor) -> Tensor:
            if self.verify_loss and not self.metric_names:
                self._verify_loss(agents, inputs, number)
            try:
                return self._minibatch(agents, agents.params, agents.states, agents.optimizer.step, lr, inputs, number)
            except Exception as error:
                if "loss" in {frame.name for frame in traceback.extract_tb(error.__traceback__)}:
                    with located_errors(self.algo, "loss"):
                        raise
                raise

        if not (self.compiled and self.updated) or self.ranks.size > 1:
            return eager
        arguments = self._arguments(agents, inputs)
        return graphs.update(eager, partial(self._traceable, agents), arguments, number, last=last)

    def _arguments(self, agents: Agents, inputs: Inputs) -> tuple[Any, ...]:
        """Arguments of `_traceable`, except the number of the minibatch."""
        return agents.params, agents.states(), torch.tensor(agents.lr, device=self.device), inputs

    def _traceable(
        self,
        agents: Agents,
        params: dict[str, Tensor],
        states: list[dict[str, Tensor]],
        lr: Tensor,
        inputs: Inputs,
        number: Tensor,
    ) -> tuple[Tensor, ...]:
        """`_minibatch` as a function of tensors alone, with a temporary optimizer over these parameters and states."""
        step = agents.recorded_step(params, states, lr)
        return (self._minibatch(agents, params, lambda: states, step, lr, inputs, number),)

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
        if not same_outputs(found[0], found[1], on_cuda=self.device.type == "cuda"):
            raise refusal(self.algo, "loss", NOT_REPEATABLE, *CHANGING)

    # State --------------------------------------------------------------------------------------------------------

    def health(self) -> Tensor:
        """Per agent (A,): finite if all of its parameters and statistics are."""
        return torch.cat([agents.health() for agents in self.groups])

    def normalize(self, rollout: Rollout) -> None:
        """Update running observation statistics with a rollout, where the network has any."""
        for agents, part in self._parts():
            agents.normalize(rollout.obs[part].flatten(1, 2), rollout.weights[part].flatten(1))

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of all agents, stacked: name -> (A, ...)."""
        each = [agents.tensors() for agents in self.groups]
        return {name: torch.cat([tensors[name] for tensors in each]) for name in each[0]}

    @torch.no_grad()
    def copy_agent(self, source: int, target: int) -> None:
        """Overwrite an agent's parameters and buffers, in place, with another's."""
        size = self.groups[0].size
        theirs = self.groups[source // size].tensors()
        for name, tensor in self.groups[target // size].tensors().items():
            tensor[target % size] = theirs[name][source % size]

    def state_dict(self) -> dict[str, Any]:
        """Parameters, buffers and optimizer states, all (A, ...), independent of how agents are grouped."""
        optimizer = tree_map(lambda *each: torch.cat(each), *[agents.optimizer_state() for agents in self.groups])
        return {"tensors": self.tensors(), "optimizer": optimizer, "updated": self.updated}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `tensors`."""
        for agents, part in self._parts():
            for name, tensor in agents.tensors().items():
                tensor.copy_(tensors[name][part])

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.load_tensors(state["tensors"])
        for agents, part in self._parts():
            agents.load_optimizer_state(tree_map(lambda x, part=part: x[part], state["optimizer"]))
        self.updated = state["updated"]
