"""The learner: networks and optimizers of all agents, and the update: epochs of minibatches over one rollout."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from rlexp.algos.advantages import Advantages
from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.losses import explained_variance
from rlexp.algos.metric_names import EPOCHS, EXPLAINED_VARIANCE, LOSS
from rlexp.algos.schedules import PerAgent, Schedule
from rlexp.checks.hook_outputs import (
    require_coefficients,
    require_replay,
    require_same_names,
)
from rlexp.checks.location import located_errors
from rlexp.compiling.compile import Notes
from rlexp.compiling.graphs import UPDATE, Graphs
from rlexp.data import Batch, Rollout
from rlexp.envs.classic_control import World
from rlexp.errors import ObjectiveError
from rlexp.networks.actor_critic import ActorCritic
from rlexp.seeding import AgentStreams, no_global_randomness
from rlexp.training.acting import Actor, Slot, in_turn
from rlexp.training.agents import Agents
from rlexp.training.minibatch_step import MinibatchStep
from rlexp.training.minibatches import PADDED, Inputs, padded, rows_with_weight
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
        self.algo, self.lr, self.streams, self.compiled = algo, lr, streams, compiled
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
        self.sizes = {name: getattr(algo, name) for name in ("rollout_steps", "minibatches")}
        self.updated = False  # whether an update has created the optimizers' state
        self.step = MinibatchStep(algo, self.ranks, verify_loss=verify_loss)

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
        self._require_sizes()
        first, minibatches = not self.step.metric_names, algo.epochs * algo.minibatches

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
        if algo.epochs * algo.minibatches != minibatches:
            raise ObjectiveError("algo.epochs: changes within an update; change it in observe or adapt")
        require_replay(algo, data.replay, agents, minibatches)
        data = data._replace(key=torch.stack([self._keys(stream, minibatches) for stream in self.streams]))
        self.step.reads.require_same(algo)  # hooks such as `observe` may have changed an attribute
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
        self.step.reads.require_same(algo)
        return merged

    def _require_sizes(self) -> None:
        """Raise ObjectiveError if a hook has changed what rollouts, minibatches and graphs have their sizes from."""
        changed = (name for name, before in self.sizes.items() if getattr(self.algo, name) != before)
        if (name := next(changed, None)) is not None:
            what = f"has changed from {self.sizes[name]} to {getattr(self.algo, name)}"
            raise ObjectiveError(f"algo.{name}: {what}; it is fixed once training starts")
        epochs = self.algo.epochs
        if not (isinstance(epochs, int | np.integer) and 1 <= epochs <= self.most_epochs):
            what = f"it may be a whole number from 1 to {self.most_epochs}, what training began with"
            raise ObjectiveError(f"algo.epochs: has changed to {epochs}; {what}: begin with the most")

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
        compiled = self.compiled and self.ranks.size == 1
        step = self.step.bound(agents, graphs if compiled and self.updated else None, inputs, numbers[0], last)
        total: Tensor | None = None
        done = 0
        for number in numbers:
            metrics = step(number)
            total = metrics if total is None else total + metrics
            done += 1
            if target_kl is not None and done % minibatches == 0 and self.step.approx_kl(metrics) > target_kl:
                break
        assert total is not None
        if compiled and not self.updated:
            graphs.pending_update = (*self.step.traceable(agents, inputs), numbers[0])
        mean = dict(zip(self.step.metric_names, total / done, strict=True))
        if target_kl is not None:
            mean[EPOCHS] = torch.full_like(mean[LOSS], done / minibatches)
        return mean

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
