"""Agents side by side: what an objective makes of one must not depend on the others, nor on what they share."""

import contextlib
import dataclasses
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rlexp.algos.base import Algorithm, Metrics
from rlexp.checks.hook_outputs import quoted
from rlexp.checks.location import CHANGING, refusal
from rlexp.data import Rollout, RunSpec
from rlexp.networks.actor_critic import Policies
from rlexp.seeding import AgentStreams

AGENTS = 2  # in a check, if the run has several
REDUCTIONS = tuple(f"{how}(" for how in ("mean", "std", "var", "max", "min", "sum", "any", "all", "item", "median"))
REDUCTIONS += ("quantile(", "streams[0]", "[0]")  # how code mixes agents
OF_OTHERS = "so results would depend on what is in the batch"
OTHERS_METRICS = ((0.25, 0.0), (1.0, 1.0), (1.0, -1.0))  # scale and shift, as a KL is 0 in a dry run
Outputs = dict[tuple[str, str], Tensor]  # (hook, name) -> of one agent


@contextlib.contextmanager
def unchanged(algo: Algorithm, hook: str, rollout: Rollout) -> Iterator[None]:
    """Refuse a hook that writes into the rollout, which everything that follows reads."""
    before = {name: x.clone() for name, x in held(rollout).items()}
    yield
    for name, x in held(rollout).items():
        if name in before and not _same(x, before[name]):
            remedy = "return ExtraRewards(...)" if hook == "rewards" else "work on a copy"
            raise refusal(algo, hook, f"changes rollout.{name}, which is not its own; {remedy}", f"rollout.{name}")


def beside(make: Callable[[], Algorithm], spec: RunSpec, number: int) -> Algorithm:
    """An objective prepared for agents whose seeds depend on the number, but for the last one's."""
    seeds = [number + 1] * (spec.num_agents - 1) + [0]
    algo = make()
    algo.prepare(dataclasses.replace(spec, streams=[AgentStreams.make(seed, spec.device) for seed in seeds]))
    return algo


def require_own_outputs(
    algo: Algorithm, prepared: Callable[[int], Algorithm], rollouts: Sequence[Rollout], policies: Policies
) -> None:
    """Refuse hooks that make what is an agent's depend on other agents' rows or streams, as by a mean over all.

    prepared: a new objective, whose last agent has the same stream for any number; rollouts: of two updates, as the
    first may show nothing of what it leaves in the statistics.
    """
    mixed = [_mixed(mine, others) for mine, others in zip(rollouts, reversed(rollouts), strict=True)]
    try:
        one, again, other = (
            [_outputs(each, rows, policies) for rows in seen]
            for each, seen in ((prepared(0), rollouts), (prepared(0), rollouts), (prepared(1), mixed))
        )
    except BdbQuit:
        raise
    except Exception:  # perhaps due to synthetic values; otherwise the first update reports it
        return
    for found, repeated, found_beside in zip(one, again, other, strict=True):
        for (hook, name), x in found.items():
            at = hook, name
            if hook == "rewards" and not _close(x, repeated.get(at)):
                what = f"{name} differ when it is called again with the same rollout, as by a clock or a counter that "
                what += "all objects share; a resumed run would not repeat them"
                raise refusal(algo, hook, what, *CHANGING, "return")
            if _close(x, repeated.get(at)) and not _close(x, found_beside.get(at)):
                raise _mixes_agents(algo, hook, name)


def _mixes_agents(algo: Algorithm, hook: str, name: str) -> Exception:
    remedy = "reduce over steps and environments only, as by x.mean((1, 2), keepdim=True)"
    if hook == "rewards":
        what = f"{name} of an agent depend on other agents' rows or streams, {OF_OTHERS}; {remedy}"
        return refusal(algo, hook, what, *REDUCTIONS, "return")
    if hook == "replay":
        what = f"what an agent replays depends on other agents' rows, {OF_OTHERS}; take agent k's from its own rows"
        return refusal(algo, hook, f"{what}, by spec.streams[k]", "return")
    what = f"{name} of an agent depends on other agents' rows, {OF_OTHERS}; {remedy}"
    return refusal(algo, "observe", what, f"self.{name} =", *REDUCTIONS, *quoted(name))


def require_own_coefficients(
    algo: Algorithm, prepared: Callable[[int], Algorithm], rollout: Rollout, policies: Policies, metrics: Metrics
) -> None:
    """Refuse an `adapt` that makes an agent's coefficients depend on other agents' metrics, as by a mean over all.

    prepared: as in `require_own_outputs`; rollout: of the first update; metrics: of it, (A,).
    """

    def adapted(one: Algorithm, scale: float, shift: float) -> Metrics:
        device = rollout.rewards.device
        mine = torch.arange(AGENTS, device=device) == AGENTS - 1
        one.adapt({name: torch.where(mine, x, x * scale + shift) for name, x in metrics.items()})
        return one.coefficients(0.0, AGENTS, device)

    try:
        one, other = prepared(0), prepared(0)
        for each in (one, other):
            _outputs(each, rollout, policies)
        pairs = [(adapted(one, 1.0, 0.0), adapted(other, scale, shift)) for scale, shift in OTHERS_METRICS]
    except BdbQuit:
        raise
    except Exception:  # perhaps due to synthetic values; otherwise the first update reports it
        return
    for first, second in pairs:
        for name, x in first.items():
            if not torch.equal(x[-1].nan_to_num(), second[name][-1].nan_to_num()):
                what = f"{name} of an agent depends on another agent's metrics, {OF_OTHERS}; metrics hold one value per"
                what += " agent (A,): do not reduce them, as by mean() or max()"
                at = (*(f"].{how}" for how in REDUCTIONS), *REDUCTIONS, f"self.{name}")
                raise refusal(algo, "adapt", what, *at)


def _outputs(algo: Algorithm, rollout: Rollout, policies: Policies) -> Outputs:
    """What the hooks of an update make for the last agent."""
    extra, agents = algo.rewards(rollout, policies), len(rollout.rewards)
    of_hooks: dict[str, dict[Any, Any]] = {
        "rewards": {name: getattr(extra, name, None) for name in ("rewards", "values", "last_values", "joined")},
        "observe": algo.observe(rollout),
        "coefficients": algo.coefficients(0.0, agents, rollout.rewards.device),
        "replay": dict(enumerate(tree_leaves(algo.replay(algo.epochs * algo.minibatches)))),
    }
    return {
        (hook, str(name)): x[-1].detach().clone()  # the hook may change what it has returned
        for hook, named in of_hooks.items()
        for name, x in named.items()
        if isinstance(x, Tensor) and x.dim() and len(x) == agents
    }


def _mixed(mine: Rollout, others: Rollout) -> Rollout:
    """A rollout with the last agent's rows of one and the other agents' of another, whose episodes end likewise.

    The others' rewards and values are larger, which shows in a maximum or a quantile over all.
    """
    theirs = _tensors(others)
    theirs |= {name: theirs[name] * 4.0 for name in ("rewards", "learner_rewards", "values", "last_values")}
    mixed: dict[str, Any] = {name: torch.cat([theirs[name][:-1], x[-1:]]) for name, x in _tensors(mine).items()}
    last = mine.episodes.agents == len(mine.rewards) - 1
    returns = np.where(last, mine.episodes.returns, others.episodes.returns * 4.0)
    episodes = dataclasses.replace(mine.episodes, returns=returns)
    return dataclasses.replace(mine, **mixed, episodes=episodes, games=episodes)


def _tensors(rollout: Rollout) -> dict[str, Tensor]:
    return {name: x for name, x in vars(rollout).items() if isinstance(x, Tensor)}


def held(rollout: Rollout) -> dict[str, Tensor]:
    """Tensors and arrays of a rollout, the episodes' as well."""
    arrays = {f"episodes.{name}": x for name, x in vars(rollout.episodes).items()} | vars(rollout)
    return _tensors(rollout) | {name: torch.as_tensor(x) for name, x in arrays.items() if isinstance(x, np.ndarray)}


def _close(x: Tensor, y: Tensor | None) -> bool:
    return (
        y is not None
        and x.shape == y.shape
        and torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-7, equal_nan=True)
    )


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())
