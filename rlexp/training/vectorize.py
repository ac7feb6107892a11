"""Agents updated as one computation.

Algorithms and networks are written for one agent. Here they are lifted: the agents of a group are stacked and run
through `torch.func.vmap`; a group of one agent runs its network plainly.
"""

import logging
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_flatten, tree_map

from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.metric_names import EPOCHS, GRAD_NORM, LOSS
from rlexp.checks.hook_outputs import NOT_REPEATABLE, require_loss, require_same_names, same_outputs
from rlexp.checks.location import CHANGING, located_errors, refusal
from rlexp.checks.loss_reads import Reads
from rlexp.compiling.compile import CudaGraph, Graph, LayoutError, Notes, compile_or_warn
from rlexp.compiling.verify import Twin, is_faithful
from rlexp.data import Batch
from rlexp.envs.classic_control import World
from rlexp.envs.torch_vector import Place, advance
from rlexp.errors import ObjectiveError
from rlexp.networks.actor_critic import ActorCritic, Policy
from rlexp.seeding import no_global_randomness
from rlexp.training.collector import Slot
from rlexp.training.optimizer_state import kept_by_agent, restore
from rlexp.training.optimizers import recorded_step
from rlexp.watch import Watch

log = logging.getLogger(__name__)

ACTING, UPDATE = "acting", "the minibatch update"  # what is compiled, as warnings call it


class Inputs(NamedTuple):
    """What an update's minibatches share and leave as it is."""

    buffers: dict[str, Tensor]  # of the networks, name -> (a, ...)
    coefficients: dict[str, Tensor]  # of the loss, name -> (a,)
    data: Batch  # rows of all agents (a*N, ...); replay (a, minibatches, ...)
    order: Tensor  # rows of every minibatch (minibatches, a*B)
    pace: Tensor | tuple[()]  # each agent's learning rate over the optimizer's (a,), where agents have their own


class AgentGroup:
    """Agents updated as one computation: parameters, gradients and optimizer state stacked (a, ...).

    A group of one keeps its tensors unstacked, as its network's own. The first update runs eagerly, as it makes the
    optimizer's state; compiled graphs act and update from then on, whatever the cache of compiled graphs holds.

    Args:
        networks: one an agent.
        algo: the objective.
        make_optimizer: called with a list of tensors.
        recordable: the optimizer's steps can be part of a graph; see `optimizers.Traits`.
        compiled: acting and minibatch updates run as compiled graphs wherever they can be had.
        world: dynamics of environments that acting is to step.
        watch: ends compiling when the run is asked to stop; None: nobody does.
        notes: what compiling tells of all groups.
        tried: the loss is tried before its first minibatch.
    """

    def __init__(
        self,
        networks: list[ActorCritic],
        algo: Algorithm,
        make_optimizer: Callable[..., Any],
        compiled: bool,
        world: World | None,
        *,
        recordable: bool = True,
        watch: Watch | None = None,
        notes: Notes | None = None,
        tried: bool = True,
    ) -> None:
        self.network, self.algo, self.size = networks[0], algo, len(networks)
        self.distribution = self.network.distribution
        self.make_optimizer, self.compiled, self.world = make_optimizer, compiled, world
        self.recordable, self.watch, self.notes, self.tried = recordable, watch or Watch(), notes or Notes(), tried
        self.single = self.size == 1
        self.params: dict[str, Tensor]
        self.buffers: dict[str, Tensor]
        if self.single:
            self.params = dict(self.network.named_parameters())
            self.buffers = dict(self.network.named_buffers())
        else:
            self.params, self.buffers = stack_module_state(networks)
        # Fused optimizers go through a parameter, its gradient and its state in the order of memory, one for all.
        for param in self.params.values():
            param.data = param.data.contiguous()
        frozen = [name for name, param in self.params.items() if not param.requires_grad]
        self.buffers |= {name: self.params.pop(name) for name in frozen}
        self.optimizer: torch.optim.Optimizer = make_optimizer(list(self.params.values()))
        on_cuda = next(iter(self.params.values())).is_cuda
        # of the optimizer within a graph: step counts are tensors, and on a CPU its arithmetic is plain
        self.recorded = {"capturable": True} if on_cuda else {"capturable": True, "foreach": False, "fused": False}
        if on_cuda and compiled:
            self._set_options(self.optimizer, self.recorded)
        self.pace: Tensor | tuple[()] = ()
        self.metric_names: list[str] = []
        self.reads = Reads()  # of the algorithm, by its loss
        self.graph_updates = 0  # made by a compiled graph
        self.told_layout = False
        self.updated = False  # whether there has been an update: the optimizer's state is there
        self.example: tuple[Any, ...] = ()  # arguments of the last eager minibatch, by which its graph is traced
        self.graphs: dict[str, Graph | CudaGraph | None] = {}  # None: could not be compiled
        self.compiling = 0.0  # seconds in which graphs were made
        self.acts: dict[int, tuple[Slot, Callable[[], Any]]] = {}  # by the identity of the slot, which is kept alive

    # Acting ------------------------------------------------------------------------------------------------------

    def _policy(self, tensors: dict[str, Tensor], obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (a, E, P) and values (a, E) of observations (a, E, ...)."""
        if self.single:
            params, values = Policy(self.network, tensors)(obs[0])
            return params[None], values[None]
        return vmap(lambda own, o: functional_call(self.network, own, (o,)))(tensors, obs)

    def policy(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (a, E, P) and values (a, E) of observations (a, E, ...)."""
        return self._policy(self.params | self.buffers, obs)

    def _act(self, tensors: dict[str, Tensor], slot: Slot) -> tuple[Tensor, ...]:
        params, values = self._policy(tensors, slot.obs)
        slot.dist_params.copy_(params)
        slot.values.copy_(values)
        actions = self.distribution.sample(params, slot.noise)
        slot.actions.copy_(actions)
        if isinstance(slot.place, Place):
            assert self.world is not None
            advance(self.world, actions, slot.place)
        return (values,)

    def act(self, slot: Slot) -> None:
        """Draw actions for the slot's observations with its noise; what came of it is written into the slot."""
        call = self.acts.get(id(slot))
        if call is None:  # once for each slot
            call = self.acts[id(slot)] = (slot, self._acting(self.params | self.buffers, slot))
        call[1]()

    def _acting(self, tensors: dict[str, Tensor], slot: Slot) -> Callable[[], Any]:
        if self.compiled and self.updated:
            wanted: dict[str, tuple[Any, ...]] = {}
            if ACTING not in self.graphs or isinstance(self.graphs[ACTING], CudaGraph):  # which serves one slot alone
                wanted[ACTING] = (self._act, tensors, slot)
            if self.example:
                wanted[UPDATE] = (self._traceable, *self.example)
                self.example = ()
            self._compile(wanted)
        graph = self.graphs.get(ACTING)
        if graph is None:
            return partial(self._act, tensors, slot)
        return partial(graph.run, graph.leaves(tensors, slot))

    def _compile(self, wanted: dict[str, tuple[Any, ...]]) -> None:
        began = time.perf_counter()
        self.graphs |= self.watch.call_or_stop(compile_or_warn, wanted, self.notes, self.watch.raise_if_stopped)
        self.compiling += time.perf_counter() - began

    # Updating ----------------------------------------------------------------------------------------------------

    def _gradients(
        self, params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch, coefficients: dict[str, Tensor]
    ) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients (a, ...), losses and metrics (a,); unstacked for a group of one."""

        def loss_of(
            params: dict[str, Tensor], buffers: dict[str, Tensor], rows: Batch, values: dict[str, Tensor]
        ) -> tuple[Tensor, Metrics]:
            bound = self.reads.watch(self.algo.bind(values))
            given = bound.loss(Policy(self.network, params | buffers, rows.key), rows)
            if not self.metric_names:  # the first call
                require_loss(self.algo, given)
            return given

        if not self.single:
            with torch.no_grad():  # else gradients keep a graph to their parameters: a cycle that nobody frees
                found = vmap(grad_and_value(loss_of, has_aux=True))(params, buffers, batch, coefficients)
            grads, (loss, metrics) = found
            return [grads[name] for name in params], loss, metrics
        batch, coefficients = tree_map(lambda x: x[0], (batch, coefficients))
        with torch.enable_grad():
            leaves = {name: param.detach().requires_grad_() for name, param in params.items()}
            loss, metrics = loss_of(leaves, buffers, batch, coefficients)
            own = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return list(own), loss.detach(), {name: value.detach() for name, value in metrics.items()}

    def _rows(self, inputs: Inputs, number: Tensor) -> Batch:
        """The rows of a minibatch (a, B, ...)."""
        index = inputs.order.index_select(0, number)[0]  # (a*B,)
        shape = (self.size, len(index) // self.size)
        batch = inputs.data.map_rows(lambda x: x.index_select(0, index).unflatten(0, shape))
        own = (inputs.data.replay, inputs.data.key)  # of the minibatch, not of its rows
        replay, key = tree_map(lambda x: x.index_select(1, number)[:, 0], own)
        return batch._replace(replay=replay, key=key)

    def _try_loss(self, inputs: Inputs, number: Tensor) -> None:
        """Refuse a loss that is another one when it is called once more with the same rows.

        Raises:
            ObjectiveError: it draws random numbers, counts, or cannot be stacked.
        """
        found = []
        try:
            for _ in range(2):
                batch = self._rows(inputs, number)  # anew, as the loss may change its rows
                with located_errors(self.algo, "loss"), no_global_randomness("the loss"):
                    found.append(
                        tree_flatten(self._gradients(self.params, inputs.buffers, batch, inputs.coefficients))[0]
                    )
        except ObjectiveError as error:
            if self.single or "vmap" not in str(error):
                raise
            raise ObjectiveError(
                f"{error}: it cannot be stacked for agents side by side; batching=loop trains them one after the other"
            ) from error
        if not same_outputs(found[0], found[1], on_cuda=found[0][0].is_cuda):
            raise refusal(self.algo, "loss", NOT_REPEATABLE, *CHANGING)

    def _minibatch(
        self, params: dict[str, Tensor], step: Callable[[], Any], lr: float | Tensor, inputs: Inputs, number: Tensor
    ) -> Tensor:
        """Gather, loss, gradient, clip by each agent's own norm, optimizer step. Metrics (metrics, a).

        params: what `step` moves by their gradients, at the rate `lr`. number: which minibatch, (1,).
        """
        batch, pace = self._rows(inputs, number), inputs.pace
        grads, loss, metrics = self._gradients(params, inputs.buffers, batch, inputs.coefficients)
        lead = 0 if self.single else 1
        squares = [g.square().sum() if self.single else g.reshape(self.size, -1).square().sum(1) for g in grads]
        norm = torch.stack(squares).sum(0).sqrt()  # (a,), or () for a group of one
        limit = self.algo.max_grad_norm
        self.reads.note("max_grad_norm", limit)  # as fixed in a graph as what the loss reads
        if limit is not None:
            scale = (limit / (norm + 1e-6)).clamp(max=1.0)
            grads = [g * scale.reshape(scale.shape + (1,) * (g.dim() - lead)) for g in grads]
        for param, grad in zip(params.values(), grads, strict=True):
            param.grad = grad.contiguous()  # as the parameter is; gradients of convolutions may be channels last
        self._move(params, step, lr, pace)
        every = metrics | {LOSS: loss, GRAD_NORM: norm}  # the last two, by which graphs are judged
        if self.metric_names and list(every) != self.metric_names:
            require_same_names(self.algo, self.metric_names, every)
            every = {name: every[name] for name in self.metric_names}
        self.metric_names = list(every)
        return torch.stack([value.detach() for value in every.values()]).reshape(len(every), self.size)

    @staticmethod
    @torch.no_grad()
    def _move(params: dict[str, Tensor], step: Callable[[], Any], lr: float | Tensor, pace: Tensor | tuple[()]) -> None:
        """The optimizer's step; where agents have learning rates of their own, each agent's part of it.

        At a rate of 0 optimizers that are recorded divide by it, and 0 / 0 where a second moment is 0: what comes of
        that stays where it was.
        """
        if not isinstance(pace, Tensor) and not isinstance(lr, Tensor) and lr > 0:
            step()
            return
        before = [param.clone() for param in params.values()]
        step()
        for param, old in zip(params.values(), before, strict=True):
            new = param
            if isinstance(pace, Tensor):  # a step is proportional to the learning rate
                new = old + pace.reshape(-1, *[1] * (param.dim() - 1)) * (param - old)
            if isinstance(lr, Tensor):
                new = torch.where((lr == 0) & new.isnan(), old, new)
            elif lr == 0:
                new = torch.where(new.isnan(), old, new)
            param.copy_(new)

    @staticmethod
    def _set_options(optimizer: torch.optim.Optimizer, wanted: dict[str, bool]) -> None:
        for options in optimizer.param_groups:
            options.update({name: value for name, value in wanted.items() if name in options})

    def _traceable(
        self, params: dict[str, Tensor], states: list[dict[str, Tensor]], lr: Tensor, inputs: Inputs, number: Tensor
    ) -> tuple[Tensor, ...]:
        """`_minibatch` as a function of tensors alone: the optimizer is one of the moment, over those given."""
        step = recorded_step(self.make_optimizer, list(params.values()), states, lr, self.recorded)
        return (self._minibatch(params, step, lr, inputs, number),)

    def set_rates(self, rates: np.ndarray, own: bool) -> None:
        """Set the agents' learning rates (a,); `own`: they may differ."""
        fastest = float(rates.max())
        for options in self.optimizer.param_groups:
            options["lr"] = fastest
        if own and not self.single:
            device = next(iter(self.params.values())).device
            self.pace = torch.tensor(rates / (fastest or 1.0), dtype=torch.float32, device=device)

    def update(
        self, data: Batch, order: Tensor, coefficients: dict[str, Tensor], minibatches: int, *, last: bool = False
    ) -> Metrics:
        """All epochs over rows `data` (a, N, ...) in the order (a, epochs, N). Mean metrics (a,).

        `data.replay` is (a, epochs · minibatches, ...), as is `data.key`. Rows that do not fill a minibatch cannot be:
        N is checked to be divisible when the run is configured. last: of the run.
        """
        epochs, rows = order.shape[1:]
        offset = torch.arange(self.size, device=order.device)[:, None, None] * rows
        order = (order + offset).reshape(self.size, epochs * minibatches, rows // minibatches)
        order = order.transpose(0, 1).flatten(1)  # (epochs * minibatches, a*B)
        inputs = Inputs(self.buffers, coefficients, data.map_rows(lambda x: x.flatten(0, 1)), order, self.pace)
        numbers = torch.arange(epochs * minibatches, device=order.device).split(1)
        step = self._stepper(inputs, numbers[0], last)
        total: Tensor | None = None
        made = 0
        for number in numbers:
            metrics = step(number)
            total = metrics if total is None else total + metrics
            made += 1
            if self.algo.target_kl is not None and made % minibatches == 0:
                if "approx_kl" not in self.metric_names:
                    raise ObjectiveError(
                        f"algo.target_kl={self.algo.target_kl}: needs a metric approx_kl, and the loss of "
                        f"{type(self.algo).__name__} logs none; return it among the metrics, or set target_kl=null"
                    )
                latest = metrics[self.metric_names.index("approx_kl"), 0]
                if latest > self.algo.target_kl:  # the one place where the host waits within an update
                    break
        assert total is not None
        if not self.updated:
            self.updated = True
            self.acts.clear()  # from now on by a compiled graph, where there is one
            if self.compiled and self.recordable:
                self.example = (*self._held(inputs), numbers[0])
        mean = dict(zip(self.metric_names, total / made, strict=True))
        if self.algo.target_kl is not None:
            mean[EPOCHS] = torch.full_like(mean[LOSS], made / minibatches)
        return mean

    def _held(self, inputs: Inputs) -> tuple[Any, ...]:
        """Arguments of `_traceable` but the last."""
        states = [self.optimizer.state[param] for param in self.params.values()]
        lr = torch.tensor(self.optimizer.param_groups[0]["lr"], device=inputs.order.device)
        return self.params, states, lr, inputs

    def _stepper(self, inputs: Inputs, number: Tensor, last: bool) -> Callable[[Tensor], Tensor]:
        """What makes a minibatch update, by its number."""
        lr = self.optimizer.param_groups[0]["lr"]

        def eager(number: Tensor) -> Tensor:
            if self.tried and not self.metric_names:
                self._try_loss(inputs, number)
            try:
                return self._minibatch(self.params, self.optimizer.step, lr, inputs, number)
            except Exception as error:
                if "loss" in {frame.name for frame in traceback.extract_tb(error.__traceback__)}:
                    with located_errors(self.algo, "loss"):
                        raise
                raise

        if not (self.compiled and self.updated):
            return eager
        if not self.recordable and UPDATE not in self.graphs:
            self.graphs[UPDATE] = None
            name = type(self.optimizer).__name__
            self._tell_uncompiled(f"{name} does or keeps more than parameters, gradients and tensors of its state")
        held = self._held(inputs)
        if UPDATE not in self.graphs:
            self._compile({UPDATE: (self._traceable, *held, number)})
        graph = self.graphs[UPDATE]
        if graph is None:
            return eager
        try:
            leaves = graph.leaves(*held, number)[:-1]
        except LayoutError as error:
            if not self.told_layout:
                log.warning("%s runs uncompiled where algo.replay gives other shapes: %s", UPDATE, str(error)[:120])
            self.told_layout = True
            return eager

        def compiled(number: Tensor) -> Tensor:
            return graph.run([*leaves, number])[0]

        self.graph_updates += 1
        if self.graph_updates & (self.graph_updates - 1) and not last:
            return compiled
        return self._held_against(eager, compiled, graph, held)  # updates 1, 2, 4, 8, ..., and the last

    def _tell_uncompiled(self, why: str) -> None:
        self.notes.uncompiled[UPDATE] = why
        log.warning("%s runs uncompiled: %s", UPDATE, why)

    def _held_against(
        self,
        eager: Callable[[Tensor], Tensor],
        compiled: Callable[[Tensor], Tensor],
        graph: Graph | CudaGraph,
        held: tuple[Any, ...],
    ) -> Callable[[Tensor], Tensor]:
        """The compiled minibatch update, the first of which is made eagerly, too, and must go the same way."""
        twins = [Twin(self.params, held[1])]

        def step(number: Tensor) -> Tensor:
            if not twins:
                return compiled(number) if self.graphs[UPDATE] is not None else eager(number)
            twin = twins.pop()
            twin.remember(eager(number))
            metrics = compiled(number)
            who = type(self.algo).__name__
            if is_faithful(graph, twin.distance(metrics), who, self._traceable, *held, number):
                return metrics
            self._tell_uncompiled("its graph computes something else than its code")
            self.graphs[UPDATE] = None
            return twin.go_eager()

        return step

    def optimizer_state(self) -> dict[str, Any]:
        """What the optimizer keeps, (a, ...); see `optimizers.kept_by_agent`."""
        return kept_by_agent(self.optimizer, self.params, self.size)

    def load_optimizer_state(self, saved: dict[str, Any]) -> None:
        """Restore what `optimizer_state` gave."""
        restore(self.optimizer, self.params, self.size, saved)
