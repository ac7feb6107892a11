"""Contract of an objective, checked on a synthetic rollout before the first step.

`location.py` locates errors in user code, `hook_outputs.py` checks return values. Exceptions that may be due to
synthetic values are ignored: the first real update reports them (see `location.is_mistake`).
"""

import functools
import logging
from bdb import BdbQuit
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_map

from rlexp.algos.base import Algorithm
from rlexp.checks.apart import AGENTS, beside, require_own_coefficients, require_own_outputs, unchanged
from rlexp.checks.hook_outputs import (
    require_coefficients,
    require_finite_rewards,
    require_observed,
    require_replay,
    require_rewards,
    same_outputs,
)
from rlexp.checks.kept import warn_if_rollout_is_kept
from rlexp.checks.location import located_errors, refusal, where_defined, where_raised
from rlexp.checks.loss import LossCheck, none_if_synthetic
from rlexp.checks.misspelt import warn_if_hook_is_misspelt
from rlexp.checks.network import where_network_raised
from rlexp.checks.saved_state import saved_state
from rlexp.checks.synthetic import EachNetwork, batch_of, copied, rollout_of
from rlexp.data import Batch, ExtraRewards, Rollout, RunSpec
from rlexp.networks.actor_critic import ActorCritic, Policy, build_networks
from rlexp.plain.attributes import leaves
from rlexp.plain.by_agent import Division
from rlexp.plain.digest import digest
from rlexp.seeding import AgentStreams, no_global_randomness, seeded
from rlexp.text import one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Findings:
    """Why agents cannot be stacked, if so."""

    unstackable_at: str | None = None  # location in the loss or the network
    unstackable_why: str = ""  # the operation there


def check_loss(
    make: Callable[[], Algorithm],
    build: Callable[[], ActorCritic],
    space: spaces.Space,
    num_envs: int,
    device: torch.device,
    agents: int = AGENTS,
    population: int = 1,
    division: Division | None = None,
) -> Findings:
    """Check an objective for one agent, and for several if the run has them.

    make: makes the objective, used here only; build: one agent's network; space: of raw observations; num_envs: per
    agent; agents: of the run; population: how many of them belong together, and may share; division: of its state.

    Raises:
        ObjectiveError: a hook returns something invalid, or the loss is not a function of policy and batch that
            returns a differentiable scalar and scalar metrics; names file, line and violation.
    """
    agents = population if population > 1 else min(agents, AGENTS)
    with seeded(0):
        streams = [[AgentStreams.make(seed, device) for seed in range(agents)] for _ in range(3)]
        networks = [network.to(device) for network in build_networks(build, streams[0])]
        algo = make()
        specs = [RunSpec(agents, num_envs, each, device, population) for each in streams[1:]]
        made = none_if_synthetic(algo, "prepare", lambda: _require_reproducible(algo, make, specs))
        if made is None:
            return Findings()
        (twin,) = made
        warn_if_hook_is_misspelt(algo)
        make_rollout = functools.partial(rollout_of, networks, space, algo.rollout_steps, num_envs, device)
        rollout, policies = make_rollout(), EachNetwork(networks)
        prepared, alone = functools.partial(beside, make, specs[0]), agents == 1 or population > 1
        extra = none_if_synthetic(algo, "rewards", lambda: _rewards(algo, rollout, policies))
        if extra is None:
            return Findings()
        with unchanged(algo, "observe", rollout):
            observed = none_if_synthetic(algo, "observe", lambda: algo.observe(rollout))
        if observed is not None:
            require_observed(algo, observed[0], agents)
        values = none_if_synthetic(algo, "coefficients", lambda: algo.coefficients(0.0, agents, device))
        if values is None:
            return Findings()
        require_coefficients(algo, values[0], agents)
        minibatches = algo.epochs * algo.minibatches
        replay = none_if_synthetic(algo, "replay", lambda: algo.replay(minibatches))
        if replay is not None:
            require_replay(algo, replay[0], agents, minibatches)
        if twin is not None and not alone:
            require_own_outputs(algo, prepared, (make_rollout(), make_rollout(seed=1)), policies)
        rows = algo.rollout_steps * num_envs // algo.minibatches
        batch = batch_of(rollout, extra[0], replay[0] if replay else (), rows)
        check = LossCheck(algo, networks[0], *tree_map(lambda x: x[0], (batch, values[0])))
        metrics = check.run({} if observed is None else observed[0])
        findings = Findings() if agents == 1 else _why_unstackable(algo, networks, batch, values[0], certain=check.ran)
        if metrics is None:
            return findings
        if twin is not None and observed is not None:
            metrics = {name: x.detach().float().repeat(agents) for name, x in metrics.items()}
            if not alone and type(algo).adapt is not Algorithm.adapt:
                require_own_coefficients(algo, prepared, make_rollout(), policies, metrics)
            check.call_or_none(twin.bind(check.coefficients), check.batch)  # for what it creates lazily
            _check_resume(
                algo, twin, division or Division(), specs, metrics, functools.partial(make_rollout, seed=1), policies
            )
        return findings


def _rewards(algo: Algorithm, rollout: Rollout, policies: EachNetwork) -> ExtraRewards | None:
    """What an objective adds to a rollout's rewards, checked."""
    with unchanged(algo, "rewards", rollout), no_global_randomness("algo.rewards"):
        extra = algo.rewards(rollout, policies)
    require_rewards(algo, extra, rollout)
    require_finite_rewards(algo, extra, rollout)
    return extra


def _require_reproducible(algo: Algorithm, make: Callable[[], Algorithm], specs: Sequence[RunSpec]) -> Algorithm | None:
    """Prepare the objective, and refuse one whose state depends on global random streams.

    Returns a second objective, prepared likewise; None for objectives of rlexp, whose tests cover this.
    """
    algo.prepare(specs[0])
    if type(algo).__module__.startswith("rlexp."):
        return None
    with seeded(1):
        again = make()
        again.prepare(specs[1])
    for name, value in algo._attributes().items():
        if digest(value, opaque=False) != digest(again._attributes().get(name), opaque=False):
            hook = "prepare" if type(algo).prepare is not Algorithm.prepare else "__post_init__"
            what = (
                f"self.{name} differs each time it is made, by random numbers, a clock or torch.empty, so it would "
                f"change in a resumed run or with other seeds in the batch; make random values with "
                f"self.{name} = spec.per_agent(make) in prepare(spec), others with torch.zeros"
            )
            raise refusal(algo, hook, what, f"self.{name}")
    return again


def _why_unstackable(
    algo: Algorithm, networks: list[ActorCritic], batch: Batch, coefficients: dict[str, Tensor], *, certain: bool
) -> Findings:
    """Location and reason if agents cannot be stacked; certain: the loss works for one agent."""
    params, buffers = stack_module_state(networks)

    def loss_of(
        params: dict[str, Tensor], buffers: dict[str, Tensor], rows: Batch, values: dict[str, Tensor]
    ) -> tuple[Tensor, Any]:
        average = {name: x.detach() for name, x in params.items()} if algo.average_decay is not None else None
        return algo.bind(values).loss(Policy(networks[0], params | buffers, rows.key, average), rows)

    try:
        vmap(grad_and_value(loss_of, has_aux=True))(params, buffers, copied(batch), coefficients)
    except BdbQuit:
        raise
    except Exception as error:  # vmap's errors on branches on tensors, .item(), float(), numpy
        where = where_network_raised(error, networks[0])
        if where or certain or "vmap" in str(error):
            return Findings(where or where_raised(error, algo, "loss"), _describe_vmap_error(str(error)))
    return Findings()


def _describe_vmap_error(line: str) -> str:
    if "inplace arithmetic" in line or "match the broadcast shape" in line:
        return "changes a shared tensor in place there (write acc = acc + x, or torch.stack)"
    if "data-dependent control flow" in line or "storage" in line:
        return "reads single values there (a branch, .item(), float(), numpy; use torch.where to stack agents)"
    if "dynamic shape" in line:
        return "selects rows by value there (a mask, nonzero; use weights of 0 to stack agents)"
    return f"cannot be stacked there ({one_line(line, 160)})"


def _check_resume(
    algo: Algorithm,
    twin: Algorithm,
    division: Division,
    specs: Sequence[RunSpec],
    metrics: dict[str, Tensor],
    make_rollout: Callable[[], Rollout],
    policies: EachNetwork,
) -> None:
    """Warn about state of an objective that a resumed run would lose.

    algo has observed a rollout; twin, prepared identically, loads its state. specs: passed to `prepare` of each;
    metrics: of an update (A,); make_rollout: makes the next rollout, always the same.
    """

    def adapt(one: Algorithm) -> None:
        one.adapt({name: x.clone() for name, x in metrics.items()})

    def update(one: Algorithm, spec: RunSpec) -> dict[str, Tensor]:
        rollout = make_rollout()
        one.rewards(rollout, policies)
        one.observe(rollout)
        given = one.coefficients(0.5, spec.num_agents, spec.device)
        values = {name: x.clone() for name, x in given.items() if isinstance(x, Tensor)}
        one.replay(one.epochs * one.minibatches)
        adapt(one)
        if one is algo:
            warn_if_rollout_is_kept(algo, rollout)
        return values

    if not none_if_synthetic(algo, "adapt", lambda: adapt(algo)):
        return
    state = saved_state(algo, specs[0], division)
    with located_errors(algo, "load_state_dict"):
        twin.load_state_dict(state)
    for stream, other in zip(specs[0].streams, specs[1].streams, strict=True):
        other.load_state_dict(stream.state_dict())
    values = []
    for one, spec in ((algo, specs[0]), (twin, specs[1])):
        if (found := none_if_synthetic(one, "observe", functools.partial(update, one, spec))) is None:
            return
        values.append(found[0])
    lost = "not saved by state_dict(), or not restored by load_state_dict(): a resumed run would reset it"
    for name, x in values[0].items():  # adapt may have made the attributes equal again
        if name not in values[1] or not same_outputs([x], [values[1][name]], on_cuda=x.is_cuda):
            where = where_defined(algo, "load_state_dict", f"self.{name}")
            log.warning("%s: coefficient %s changes during training but is %s", where, name, lost)
    restored = twin._attributes()
    for name, value in algo._attributes().items():
        if _digests(value) != _digests(restored.get(name)):
            log.warning("%s: algo.%s changes during training but is %s", where_defined(algo, "state_dict"), name, lost)


def _digests(value: Any) -> dict[str, str]:
    """Digests of what is in a value, by path: the order of names, and what is the same object, do not count."""
    found: dict[str, str] = {}
    for path, leaf in leaves(value, kinds=(list, tuple, deque)):
        if isinstance(leaf, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
            found |= {path + below: each for below, each in _digests(leaf.state_dict()).items()}
        elif not isinstance(leaf, Mapping | list | tuple | deque) or leaf:
            found[path] = digest(leaf.item() if isinstance(leaf, np.generic) else leaf, opaque=False)
    return found
