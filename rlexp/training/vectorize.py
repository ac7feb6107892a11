"""Vectorises acting and updates over agents.

Algorithms and networks are written for one agent. The agents of a group are stacked and run through
`torch.func.vmap`; a group of one calls its network directly.
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
from rlexp.envs.torch_vector import EnvBuffers, advance
from rlexp.errors import ObjectiveError
from rlexp.networks.actor_critic import ActorCritic, Policy
from rlexp.seeding import no_global_randomness
from rlexp.training.collector import Slot
from rlexp.training.optimizer_state import kept_by_agent, restore
from rlexp.training.optimizers import recorded_step
from rlexp.watch import Watch

log = logging.getLogger(__name__)

ACTING, UPDATE = "acting", "the minibatch update"  # names of compiled graphs, in warnings and run.json


class Inputs(NamedTuple):
    """Inputs shared by all minibatches of an update; not modified."""

    buffers: dict[str, Tensor]  # of the networks, name -> (a, ...)
    coefficients: dict[str, Tensor]  # of the loss, name -> (a,)
    data: Batch  # rows of all agents (a*N, ...); replay (a, minibatches, ...)
    order: Tensor  # row indices of every minibatch (minibatches, a*B)
    lr_scale: Tensor | tuple[()]  # each agent's learning rate divided by the optimizer's (a,); () if shared


class AgentGroup:
    """Agents updated as one computation: parameters, gradients and optimizer state are stacked (a, ...).

    A group of one uses its network's tensors, unstacked. The first update is always eager, as it creates the
    optimizer's state; from then on compiled graphs act and update, even if they are cached already.

    Args:
        networks: one per agent.
        algo: the objective.
        make_optimizer: called with a list of tensors.
        recordable: the optimizer's steps can be part of a graph; see `optimizers.Traits`.
        compiled: run acting and minibatch updates as compiled graphs, where they compile.
        world: torch dynamics of environments that acting steps itself, if any.
        watch: aborts compilation when the run is asked to stop.
        notes: shared by all groups of a learner.
        verify_loss: call the loss twice before the first minibatch, and require equal results.
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
        verify_loss: bool = True,
    ) -> None:
        self.network, self.algo, self.size = networks[0], algo, len(networks)
        self.distribution = self.network.distribution
        self.make_optimizer, self.compiled, self.world = make_optimizer, compiled, world
        self.recordable, self.verify_loss = recordable, verify_loss
        self.watch, self.notes = watch or Watch(), notes or Notes()
        self.single = self.size == 1
        self.params: dict[str, Tensor]
        self.buffers: dict[str, Tensor]
        if self.single:
            self.params = dict(self.network.named_parameters())
            self.buffers = dict(self.network.named_buffers())
        else:
            self.params, self.buffers = stack_module_state(networks)
        # Fused optimizers assume one memory layout for a parameter, its gradient and its state.
        for param in self.params.values():
            param.data = param.data.contiguous()
        frozen = [name for name, param in self.params.items() if not param.requires_grad]
        self.buffers |= {name: self.params.pop(name) for name in frozen}
        self.optimizer: torch.optim.Optimizer = make_optimizer(list(self.params.values()))
        on_cuda = next(iter(self.params.values())).is_cuda
        # optimizer options in a graph: step counts are tensors, and on a CPU no fused kernels
        self.recorded = {"capturable": True} if on_cuda else {"capturable": True, "foreach": False, "fused": False}
        if on_cuda and compiled:
            self._set_options(self.optimizer, self.recorded)
        self.lr_scale: Tensor | tuple[()] = ()
        self.metric_names: list[str] = []
        self.reads = Reads()  # attributes of the algorithm that its loss reads
        self.graph_updates = 0  # updates made by a compiled graph
        self.warned_of_layout = False
        self.updated = False  # whether an update has created the optimizer's state
        self.example: tuple[Any, ...] = ()  # arguments of the last eager minibatch, to trace its graph with
        self.graphs: dict[str, Graph | CudaGraph | None] = {}  # None: could not be compiled
        self.compiling = 0.0  # seconds spent compiling
        self.acts: dict[int, tuple[Slot, Callable[[], Any]]] = {}  # by id of the slot, which is kept alive

    # Acting ------------------------------------------------------------------------------------------------------

    def _policy(self, tensors: dict[str, Tensor], obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (a, E, P) and values (a, E) of observations (a, E, ...)."""
        if self.single:
            params, values = functional_call(self.network, tensors, (obs[0],))
            return params[None], values[None]
        return vmap(lambda t, o: functional_call(self.network, t, (o,)))(tensors, obs)

    def policy(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (a, E, P) and values (a, E) of observations (a, E, ...)."""
        return self._policy(self.params | self.buffers, obs)

    def _act(self, tensors: dict[str, Tensor], slot: Slot) -> tuple[Tensor, ...]:
        params, values = self._policy(tensors, slot.obs)
        slot.dist_params.copy_(params)
        slot.values.copy_(values)
        actions = self.distribution.sample(params, slot.noise)
        slot.actions.copy_(actions)
        if isinstance(slot.buffers, EnvBuffers):
            assert self.world is not None
            advance(self.world, actions, slot.buffers)
        return (values,)

    def act(self, slot: Slot) -> None:
        """Sample actions for the slot's observations with its noise, and write the results into the slot."""
        call = self.acts.get(id(slot))
        if call is None:  # once per slot
            call = self.acts[id(slot)] = (slot, self._acting(self.params | self.buffers, slot))
        call[1]()

    def _acting(self, tensors: dict[str, Tensor], slot: Slot) -> Callable[[], Any]:
        if self.compiled and self.updated:
            functions: dict[str, tuple[Any, ...]] = {}
            if ACTING not in self.graphs or isinstance(self.graphs[ACTING], CudaGraph):  # a CUDA graph is per slot
                functions[ACTING] = (self._act, tensors, slot)
            if self.example:
                functions[UPDATE] = (self._traceable, *self.example)
                self.example = ()
            self._compile(functions)
        graph = self.graphs.get(ACTING)
        if graph is None:
            return partial(self._act, tensors, slot)
        return partial(graph.run, graph.leaves(tensors, slot))

    def _compile(self, functions: dict[str, tuple[Any, ...]]) -> None:
        began = time.perf_counter()
        self.graphs |= self.watch.call_or_stop(compile_or_warn, functions, self.notes, self.watch.raise_if_stopped)
        self.compiling += time.perf_counter() - began

    # Updating ----------------------------------------------------------------------------------------------------

    def _gradients(
        self, params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch, coefficients: dict[str, Tensor]
    ) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients (a, ...), losses and metrics (a,); without the axis a for a group of one."""

        def loss_of(
            params: dict[str, Tensor], buffers: dict[str, Tensor], rows: Batch, values: dict[str, Tensor]
        ) -> tuple[Tensor, Metrics]:
            bound = self.reads.watch(self.algo.bind(values))
            result = bound.loss(Policy(self.network, params | buffers, rows.key), rows)
            if not self.metric_names:  # the first call
                require_loss(self.algo, result)
            return result

        if not self.single:
            with torch.no_grad():  # else gradients hold a graph to their parameters: a reference cycle, never freed
                found = vmap(grad_and_value(loss_of, has_aux=True))(params, buffers, batch, coefficients)
            grads, (loss, metrics) = found
            return [grads[name] for name in params], loss, metrics
        batch, coefficients = tree_map(lambda x: x[0], (batch, coefficients))
        with torch.enable_grad():
            leaves = {name: param.detach().requires_grad_() for name, param in params.items()}
            loss, metrics = loss_of(leaves, buffers, batch, coefficients)
            gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return list(gradients), loss.detach(), {name: value.detach() for name, value in metrics.items()}

    def _rows(self, inputs: Inputs, number: Tensor) -> Batch:
        """The rows of a minibatch (a, B, ...)."""
        index = inputs.order.index_select(0, number)[0]  # (a*B,)
        shape = (self.size, len(index) // self.size)
        batch = inputs.data.map_rows(lambda x: x.index_select(0, index).unflatten(0, shape))
        per_minibatch = (inputs.data.replay, inputs.data.key)
        replay, key = tree_map(lambda x: x.index_select(1, number)[:, 0], per_minibatch)
        return batch._replace(replay=replay, key=key)

    def _verify_loss(self, inputs: Inputs, number: Tensor) -> None:
        """Call the loss twice on the same rows and require equal results.

        Raises:
            ObjectiveError: it draws random numbers, counts its calls, or cannot be stacked.
        """
        found = []
        try:
            for _ in range(2):
                batch = self._rows(inputs, number)  # each time, as the loss may modify its rows
                with located_errors(self.algo, "loss"), no_global_randomness("the loss"):
                    found.append(
                        tree_flatten(self._gradients(self.params, inputs.buffers, batch, inputs.coefficients))[0]
                    )
        except ObjectiveError as error:
            if self.single or "vmap" not in str(error):
                raise
            raise ObjectiveError(
                f"{error}: it cannot be vectorised over agents; batching=loop trains them one after the other"
            ) from error
        if not same_outputs(found[0], found[1], on_cuda=found[0][0].is_cuda):
            raise refusal(self.algo, "loss", NOT_REPEATABLE, *CHANGING)

    def _minibatch(
        self, params: dict[str, Tensor], step: Callable[[], Any], lr: float | Tensor, inputs: Inputs, number: Tensor
    ) -> Tensor:
        """Gather rows, loss, gradient, clipping by each agent's norm, optimizer step. Returns metrics (metrics, a).

        params: updated by `step` from their gradients, at learning rate `lr`. number: of the minibatch, (1,).
        """
        batch = self._rows(inputs, number)
        grads, loss, metrics = self._gradients(params, inputs.buffers, batch, inputs.coefficients)
        lead = 0 if self.single else 1
        squares = [g.square().sum() if self.single else g.reshape(self.size, -1).square().sum(1) for g in grads]
        norm = torch.stack(squares).sum(0).sqrt()  # (a,), or () for a group of one
        limit = self.algo.max_grad_norm
        self.reads.note("max_grad_norm", limit)  # a constant in a graph, like everything that the loss reads
        if limit is not None:
            scale = (limit / (norm + 1e-6)).clamp(max=1.0)
            grads = [g * scale.reshape(scale.shape + (1,) * (g.dim() - lead)) for g in grads]
        for param, grad in zip(params.values(), grads, strict=True):
            param.grad = grad.contiguous()  # like the parameter; gradients of convolutions may be channels last
        self._step_with_agent_lrs(params, step, lr, inputs.lr_scale)
        every = metrics | {LOSS: loss, GRAD_NORM: norm}  # the last two are used to verify graphs
        if self.metric_names and list(every) != self.metric_names:
            require_same_names(self.algo, self.metric_names, every)
            every = {name: every[name] for name in self.metric_names}
        self.metric_names = list(every)
        return torch.stack([value.detach() for value in every.values()]).reshape(len(every), self.size)

    @staticmethod
    @torch.no_grad()
    def _step_with_agent_lrs(
        params: dict[str, Tensor], step: Callable[[], Any], lr: float | Tensor, lr_scale: Tensor | tuple[()]
    ) -> None:
        """The optimizer's step, scaled by each agent's `lr_scale` if learning rates differ.

        At a learning rate of 0 recorded optimizers divide by it, 0 / 0 where a second moment is 0: such parameters
        are left unchanged.
        """
        if not isinstance(lr_scale, Tensor) and not isinstance(lr, Tensor) and lr > 0:
            step()
            return
        before = [param.clone() for param in params.values()]
        step()
        for param, old in zip(params.values(), before, strict=True):
            new = param
            if isinstance(lr_scale, Tensor):  # steps are proportional to the learning rate
                new = old + lr_scale.reshape(-1, *[1] * (param.dim() - 1)) * (param - old)
            if isinstance(lr, Tensor):
                new = torch.where((lr == 0) & new.isnan(), old, new)
            elif lr == 0:
                new = torch.where(new.isnan(), old, new)
            param.copy_(new)

    @staticmethod
    def _set_options(optimizer: torch.optim.Optimizer, options: dict[str, bool]) -> None:
        for group in optimizer.param_groups:
            group.update({name: value for name, value in options.items() if name in group})

    def _traceable(
        self, params: dict[str, Tensor], states: list[dict[str, Tensor]], lr: Tensor, inputs: Inputs, number: Tensor
    ) -> tuple[Tensor, ...]:
        """`_minibatch` as a function of tensors alone, with a temporary optimizer over these parameters and states."""
        step = recorded_step(self.make_optimizer, list(params.values()), states, lr, self.recorded)
        return (self._minibatch(params, step, lr, inputs, number),)

    def set_rates(self, rates: np.ndarray, per_agent: bool) -> None:
        """Set the agents' learning rates (a,); per_agent: they may differ."""
        fastest = float(rates.max())
        for group in self.optimizer.param_groups:
            group["lr"] = fastest
        if per_agent and not self.single:
            device = next(iter(self.params.values())).device
            self.lr_scale = torch.tensor(rates / (fastest or 1.0), dtype=torch.float32, device=device)

    def update(
        self, data: Batch, order: Tensor, coefficients: dict[str, Tensor], minibatches: int, *, last: bool = False
    ) -> Metrics:
        """All epochs over rows `data` (a, N, ...) in the order (a, epochs, N). Returns mean metrics (a,).

        `data.replay` and `data.key` are (a, epochs · minibatches, ...). N is divisible by the number of minibatches,
        which is checked when the run is configured. last: this is the run's last update.
        """
        epochs, rows = order.shape[1:]
        offset = torch.arange(self.size, device=order.device)[:, None, None] * rows
        order = (order + offset).reshape(self.size, epochs * minibatches, rows // minibatches)
        order = order.transpose(0, 1).flatten(1)  # (epochs * minibatches, a*B)
        inputs = Inputs(self.buffers, coefficients, data.map_rows(lambda x: x.flatten(0, 1)), order, self.lr_scale)
        numbers = torch.arange(epochs * minibatches, device=order.device).split(1)
        step = self._stepper(inputs, numbers[0], last)
        total: Tensor | None = None
        done = 0
        for number in numbers:
            metrics = step(number)
            total = metrics if total is None else total + metrics
            done += 1
            if self.algo.target_kl is not None and done % minibatches == 0:
                if "approx_kl" not in self.metric_names:
                    raise ObjectiveError(
                        f"algo.target_kl={self.algo.target_kl}: needs the metric approx_kl, which "
                        f"{type(self.algo).__name__}.loss does not return; return it, or set target_kl=null"
                    )
                latest = metrics[self.metric_names.index("approx_kl"), 0]
                if latest > self.algo.target_kl:  # the only device synchronisation within an update
                    break
        assert total is not None
        if not self.updated:
            self.updated = True
            self.acts.clear()  # act by the compiled graph from now on, if there is one
            if self.compiled and self.recordable:
                self.example = (*self._fixed_arguments(inputs), numbers[0])
        mean = dict(zip(self.metric_names, total / done, strict=True))
        if self.algo.target_kl is not None:
            mean[EPOCHS] = torch.full_like(mean[LOSS], done / minibatches)
        return mean

    def _fixed_arguments(self, inputs: Inputs) -> tuple[Any, ...]:
        """Arguments of `_traceable`, except the number of the minibatch."""
        states = [self.optimizer.state[param] for param in self.params.values()]
        lr = torch.tensor(self.optimizer.param_groups[0]["lr"], device=inputs.order.device)
        return self.params, states, lr, inputs

    def _stepper(self, inputs: Inputs, number: Tensor, last: bool) -> Callable[[Tensor], Tensor]:
        """A function that makes a minibatch update, given its number."""
        lr = self.optimizer.param_groups[0]["lr"]

        def eager(number: Tensor) -> Tensor:
            if self.verify_loss and not self.metric_names:
                self._verify_loss(inputs, number)
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
            self._warn_uncompiled(f"{name} uses more than parameters, gradients and tensors of its state")
        fixed = self._fixed_arguments(inputs)
        if UPDATE not in self.graphs:
            self._compile({UPDATE: (self._traceable, *fixed, number)})
        graph = self.graphs[UPDATE]
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

        self.graph_updates += 1
        if self.graph_updates & (self.graph_updates - 1) and not last:
            return compiled
        return self._verified(eager, compiled, graph, fixed)  # updates 1, 2, 4, 8, ..., and the last

    def _warn_uncompiled(self, why: str) -> None:
        self.notes.uncompiled[UPDATE] = why
        log.warning("%s runs uncompiled: %s", UPDATE, why)

    def _verified(
        self,
        eager: Callable[[Tensor], Tensor],
        compiled: Callable[[Tensor], Tensor],
        graph: Graph | CudaGraph,
        fixed: tuple[Any, ...],
    ) -> Callable[[Tensor], Tensor]:
        """The compiled minibatch update; the first one is also made eagerly, and the results must agree."""
        twins = [Twin(self.params, fixed[1])]

        def step(number: Tensor) -> Tensor:
            if not twins:
                return compiled(number) if self.graphs[UPDATE] is not None else eager(number)
            twin = twins.pop()
            twin.remember(eager(number))
            metrics = compiled(number)
            name = type(self.algo).__name__
            if is_faithful(graph, twin.distance(metrics), name, self._traceable, *fixed, number):
                return metrics
            self._warn_uncompiled("its graph computes something different from its code")
            self.graphs[UPDATE] = None
            return twin.use_eager()

        return step

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state (a, ...); see `optimizer_state.kept_by_agent`."""
        return kept_by_agent(self.optimizer, self.params, self.size)

    def load_optimizer_state(self, saved: dict[str, Any]) -> None:
        """Restore the result of `optimizer_state`."""
        restore(self.optimizer, self.params, self.size, saved)
