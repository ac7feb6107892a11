"""Lifts what is written for one agent over several at once.

Networks and losses know one agent. Agents side by side differ in numbers only, so each parameter is stacked, (a, ...),
and `torch.func.vmap` makes one call of the one-agent function compute all of them. Small networks spend their time on
dispatching operations, not on arithmetic, hence ten agents cost little more than one. An agent alone is not stacked:
the same function is called directly, under plain autograd, on its network's own tensors.

Nothing is reduced over a. An agent's gradient is clipped by its own norm; optimizers whose step is not elementwise are
not stacked (see `optimizers.py`), so that a step over stacked parameters is each agent's own step. The optimizer has
one learning rate, the highest of its agents': the others' steps are scaled by `lr_scale`, which is exact for optimizers
that move proportionally to the rate; no others share a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_map

from rlexp.networks.actor_critic import ActorCritic
from rlexp.networks.normalizer import ObservationNormalizer, merge_moments
from rlexp.training.optimizer_state import AVERAGE, recorded_step, restore, state_by_agent


class Agents:
    """Agents computed together: their parameters, buffers and optimizer state, (a, ...); unstacked for one agent.

    Args:
        networks: one per agent.
        make_optimizer: called with a list of tensors.
        compiled: updates may be recorded as CUDA graphs, which need the optimizer's step counts on the device.
    """

    def __init__(self, networks: list[ActorCritic], make_optimizer: Callable[..., Any], compiled: bool) -> None:
        self.network, self.size, self.make_optimizer = networks[0], len(networks), make_optimizer
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
        self.device = next(iter(self.params.values())).device
        # optimizer options in a graph: step counts are tensors, and on a CPU no fused kernels
        on_host = {"foreach": False, "fused": False} if self.device.type == "cpu" else {}
        self.recorded = {"capturable": True, **on_host}
        if self.device.type == "cuda" and compiled:
            for group in self.optimizer.param_groups:
                group.update({name: value for name, value in self.recorded.items() if name in group})
        # each agent's learning rate divided by the optimizer's (a,); () if they share it
        self.lr_scale: Tensor | tuple[()] = ()

    # One-agent functions, lifted ----------------------------------------------------------------------------------

    def policy(self, tensors: dict[str, Tensor], obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (a, E, P) and values (a, E) of observations (a, E, ...)."""

        def forward(tensors: dict[str, Tensor], obs: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.network, tensors, (obs,))

        if self.single:
            params, values = forward(tensors, obs[0])
            return params[None], values[None]
        return vmap(forward)(tensors, obs)

    def dist_params(self, tensors: dict[str, Tensor], obs: Tensor) -> Tensor:
        """Distribution parameters (a, E, P) of observations (a, E, ...), without running critics."""

        def forward(tensors: dict[str, Tensor], obs: Tensor) -> Tensor:
            return functional_call(self.network, tensors, (obs, True))[0]

        return forward(tensors, obs[0])[None] if self.single else vmap(forward)(tensors, obs)

    def each(self, function: Callable[..., Any], tensors: tuple[dict[str, Tensor], ...], *data: Any) -> Any:
        """Call ``function(*tensors, *data)``, written for one agent, for all; results (a, ...), unstacked for one."""
        if self.single:
            return function(*tensors, *tree_map(lambda x: x[0], data))
        with torch.no_grad():  # else gradients hold a graph to their parameters: a reference cycle, never freed
            return vmap(function)(*tensors, *data)

    def gradient(
        self, loss: Callable[..., tuple[Tensor, Any]], params: dict[str, Tensor], *data: Any
    ) -> tuple[list[Tensor], Tensor, Any]:
        """Within `each`: one agent's gradient of ``loss(params, *data) -> (loss, aux)``, the loss and aux.

        The data are arguments, not captured, so that a loss may write in them.
        """
        if not self.single:
            grads, (value, aux) = grad_and_value(loss, has_aux=True)(params, *data)
            return [grads[name] for name in params], value, aux
        with torch.enable_grad():
            leaves = {name: param.detach().requires_grad_() for name, param in params.items()}
            value, aux = loss(leaves, *data)
            found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return list(found), value.detach(), tree_map(lambda x: x.detach(), aux)

    # The optimizer ------------------------------------------------------------------------------------------------

    def set_rates(self, rates: np.ndarray, per_agent: bool) -> None:
        """Set the agents' learning rates (a,); per_agent: they may differ."""
        fastest = float(rates.max())
        for group in self.optimizer.param_groups:
            group["lr"] = fastest
        if per_agent and not self.single:
            self.lr_scale = torch.tensor(rates / (fastest or 1.0), dtype=torch.float32, device=self.device)

    @property
    def lr(self) -> float:
        """The optimizer's learning rate: the agents' highest."""
        return self.optimizer.param_groups[0]["lr"]

    def recorded_step(self, params: dict[str, Tensor], states: list[Any], lr: Tensor) -> Callable[[], Any]:
        """The optimizer's step as a function of tensors alone, to be traced: see `optimizers.recorded_step`."""
        return recorded_step(self.make_optimizer, list(params.values()), states, lr, self.recorded)

    @staticmethod
    @torch.no_grad()
    def step(
        params: dict[str, Tensor],
        grads: Sequence[Tensor],
        optimizer_step: Callable[[], Any],
        lr: float | Tensor,
        lr_scale: Tensor | tuple[()],
    ) -> None:
        """The optimizer's step at rate `lr`, scaled by each agent's `lr_scale` if learning rates differ.

        At a learning rate of 0 recorded optimizers divide by it, 0 / 0 where a second moment is 0: such parameters
        are left unchanged.
        """
        for param, grad in zip(params.values(), grads, strict=True):
            param.grad = grad.contiguous()  # like the parameter; gradients of convolutions may be channels last
        if not isinstance(lr_scale, Tensor) and not isinstance(lr, Tensor) and lr > 0:
            optimizer_step()
            return
        before = [param.clone() for param in params.values()]
        optimizer_step()
        for param, old in zip(params.values(), before, strict=True):
            new = param
            if isinstance(lr_scale, Tensor):  # steps are proportional to the learning rate
                new = old + lr_scale.reshape(-1, *[1] * (param.dim() - 1)) * (param - old)
            if isinstance(lr, Tensor):
                new = torch.where((lr == 0) & new.isnan(), old, new)
            elif lr == 0:
                new = torch.where(new.isnan(), old, new)
            param.copy_(new)

    # The average of the weights -----------------------------------------------------------------------------------

    def states(self) -> list[dict[str, Tensor]]:
        """The optimizer's state of each parameter."""
        return [self.optimizer.state[param] for param in self.params.values()]

    @staticmethod
    def averages(params: dict[str, Tensor], states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Averaged parameters, which are kept with the optimizer's state; before the first step the parameters."""
        return {name: state.get(AVERAGE, p.detach()) for (name, p), state in zip(params.items(), states, strict=True)}

    def begin_average(self) -> None:
        """Start the averages as the parameters, before a step rather than at the first one."""
        for param, state in zip(self.params.values(), self.states(), strict=True):
            state[AVERAGE] = param.detach().clone()

    @staticmethod
    @torch.no_grad()
    def average(
        params: dict[str, Tensor], states: Sequence[dict[str, Tensor]], before: Sequence[Tensor], decay: float
    ) -> None:
        """Move averages to the parameters; before: the averages, or, at the first step, what the parameters were."""
        for param, state, old in zip(params.values(), states, before, strict=True):
            state.setdefault(AVERAGE, old).lerp_(param, 1.0 - decay)

    # Statistics of observations -----------------------------------------------------------------------------------

    def normalizers(self) -> dict[str, ObservationNormalizer]:
        """The network's normalizers of observations, by name."""
        return {name: m for name, m in self.network.named_modules() if isinstance(m, ObservationNormalizer)}

    @torch.no_grad()
    def normalize(self, obs: Tensor, weights: Tensor) -> None:
        """Update running statistics with observations (a, N, ...) of these weights (a, N)."""
        tensors = self.tensors()
        for name, module in self.normalizers().items():
            mean, var, count = held = [tensors[f"{name}.{key}"] for key in ("mean", "var", "count")]  # (a, ...)
            rows = obs.reshape(*weights.shape, *module.mean.shape)
            for tensor, new in zip(held, vmap(merge_moments)(mean, var, count, rows, weights), strict=True):
                tensor.copy_(new)

    @torch.no_grad()
    def health(self) -> Tensor:
        """Per agent (a,): finite if all of its parameters and statistics are."""
        statistics = [self.buffers[f"{name}.{key}"] for name in self.normalizers() for key in ("mean", "var")]
        return torch.stack([x.reshape(self.size, -1).sum(1) for x in (*self.params.values(), *statistics)]).sum(0)

    # State, by agent ----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers (a, ...), views."""
        return {
            name: x.detach()[None] if self.single else x.detach() for name, x in (self.params | self.buffers).items()
        }

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state (a, ...); see `optimizer_state.state_by_agent`."""
        return state_by_agent(self.optimizer, self.params, self.size)

    def load_optimizer_state(self, saved: dict[str, Any]) -> None:
        """Restore the result of `optimizer_state`."""
        restore(self.optimizer, self.params, self.size, saved)
