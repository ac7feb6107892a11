"""What an objective must keep to, whoever wrote it: tried on a made-up rollout before the first step.

Where it stands is told by `whereabouts.py`, what hooks must give by `outputs.py`. An exception that may be
of the made-up numbers alone proves nothing: the first real update tells it (see `whereabouts.is_mistake`).
"""

import functools
from bdb import BdbQuit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.func import grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_map

from rlexp.algos.base import Algorithm
from rlexp.checks.hook_outputs import require_coefficients, require_observed, require_replay
from rlexp.checks.location import refusal, where_raised
from rlexp.checks.loss import Trial, unless_made_up
from rlexp.checks.network import where_network_raised
from rlexp.checks.state_dict import rehearse
from rlexp.checks.synthetic import batch_of, copied, rollout_of
from rlexp.data import Batch, Rollout, RunSpec
from rlexp.networks.actor_critic import ActorCritic, Policy, build_networks
from rlexp.plain.digest import digest
from rlexp.seeding import AgentStreams, seeded

AGENTS = 2  # where the run has several


@dataclass(frozen=True)
class Findings:
    """What a loss does that others do not."""

    alone_at: str | None = None  # where it, or the network, does what keeps agents from being stacked
    alone_why: str = ""  # what that is


def check_loss(
    make: Callable[[], Algorithm],
    build: Callable[[], ActorCritic],
    space: spaces.Space,
    num_envs: int,
    device: torch.device,
    agents: int = AGENTS,
) -> Findings:
    """Try an objective for one agent, and for several where there are.

    Args:
        make: makes the objective; what it makes here is used for nothing else.
        build: makes one agent's network.
        space: of raw observations.
        num_envs: of each agent.
        device: where training happens.
        agents: of the run.

    Raises:
        ObjectiveError: a hook gives what it must not, or the loss is no function of its policy and batch that gives a
            scalar with a gradient and scalars to log; the line names the file, the line, and what is wrong.
    """
    agents = min(agents, AGENTS)
    with seeded(0):
        networks = [network.to(device) for network in build_networks(build, _streams(agents, device))]
        algo = make()
        spec = functools.partial(_spec, agents, num_envs, device)
        specs = spec(), spec()
        twin = unless_made_up(algo, "prepare", lambda: (_require_reproducible(algo, make, specs),))
        if twin is None:
            return Findings()
        make_rollout = functools.partial(rollout_of, networks, space, algo.rollout_steps, num_envs, device)
        rollout = make_rollout()
        observed = unless_made_up(algo, "observe", lambda: (algo.observe(rollout),))
        if observed is not None:
            require_observed(algo, observed[0], agents)
        values = unless_made_up(algo, "coefficients", lambda: (algo.coefficients(0.0, agents, device),))
        if values is None:
            return Findings()
        require_coefficients(algo, values[0], agents)
        minibatches = algo.epochs * algo.minibatches
        replay = unless_made_up(algo, "replay", lambda: (algo.replay(minibatches),))
        if replay is not None:
            require_replay(algo, replay[0], agents, minibatches)
        batch = batch_of(rollout, replay[0] if replay else (), algo.rollout_steps * num_envs // algo.minibatches)
        trial = Trial(algo, networks[0], *tree_map(lambda x: x[0], (batch, values[0])))
        metrics = trial.run({} if observed is None else observed[0])
        findings = Findings() if agents == 1 else _why_not_stacked(algo, networks, batch, values[0], certain=trial.ran)
        if metrics is None:
            return findings
        if twin[0] is not None and observed is not None:
            metrics = {name: x.detach().float().repeat(agents) for name, x in metrics.items()}
            if agents > 1 and type(algo).adapt is not Algorithm.adapt:
                _require_own_metrics(algo, twin[0], make_rollout, metrics, device)
            trial.warm(twin[0])
            rehearse(algo, twin[0], specs, metrics, functools.partial(make_rollout, seed=1))
        return findings


def _streams(agents: int, device: torch.device) -> list[AgentStreams]:
    return [AgentStreams.make(seed, device) for seed in range(agents)]


def _spec(agents: int, num_envs: int, device: torch.device) -> RunSpec:
    return RunSpec(agents, num_envs, _streams(agents, device), device)


def _require_reproducible(
    algo: Algorithm, make: Callable[[], Algorithm], specs: tuple[RunSpec, RunSpec]
) -> Algorithm | None:
    """Prepare the objective, and refuse one that holds something else when the global streams stand elsewhere.

    Another one, prepared likewise; none for those of rlexp, which draw from the agents' streams alone and save what
    they keep, as tests see to.
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
            raise refusal(
                algo,
                hook,
                f"self.{name} is another one each time it is made, by random numbers, a clock or what torch.empty "
                f"finds in memory, and a run that is resumed, or has other seeds beside it, would have others; random "
                f"ones are made by self.{name} = spec.per_agent(make) in prepare(spec), others by torch.zeros",
                f"self.{name}",
            )
    return again


def _why_not_stacked(
    algo: Algorithm, networks: list[ActorCritic], batch: Batch, coefficients: dict[str, Tensor], *, certain: bool
) -> Findings:
    """Where and why agents cannot be stacked; certain: the loss is known to work for one agent."""
    params, buffers = stack_module_state(networks)

    def loss_of(
        params: dict[str, Tensor], buffers: dict[str, Tensor], rows: Batch, values: dict[str, Tensor]
    ) -> tuple[Tensor, Any]:
        return algo.bind(values).loss(Policy(networks[0], params | buffers, rows.key), rows)

    try:
        vmap(grad_and_value(loss_of, has_aux=True))(params, buffers, copied(batch), coefficients)
    except BdbQuit:
        raise
    except Exception as error:  # what vmap says of branches on tensors, .item(), float(), numpy
        line = str(error)
        if place := where_network_raised(error, networks[0]):
            return Findings(place, _told_by_vmap(line))
        if certain or "vmap" in line:
            return Findings(where_raised(error, algo, "loss"), _told_by_vmap(line))
    return Findings()


def _require_own_metrics(
    algo: Algorithm, twin: Algorithm, observed: Callable[[], Rollout], metrics: dict[str, Tensor], device: torch.device
) -> None:
    """Refuse an `adapt` by which an agent's coefficients follow the metrics of another, as those of a mean over all.

    algo, twin: prepared alike; one has observed what the other is to.
    """

    def adapted(one: Algorithm, factor: float) -> dict[str, Tensor]:
        scale = torch.tensor([1.0, factor], device=device)
        one.adapt({name: x * scale for name, x in metrics.items()})
        return one.coefficients(0.0, AGENTS, device)

    try:
        twin.observe(observed())
        ours, theirs = adapted(algo, 1.0), adapted(twin, 0.25)
    except BdbQuit:
        raise
    except Exception:  # of numbers that no update gives; whatever else it is, the first update tells it
        return
    for name, x in ours.items():
        if not torch.equal(x[0].nan_to_num(), theirs[name][0].nan_to_num()):
            reduced = [f"{how}(" for how in ("mean", "max", "min", "sum", "any", "all", "item", "median")]
            raise refusal(
                algo,
                "adapt",
                f"{name} of an agent follows the metrics of the agent beside it, so that no agent would learn what it "
                f"learns alone; metrics hold one value an agent (A,): keep them apart, without mean() or max()",
                *(f"].{how}" for how in reduced),
                *reduced,
                f"self.{name}",
            )


def _told_by_vmap(line: str) -> str:
    if "inplace arithmetic" in line or "match the broadcast shape" in line:
        return "changes a tensor in place there that is not the agent's own (write acc = acc + x, or torch.stack)"
    if "data-dependent control flow" in line or "storage" in line:
        return "looks at single values there (a branch, .item(), float(), numpy; torch.where keeps agents side by side)"
    if "dynamic shape" in line:
        return "picks rows by their values there (a mask, nonzero; weights of 0 keep agents side by side)"
    return f"cannot be stacked there ({' '.join(line.split())[:160]})"
