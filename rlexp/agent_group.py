"""Agents updated as one computation.

Algorithms and networks are written for one agent. Here they are lifted: the agents of a group are stacked and run
through `torch.func.vmap`; a group of one agent runs its network plainly.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_map

from rlexp.algos.base import Algorithm, Batch, Metrics
from rlexp.compile import CudaGraph, Graph, compile_or_warn
from rlexp.envs.torch_vector import Place, advance
from rlexp.envs.worlds import World
from rlexp.policy import ActorCritic, Policy
from rlexp.rollout import Slot


class Inputs(NamedTuple):
    """What an update's minibatches share and leave as it is."""

    buffers: dict[str, Tensor]  # of the networks, name -> (a, ...)
    coefficients: dict[str, Tensor]  # of the loss, name -> (a,)
    data: Batch  # rows of all agents (a*N, ...); replay (a, minibatches, ...)
    order: Tensor  # rows of every minibatch (minibatches, a*B)
    pace: Tensor | tuple[()]  # each agent's learning rate over the optimizer's (a,), where agents have their own


class AgentGroup:
    """Agents updated as one computation: parameters, gradients and optimizer state stacked (a, ...).

    A group of one keeps its tensors unstacked, as its network's own.

    Args:
        networks: one an agent.
        algo: the objective.
        make_optimizer: called with a list of tensors.
        compiled: acting and minibatch updates run as compiled graphs wherever they can be had.
        world: dynamics of environments that acting is to step.
    """

    def __init__(
        self,
        networks: list[ActorCritic],
        algo: Algorithm,
        make_optimizer: Callable[..., Any],
        compiled: bool,
        world: World | None,
    ) -> None:
        self.network, self.algo, self.size = networks[0], algo, len(networks)
        self.distribution = self.network.distribution
        self.make_optimizer, self.compiled, self.world = make_optimizer, compiled, world
        self.single = self.size == 1
        self.params: dict[str, Tensor]
        self.buffers: dict[str, Tensor]
        if self.single:
            self.params = dict(self.network.named_parameters())
            self.buffers = dict(self.network.named_buffers())
        else:
            self.params, self.buffers = stack_module_state(networks)
        self.optimizer: torch.optim.Optimizer = make_optimizer(list(self.params.values()))
        on_cuda = next(iter(self.params.values())).is_cuda
        # of the optimizer within a graph: step counts are tensors, and on a CPU its arithmetic is plain
        self.recorded = {"capturable": True} if on_cuda else {"capturable": True, "foreach": False, "fused": False}
        if on_cuda and compiled:
            self._set_options(self.optimizer, self.recorded)
        self.pace: Tensor | tuple[()] = ()
        self.metric_names: list[str] = []
        self.graphs: dict[str, Graph | CudaGraph | None] = {}  # None: could not be compiled
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
        missing = "acting" not in self.graphs
        if self.compiled and (missing or isinstance(self.graphs["acting"], CudaGraph)):  # which serves one slot alone
            self.graphs["acting"] = compile_or_warn("acting", self._act, tensors, slot)
        graph = self.graphs.get("acting")
        if graph is None:
            return partial(self._act, tensors, slot)
        return partial(graph.run, graph.leaves(tensors, slot))

    # Updating ----------------------------------------------------------------------------------------------------

    def _gradients(
        self, params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch, coefficients: dict[str, Tensor]
    ) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients (a, ...), losses and metrics (a,); unstacked for a group of one."""

        def loss_of(
            params: dict[str, Tensor], buffers: dict[str, Tensor], rows: Batch, values: dict[str, Tensor]
        ) -> tuple[Tensor, Metrics]:
            return self.algo.bind(values).loss(Policy(self.network, params | buffers), rows)

        if not self.single:
            grads, (loss, metrics) = vmap(grad_and_value(loss_of, has_aux=True))(params, buffers, batch, coefficients)
            return [grads[name] for name in params], loss, metrics
        batch, coefficients = tree_map(lambda x: x[0], (batch, coefficients))
        with torch.enable_grad():
            leaves = {name: param.detach().requires_grad_() for name, param in params.items()}
            loss, metrics = loss_of(leaves, buffers, batch, coefficients)
            own = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return list(own), loss.detach(), {name: value.detach() for name, value in metrics.items()}

    def _minibatch(self, params: dict[str, Tensor], step: Callable[[], Any], inputs: Inputs, number: Tensor) -> Tensor:
        """Gather, loss, gradient, clip by each agent's own norm, optimizer step. Metrics (metrics, a).

        params: what `step` moves by their gradients. number: which minibatch, (1,).
        """
        buffers, coefficients, data, order, pace = inputs
        index = order.index_select(0, number)[0]  # (a*B,)
        shape = (self.size, len(index) // self.size)
        batch = data.map_rows(lambda x: x.index_select(0, index).unflatten(0, shape))  # (a, B, ...)
        batch = batch._replace(replay=tree_map(lambda x: x.index_select(1, number)[:, 0], data.replay))
        grads, loss, metrics = self._gradients(params, buffers, batch, coefficients)
        lead = 0 if self.single else 1
        squares = [g.square().sum(tuple(range(lead, g.dim()))) for g in grads]
        norm = torch.stack(squares).sum(0).sqrt()  # (a,), or () for a group of one
        if self.algo.max_grad_norm is not None:
            scale = (self.algo.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            grads = [g * scale.reshape(scale.shape + (1,) * (g.dim() - lead)) for g in grads]
        for param, grad in zip(params.values(), grads, strict=True):
            param.grad = grad
        if isinstance(pace, Tensor):
            self._at_own_pace(params, step, pace)
        else:
            step()
        every = {**metrics, "loss": loss, "grad_norm": norm}
        self.metric_names = list(every)
        return torch.stack([value.detach() for value in every.values()]).reshape(len(every), self.size)

    @staticmethod
    @torch.no_grad()
    def _at_own_pace(params: dict[str, Tensor], step: Callable[[], Any], pace: Tensor) -> None:
        """Go each agent's part of the optimizer's step: a step is proportional to the learning rate."""
        before = [param.clone() for param in params.values()]
        step()
        for param, old in zip(params.values(), before, strict=True):
            own = pace.reshape(-1, *[1] * (param.dim() - 1))
            param.copy_(old + own * (param - old))

    @staticmethod
    def _set_options(optimizer: torch.optim.Optimizer, wanted: dict[str, bool]) -> None:
        for options in optimizer.param_groups:
            options.update({name: value for name, value in wanted.items() if name in options})

    def _traceable(
        self, params: dict[str, Tensor], states: list[dict[str, Tensor]], lr: Tensor, inputs: Inputs, number: Tensor
    ) -> tuple[Tensor, ...]:
        """`_minibatch` as a function of tensors alone: the optimizer is one of the moment, over those given."""
        optimizer = self.make_optimizer(list(params.values()))
        for options in optimizer.param_groups:
            options["lr"] = lr
        self._set_options(optimizer, self.recorded)
        optimizer.state.update(zip(params.values(), states, strict=True))
        step = inspect.unwrap(type(optimizer).step)  # less the wrappers that serve the profiler and autograd
        return (self._minibatch(params, lambda: step(optimizer), inputs, number),)

    def set_rates(self, rates: np.ndarray, own: bool) -> None:
        """Set the agents' learning rates (a,); `own`: they may differ."""
        fastest = float(rates.max())
        for options in self.optimizer.param_groups:
            options["lr"] = fastest
        if own and not self.single:
            device = next(iter(self.params.values())).device
            self.pace = torch.tensor(rates / (fastest or 1.0), dtype=torch.float32, device=device)

    def update(self, data: Batch, order: Tensor, coefficients: dict[str, Tensor], minibatches: int) -> Metrics:
        """All epochs over rows `data` (a, N, ...) in the order (a, epochs, N). Mean metrics (a,).

        `data.replay` is (a, epochs · minibatches, ...). Rows that do not fill a minibatch cannot be: N is checked to
        be divisible when the run is configured.
        """
        epochs, rows = order.shape[1:]
        offset = torch.arange(self.size, device=order.device)[:, None, None] * rows
        order = (order + offset).reshape(self.size, epochs * minibatches, rows // minibatches)
        order = order.transpose(0, 1).flatten(1)  # (epochs * minibatches, a*B)
        inputs = Inputs(self.buffers, coefficients, data.map_rows(lambda x: x.flatten(0, 1)), order, self.pace)
        numbers = torch.arange(epochs * minibatches, device=order.device).split(1)
        step = self._stepper(inputs, numbers[0])
        total: Tensor | None = None
        made = 0
        for number in numbers:
            metrics = step(number)
            total = metrics if total is None else total + metrics
            made += 1
            if self.algo.target_kl is not None and made % minibatches == 0:
                latest = metrics[self.metric_names.index("approx_kl"), 0]
                if latest > self.algo.target_kl:  # the one place where the host waits within an update
                    break
        assert total is not None
        mean = dict(zip(self.metric_names, total / made, strict=True))
        if self.algo.target_kl is not None:
            mean["epochs"] = torch.full_like(mean["loss"], made / minibatches)
        return mean

    def _stepper(self, inputs: Inputs, number: Tensor) -> Callable[[Tensor], Tensor]:
        """What makes a minibatch update, by its number."""

        def eager(number: Tensor) -> Tensor:
            return self._minibatch(self.params, self.optimizer.step, inputs, number)

        states = [self.optimizer.state[param] for param in self.params.values()]
        if not self.compiled or not all(states):  # the first update makes the optimizer's state
            return eager
        lr = torch.tensor(self.optimizer.param_groups[0]["lr"], device=number.device)
        held = (self.params, states, lr, inputs)
        if "update" not in self.graphs:
            self.graphs["update"] = compile_or_warn("the minibatch update", self._traceable, *held, number)
        graph = self.graphs["update"]
        if graph is None:
            return eager
        run, leaves = graph.run, graph.leaves(*held, number)[:-1]
        return lambda number: run([*leaves, number])[0]

    def optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """What the optimizer keeps of each parameter, (a, ...); step counts, which agents share, once for each."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, param in self.params.items():
            state = {key: x for key, x in self.optimizer.state[param].items() if isinstance(x, Tensor)}
            found[name] = {
                key: x.expand(self.size).clone() if x.shape != param.shape else x[None] if self.single else x
                for key, x in state.items()
            }
        return found

    def load_optimizer_state(self, saved: dict[str, dict[str, Tensor]]) -> None:
        """Take up what `optimizer_state` gave."""
        states = {
            index: {
                key: x[0] if self.single or (x.dim() == 1 and param.dim() > 1) else x for key, x in saved[name].items()
            }
            for index, (name, param) in enumerate(self.params.items())
            if saved[name]
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
