"""The learner: all agents' networks and optimizers, and the epochs of minibatch updates that train them."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from rlexp.algos.advantages import Advantages
from rlexp.algos.base import Algorithm, Metrics
from rlexp.algos.losses import explained_variance
from rlexp.algos.metric_names import EXPLAINED_VARIANCE
from rlexp.algos.schedules import PerAgent, Schedule
from rlexp.checks.hook_outputs import require_coefficients, require_replay, require_same_names
from rlexp.checks.location import located_errors
from rlexp.checks.network import check_stacked
from rlexp.compiling.compile import Notes
from rlexp.data import Batch, Rollout
from rlexp.envs.classic_control import World
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import ActorCritic, build_networks
from rlexp.networks.normalizer import ObservationNormalizer, merge_moments
from rlexp.seeding import AgentStreams, no_global_randomness
from rlexp.training.collector import Slot
from rlexp.training.how import ALONE, IN_TURN, STACKED, Choice
from rlexp.training.optimizers import Traits, stacks_exactly
from rlexp.training.vectorize import AgentGroup
from rlexp.watch import Watch

log = logging.getLogger(__name__)

Batching = Literal["auto", "vmap", "loop"]


def choose_batching(
    network: ActorCritic,
    algo: Algorithm,
    optimizer: Traits,
    batching: Batching,
    device: torch.device,
    unstackable_at: str | None = None,
) -> Choice:
    """Whether agents are stacked or trained one after the other.

    They cannot be stacked with early stopping by target KL, as each agent stops separately, an optimizer that is not
    elementwise, or a loss with data-dependent control flow. On a CPU, convolutions are faster in turn.

    unstackable_at: location of such control flow; see `checks.objective.check_loss`.

    Raises:
        ConfigError: batching=vmap, but agents cannot be stacked.
    """
    alone = [*["algo.target_kl"] * (algo.target_kl is not None), *["this optimizer"] * (not optimizer.elementwise)]
    if unstackable_at is not None:
        alone += [unstackable_at if unstackable_at.startswith("the network") else f"the loss ({unstackable_at})"]
    if alone and batching == "vmap":
        raise ConfigError(f"batching=vmap: {' and '.join(alone)} cannot be used with stacked agents; use batching=auto")
    if alone:
        return Choice(IN_TURN, f"because of {' and '.join(alone)}")
    if batching != "auto":
        return Choice(IN_TURN if batching == "loop" else STACKED, f"batching={batching}")
    if device.type == "cpu" and any(getattr(m, "prefers_loop", False) for m in network.modules()):
        return Choice(IN_TURN, "faster for convolutions on a CPU")
    return Choice(STACKED, "faster than one after the other")


def rows_with_weight(weights: Tensor) -> Tensor:
    """Row indices (A, T*E) that replace each dummy row, which must not be read, by the agent's first other row.

    weights: (A, T, E). Returns indices into A*T*E rows; a dummy row keeps its weight of 0, and so has no effect.
    """
    flat = weights.flatten(1)
    numbers = torch.arange(flat.numel(), device=flat.device).view_as(flat)
    return torch.where(flat > 0, numbers, numbers.gather(1, flat.argmax(1, keepdim=True)))


class Learner:
    """Trains A agents.

    Args:
        build: makes one agent's network.
        algo: the objective and its hyperparameters.
        make_optimizer: called with a list of tensors and ``lr=``.
        traits: how that optimizer behaves.
        lr: learning rate as a function of training progress.
        streams: one per agent.
        observation_space: raw.
        device: of all tensors.
        batching: "vmap" stacks agents, "loop" trains one after the other, "auto" chooses.
        compiled: run acting and minibatch updates as compiled graphs.
        world: torch dynamics of environments that acting steps itself, if any.
        watch: aborts compilation when the run is asked to stop.
        unstackable_at: location in the loss or network of what prevents stacking agents.
        unstackable_why: what it does there.
        verify_loss: call the loss twice before the first minibatch, and require equal results.
    """

    def __init__(
        self,
        build: Callable[[], ActorCritic],
        algo: Algorithm,
        make_optimizer: Callable[..., Any],
        traits: Traits,
        lr: Schedule | PerAgent,
        streams: list[AgentStreams],
        *,
        observation_space: spaces.Space,
        device: torch.device,
        batching: Batching = "auto",
        compiled: bool = False,
        world: World | None = None,
        watch: Watch | None = None,
        unstackable_at: str | None = None,
        unstackable_why: str = "",
        verify_loss: bool = True,
    ) -> None:
        self.algo, self.lr, self.streams, self.device = algo, lr, streams, device
        self.compiled, self.notes = compiled, Notes()
        networks = [network.to(device) for network in build_networks(build, streams)]
        self.batching = choose_batching(networks[0], algo, traits, batching, device, unstackable_at)
        size = 1 if self.batching.value == IN_TURN else len(networks)
        if len(networks) == 1:
            self.batching = Choice(ALONE, "one agent")
        if unstackable_at is not None and len(networks) > 1:
            log.info(
                "%s %s: agents are trained one after the other; %d take about %d times as long as one",
                unstackable_at
                if unstackable_at.startswith("the network")
                else f"{unstackable_at}: {type(algo).__name__}.loss",
                unstackable_why,
                len(networks),
                len(networks),
            )

        fastest = lr.highest or 1.0  # some optimizers reject 0

        def optimizer(params: list[Tensor], lr: float = fastest) -> torch.optim.Optimizer:
            return make_optimizer(params, lr=lr)

        shapes = [tuple(param.shape) for param in networks[0].parameters() if param.requires_grad]
        if size > 1 and not stacks_exactly(make_optimizer, shapes, size, steps=3):
            if batching == "vmap":
                raise ConfigError("batching=vmap: this optimizer mixes agents of these shapes; use batching=auto")
            log.info("this optimizer mixes stacked agents of these shapes: they are trained one after the other")
            size = 1
            self.batching = Choice(IN_TURN, "this optimizer mixes stacked agents of these shapes")
        self.groups = [
            AgentGroup(
                networks[first : first + size],
                algo,
                optimizer,
                compiled,
                world,
                recordable=traits.recordable,
                watch=watch,
                notes=self.notes,
                verify_loss=verify_loss,
            )
            for first in range(0, len(networks), size)
        ]
        if size > 1:
            check_stacked(networks, self.groups[0].params | self.groups[0].buffers, observation_space, device)
        self.shares: dict[int, list[Slot]] = {}  # each group's part of a slot, by the slot's id
        self.slots: list[Slot] = []

    @property
    def compiling(self) -> float:
        """Seconds spent compiling."""
        return sum(group.compiling for group in self.groups)

    def _slices(self) -> list[tuple[AgentGroup, slice]]:
        size = self.groups[0].size
        return [(group, slice(i * size, (i + 1) * size)) for i, group in enumerate(self.groups)]

    @torch.no_grad()
    def act(self, slot: Slot) -> None:
        """Sample actions for the slot's observations with its noise, and write the results into the slot."""
        shares = self.shares.get(id(slot))
        if shares is None:
            shares = self.shares[id(slot)] = [
                tree_map(lambda x, part=part: x[part], slot) for _, part in self._slices()
            ]
            self.slots.append(slot)  # keeps the slot alive, and so its id unique
        for group, share in zip(self.groups, shares, strict=True):
            group.act(share)

    @torch.no_grad()
    def policy(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (A, E, P) and values (A, E) of observations (A, E, ...)."""
        outputs = [group.policy(obs[part]) for group, part in self._slices()]
        params, values = zip(*outputs, strict=True)
        return torch.cat(params), torch.cat(values)

    def update(self, rollout: Rollout, targets: Advantages, progress: float, *, last: bool = False) -> Metrics:
        """Epochs × minibatches of the algorithm's loss on one rollout. Returns each agent's mean metrics (A,).

        progress: of the run, from 0 to 1; last: this is the run's last update.
        """
        algo = self.algo
        first = not self.groups[0].metric_names
        agents, minibatches = len(self.streams), algo.epochs * algo.minibatches
        with located_errors(algo, "coefficients"):
            coefficients = algo.coefficients(progress, agents, self.device)
        require_coefficients(algo, coefficients, agents)
        rates = np.broadcast_to(self.lr(progress), len(self.streams))
        for group, part in self._slices():
            group.set_rates(rates[part], per_agent=isinstance(self.lr, PerAgent))
        data = Batch.of(rollout, targets.advantages, targets.returns)
        rows = rows_with_weight(rollout.weights)  # (A, T*E)
        data = data.map_rows(lambda x: x.flatten(0, 2)[rows])  # (A, T, E, ...) -> (A, T*E, ...)
        if (rollout.steps == 0).any():  # an agent has only dummy rows, none of which may be read
            any_row = (rollout.weights.flatten(1).sum(1) > 0)[:, None]
            data = data.map_rows(
                lambda x: torch.where(any_row.reshape(-1, *[1] * (x.dim() - 1)), x, torch.zeros_like(x))
            )
        data = data._replace(weights=rollout.weights.flatten(1))
        with located_errors(algo, "replay"), no_global_randomness("algo.replay") if first else contextlib.nullcontext():
            data = data._replace(replay=algo.replay(minibatches))
        require_replay(algo, data.replay, agents, minibatches)
        data = data._replace(key=torch.stack([self._keys(stream) for stream in self.streams]))
        self._require_same_algorithm()  # hooks such as `observe` may have changed an attribute
        order = torch.stack([self._order(stream, rows.shape[1]) for stream in self.streams])  # (A, epochs, T*E)
        metrics: list[Metrics] = []
        for group, part in self._slices():
            share = tree_map(lambda x, part=part: x[part], (data, coefficients))
            metrics.append(group.update(share[0], order[part], share[1], algo.minibatches, last=last))
        for others in metrics[1:]:
            require_same_names(algo, metrics[0], others)
        merged = {name: torch.cat([m[name] for m in metrics]) for name in metrics[0]}
        merged[EXPLAINED_VARIANCE] = vmap(explained_variance)(data.values, data.returns, data.weights)
        with located_errors(algo, "adapt"), no_global_randomness("algo.adapt") if first else contextlib.nullcontext():
            algo.adapt(merged)
        self._require_same_algorithm()
        return merged

    def _require_same_algorithm(self) -> None:
        for group in self.groups:
            group.reads.require_same(self.algo)

    def _keys(self, stream: AgentStreams) -> Tensor:
        """Random keys of an agent's minibatches (epochs · minibatches,)."""
        shape = (self.algo.epochs * self.algo.minibatches,)
        return torch.randint(2**62, shape, generator=stream.loss, device=self.device)

    def _order(self, stream: AgentStreams, rows: int) -> Tensor:
        epochs = range(self.algo.epochs)
        return torch.stack([torch.randperm(rows, generator=stream.order, device=self.device) for _ in epochs])

    @torch.no_grad()
    def health(self) -> Tensor:
        """Per agent (A,): finite if all of its parameters and statistics are."""
        names = [
            f"{name}.{key}"
            for name, module in self.groups[0].network.named_modules()
            if isinstance(module, ObservationNormalizer)
            for key in ("mean", "var")
        ]
        sums = []
        for group in self.groups:
            watched = [*group.params.values(), *(group.buffers[name] for name in names)]
            sums.append(torch.stack([x.reshape(group.size, -1).sum(1) for x in watched]).sum(0))
        return torch.cat(sums)

    @torch.no_grad()
    def normalize(self, rollout: Rollout) -> None:
        """Update running observation statistics with a rollout, where the network has any."""
        for group, part in self._slices():
            for name, module in group.network.named_modules():
                if not isinstance(module, ObservationNormalizer):
                    continue
                buffers = [group.buffers[f"{name}.{key}"] for key in ("mean", "var", "count")]
                old = [b[None] if group.single else b for b in buffers]
                weights = rollout.weights[part].flatten(1)
                obs = rollout.obs[part].flatten(1, 2).reshape(*weights.shape, *module.mean.shape)
                for buffer, new in zip(buffers, vmap(merge_moments)(old[0], old[1], old[2], obs, weights), strict=True):
                    buffer.copy_(new[0] if group.single else new)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of all agents, stacked: name -> (A, ...)."""
        stacked = [
            {k: v.detach()[None] if group.single else v.detach() for k, v in (group.params | group.buffers).items()}
            for group in self.groups
        ]
        return {name: torch.cat([tensors[name] for tensors in stacked]) for name in stacked[0]}

    def state_dict(self) -> dict[str, Any]:
        """Parameters, buffers and optimizer states, all (A, ...), independent of how agents are grouped."""
        states = [group.optimizer_state() for group in self.groups]
        optimizer = tree_map(lambda *each: torch.cat(each), *states)
        return {"tensors": self.tensors(), "optimizer": optimizer, "updated": self.groups[0].updated}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `tensors`."""
        for group, part in self._slices():
            for name, tensor in (group.params | group.buffers).items():
                saved = tensors[name][part]
                tensor.copy_(saved[0] if group.single else saved)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.load_tensors(state["tensors"])
        for group, part in self._slices():
            group.load_optimizer_state(tree_map(lambda x, part=part: x[part], state["optimizer"]))
            group.updated = state["updated"]
