"""Agents side by side: what an objective makes of one must not depend on the others, nor on what they share."""

import contextlib
import dataclasses
from bdb import BdbQuit
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rlexp.algos.base import Algorithm
from rlexp.checks.location import refusal
from rlexp.data import ExtraRewards, Rollout
from rlexp.networks.actor_critic import Policies

AGENTS = 2  # in a check, if the run has several
REDUCTIONS = ("mean(", "std(", "max(", "min(", "sum(", "any(", "all(", "item(", "median(")  # how code mixes agents
OF_OTHERS = "so results would depend on what is in the batch"


@contextlib.contextmanager
def unchanged(algo: Algorithm, hook: str, rollout: Rollout) -> Iterator[None]:
    """Refuse a hook that writes into the rollout, which everything that follows reads."""
    before = {name: x.clone() for name, x in _tensors(rollout).items()}
    yield
    for name, x in _tensors(rollout).items():
        if name in before and not _same(x, before[name]):
            remedy = "return ExtraRewards(...)" if hook == "rewards" else "work on a copy"
            raise refusal(algo, hook, f"changes rollout.{name}, which is not its own; {remedy}", f"rollout.{name}")


def require_own_rewards(
    algo: Algorithm, other: Algorithm, extra: ExtraRewards | None, rollouts: tuple[Rollout, Rollout], policies: Policies
) -> None:
    """Refuse `rewards` that make those of an agent depend on other agents' rows, as by a mean over all.

    other: prepared as algo, has seen nothing; extra: algo's rewards of the first of the rollouts, which differ.
    """
    mine, others = rollouts[0], _tensors(rollouts[1])
    mixed: dict[str, Any] = {name: torch.cat([x[:1], others[name][1:]]) for name, x in _tensors(mine).items()}
    try:
        found = other.rewards(dataclasses.replace(mine, **mixed), policies)
    except BdbQuit:
        raise
    except Exception:  # perhaps due to synthetic values; otherwise the first update reports it
        return
    for name in ("rewards", "values", "last_values", "joined"):
        x, y = getattr(extra, name, None), getattr(found, name, None)
        if x is not None and y is not None and not torch.allclose(x[0], y[0], rtol=1e-3, atol=1e-6, equal_nan=True):
            what = f"{name} of an agent depend on other agents' rows, {OF_OTHERS}; reduce over steps and environments"
            raise refusal(algo, "rewards", f"{what} only, as by x.mean((1, 2), keepdim=True)", *REDUCTIONS, "return")


def require_own_coefficients(
    algo: Algorithm,
    twin: Algorithm,
    make_rollout: Callable[[], Rollout],
    policies: Policies,
    metrics: dict[str, Tensor],
    device: torch.device,
) -> None:
    """Refuse an `adapt` that makes an agent's coefficients depend on other agents' metrics, as by a mean over all.

    algo, twin: prepared identically; the first has observed the rollout.
    """

    def adapted(one: Algorithm, factor: float) -> dict[str, Tensor]:
        scale = torch.tensor([1.0, factor], device=device)
        one.adapt({name: x * scale for name, x in metrics.items()})
        return one.coefficients(0.0, AGENTS, device)

    try:
        rollout = make_rollout()
        twin.rewards(rollout, policies)
        twin.observe(rollout)
        first, second = adapted(algo, 1.0), adapted(twin, 0.25)
    except BdbQuit:
        raise
    except Exception:  # perhaps due to synthetic values; otherwise the first update reports it
        return
    for name, x in first.items():
        if not torch.equal(x[0].nan_to_num(), second[name][0].nan_to_num()):
            what = f"{name} of an agent depends on another agent's metrics, {OF_OTHERS}; metrics hold one value per"
            what += " agent (A,): do not reduce them, as by mean() or max()"
            at = (*(f"].{how}" for how in REDUCTIONS), *REDUCTIONS, f"self.{name}")
            raise refusal(algo, "adapt", what, *at)


def _tensors(rollout: Rollout) -> dict[str, Tensor]:
    return {name: x for name, x in vars(rollout).items() if isinstance(x, Tensor)}


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())
