"""Contract of the hooks' return values: names, shapes and types; violations are reported with file and line."""

import inspect
import math
from collections.abc import Collection, Container, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from rlexp.algos.base import Algorithm
from rlexp.algos.metric_names import invalid_name
from rlexp.checks.location import refusal
from rlexp.checks.network_tensors import check_tensors
from rlexp.data import ExtraRewards, Rollout, masked
from rlexp.errors import ConfigError
from rlexp.networks.normalizer import ObservationNormalizer
from rlexp.text import with_article

STREAM = ExtraRewards._field_defaults  # what says nothing
NOT_REPEATABLE = (
    "differs when called again with the same rows: it draws random numbers, reads a clock or counts its calls, which a "
    "compiled or resumed run would not repeat; draw with policy.rand_like(x) or randn_like(x)"
)


def describe(value: Any) -> str:
    """What a value is, for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return with_article(type(value).__name__)


def quoted(name: Any) -> tuple[str, ...]:
    """A name as a string literal in code, with either quotes."""
    return f'"{name}"', f"'{name}'"


def _require_names(algo: Algorithm, hook: str, metrics: Iterable[Any]) -> None:
    for name in metrics:
        if flaw := invalid_name(name):
            at = quoted(name) if isinstance(name, str) and name else ()
            raise refusal(algo, hook, f"metric {name!r} {flaw}", *at)


def _as_tensor(value: Any) -> str:
    """Hint on how to turn a number into a tensor; empty for other types."""
    if isinstance(value, float):
        return ": leave out .item(), or torch.as_tensor(x)"
    return ": torch.as_tensor(x)" if isinstance(value, bool | int | np.number | np.ndarray) else ""


def require_loss(algo: Algorithm, returned: Any) -> None:
    """Refuse anything but (scalar loss, scalar metrics by name)."""
    wanted = "wants (loss, metrics): a scalar tensor, and a dictionary of scalar tensors, which may be empty"
    if inspect.isgenerator(returned):
        raise refusal(algo, "loss", f"is a generator, as it contains a yield; {wanted}", "yield")
    if inspect.iscoroutine(returned):
        returned.close()
        raise refusal(algo, "loss", f"is an async function; {wanted}")
    if not (isinstance(returned, tuple) and len(returned) == 2):
        at = () if returned is None else ("return",)
        raise refusal(algo, "loss", f"returns {describe(returned)}; {wanted}", *at)
    loss, metrics = returned
    flaw = ""
    if not isinstance(loss, Tensor):
        flaw = f"the loss is {describe(loss)}, wants a scalar tensor"
    elif loss.dim():
        flaw = f"the loss has shape {tuple(loss.shape)}, wants a scalar: weighted_mean(x, weights)"
    elif loss.is_complex():
        flaw = "the loss is complex, wants a real scalar: loss.real"
    elif not isinstance(metrics, dict):
        flaw = f"the metrics are {describe(metrics)}, wants a dictionary of scalars"
    if flaw:
        raise refusal(algo, "loss", flaw, "return")
    _require_names(algo, "loss", metrics)
    for name, value in metrics.items():
        if not isinstance(value, Tensor):
            flaw = f"is {describe(value)}, wants a scalar tensor{_as_tensor(value)}"
        elif value.dim():
            flaw = f"has shape {tuple(value.shape)}, wants a scalar: weighted_mean(x, weights)"
        elif value.is_complex() or value.is_meta:
            flaw = f"is a {value.dtype} on {value.device}, wants a real number"
        if flaw:
            raise refusal(algo, "loss", f"metric {name!r} {flaw}", *quoted(name))


def require_gradient(algo: Algorithm, loss: Tensor) -> None:
    """Refuse a loss without a gradient."""
    if not loss.requires_grad:
        what = "nothing in it depends on policy(batch), or .detach(), no_grad or .data cuts it off"
        raise refusal(algo, "loss", f"the loss has no gradient: {what}", "return")


def require_observed(algo: Algorithm, observed: Any, agents: int, known: Container[str] | None = None) -> None:
    """Refuse anything but metrics (A,) by name; known: allowed names, once fixed."""
    wanted = "wants a dictionary of tensors (A,), one value per agent, which may be empty: {}"
    if not isinstance(observed, dict):
        raise refusal(algo, "observe", f"returns {describe(observed)}; {wanted}", "return")
    _require_names(algo, "observe", observed)
    for name, value in observed.items():
        if not isinstance(value, Tensor) or tuple(value.shape) != (agents,) or value.is_complex():
            raise refusal(algo, "observe", f"metric {name!r} is {describe(value)}; {wanted}", *quoted(name))
        if known is not None and name not in known:
            what = "was missing in the first call, which fixes the columns; return NaN until it is known"
            raise refusal(algo, "observe", f"metric {name!r} {what}", *quoted(name))


def require_rewards(algo: Algorithm, extra: Any, rollout: Rollout) -> None:
    """Refuse anything but None, or `ExtraRewards` of the rollout's shape."""
    if extra is None:
        return
    if not isinstance(extra, ExtraRewards):
        what = f"returns {describe(extra)}; wants ExtraRewards(rewards, ...), or None"
        raise refusal(algo, "rewards", what, "return")
    shape = tuple(rollout.rewards.shape)
    if extra.joined is not None and extra.values is None:
        raise refusal(algo, "rewards", "joined goes with a stream that has values; add it to rewards", "joined")
    if (extra.values is None) != (extra.last_values is None):
        raise refusal(algo, "rewards", "values and last_values are of one critic: give both, or neither", "return")
    gamma = extra.gamma
    if isinstance(gamma, Tensor) and gamma.shape == (shape[0], 1, 1):  # one of each agent
        gamma = gamma.max() if gamma.min() >= 0 else gamma.min()
    if (isinstance(gamma, Tensor) and gamma.dim()) or not 0 <= float(gamma) <= 1:
        raise refusal(
            algo, "rewards", f"gamma={extra.gamma} is not a number in [0, 1], or such (agents, 1, 1)", "gamma"
        )
    if not isinstance(extra.coef, int | float) or not math.isfinite(extra.coef):
        raise refusal(
            algo, "rewards", f"coef is {describe(extra.coef)}; wants a number, the same for all agents", "coef"
        )
    given = {name: getattr(extra, name) for name in ("gamma", "coef", "episodic")}
    unread = [name for name, x in given.items() if isinstance(x, Tensor) or x != STREAM[name]]
    if extra.values is None and unread:
        what = f"{unread[0]} is of a stream with a critic of its own, and there are no values"
        raise refusal(algo, "rewards", f"{what}; leave it out, or multiply the rewards", f"{unread[0]}=", "return")
    wanted = {"rewards": shape, "values": shape, "last_values": (shape[0], shape[2]), "joined": shape}
    for name, size in wanted.items():
        value = getattr(extra, name)
        if value is not None and not (isinstance(value, Tensor) and tuple(value.shape) == size):
            raise refusal(algo, "rewards", f"{name} are {describe(value)}; wants {size}, (agents, steps, envs)", name)
    for name, value in extra.rows.items():
        if not (isinstance(value, Tensor) and tuple(value.shape[:3]) == shape) or name == "returns":
            what = "is the name of what gae returns; rename it" if name == "returns" else f"wants {shape}, ..."
            raise refusal(algo, "rewards", f"row {name!r} is {describe(value)}; {what}", *quoted(name))


def require_finite_rewards(algo: Algorithm, extra: ExtraRewards | None, rollout: Rollout) -> None:
    """Refuse rewards and values that count and are not finite: a mistake at first, later an agent that diverges."""
    for name in ("rewards", "values", "joined"):
        value = getattr(extra, name, None)
        if value is not None and not masked(value, rollout.weights).isfinite().all():
            raise refusal(algo, "rewards", f"{name} that count are not finite", name)


def require_modules(algo: Algorithm, modules: Any, shape: tuple[int, ...] | None) -> dict[str, nn.Module]:
    """Refuse anything but a dictionary of modules by name that can be stacked. shape: of raw observations."""
    wanted = "wants a dictionary of torch.nn.Module by name, which may be empty: {}"
    if not isinstance(modules, dict):
        raise refusal(algo, "modules", f"returns {describe(modules)}; {wanted}", "return")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise refusal(algo, "modules", f"{name!r} is {describe(module)}; {wanted}", "return")
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise refusal(algo, "modules", f"{name!r} cannot name a module; use another word", "return")
    held = nn.ModuleDict(modules)
    try:
        check_tensors(held)
    except ConfigError as error:
        raise refusal(algo, "modules", str(error).removeprefix("network: "), "return") from error
    once = {name for name, _ in held.named_parameters()}
    if tied := [name for name, _ in held.named_parameters(remove_duplicate=False) if name not in once]:
        what = "is one tensor with another, by a shared layer or tied weights, which cannot be stacked; copy it"
        raise refusal(algo, "modules", f"{tied[0]} {what}", "return")
    for name, module in held.named_modules():
        if isinstance(module, ObservationNormalizer) and module.mean.shape != (shape or ()):
            what = f"{name} normalises {tuple(module.mean.shape)}, and it is updated with observations, {shape}"
            raise refusal(algo, "modules", f"{what}; keep other statistics by register_buffer", "return")
    return modules


def require_distinct(algo: Algorithm, observed: Iterable[str], of_loss: Container[str]) -> None:
    """Refuse metrics of `observe` that the loss also returns."""
    for name in observed:
        if name in of_loss:
            what = f"metric {name!r} is also one of the loss, which it would overwrite; rename it"
            raise refusal(algo, "observe", what, *quoted(name))


def require_same_names(algo: Algorithm, first: Collection[str], now: Collection[str]) -> None:
    """Refuse a loss that returns other metrics than in the first call."""
    differ = sorted(set(first) ^ set(now))
    if differ:
        names = ", ".join(map(repr, differ))
        what = f"returns metric {names} in some calls only; always return it, NaN where there is no value"
        raise refusal(algo, "loss", what, *(text for name in differ for text in quoted(name)))


def require_replay(algo: Algorithm, replay: Any, agents: int, minibatches: int) -> None:
    """Refuse anything but tensors (A, minibatches, ...)."""
    wanted = f"wants tensors (agents, minibatches, ...), here ({agents}, {minibatches}, ...)"
    if replay is None:
        raise refusal(algo, "replay", f"returns nothing; {wanted}, or () for nothing", "return")
    for path, value in tree_flatten_with_path(replay)[0]:
        if not isinstance(value, Tensor) or tuple(value.shape[:2]) != (agents, minibatches):
            where = "".join(map(str, path)) or "its result"
            raise refusal(algo, "replay", f"{where} is {describe(value)}; {wanted}", "return")


def require_coefficients(algo: Algorithm, coefficients: Any, agents: int) -> None:
    """Refuse anything but coefficients (A,) by name."""
    wanted = f"wants a tensor of {agents} values, one per agent"
    if not isinstance(coefficients, dict):
        what = f"returns {describe(coefficients)}; wants a dictionary: super().coefficients(...) | {{...}}"
        raise refusal(algo, "coefficients", what, "return")
    if missing := [name for name in algo.scheduled() if name not in coefficients]:
        what = f"lacks {missing[0]}, which is Scheduled; return super().coefficients(...) | {{...}}"
        raise refusal(algo, "coefficients", what, "return")
    for name, value in coefficients.items():
        if not isinstance(value, Tensor) or tuple(value.shape) != (agents,):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise refusal(algo, "coefficients", f"{name} is {found}; {wanted}", *quoted(name))


def same_outputs(found: list[Any], again: list[Any], *, on_cuda: bool) -> bool:
    """Whether two calls returned the same tensors, up to rounding on CUDA, whose kernels may race."""

    def same(x: Tensor | None, y: Tensor | None) -> bool:
        if x is None or y is None:  # no gradient
            return x is y
        x, y = x.nan_to_num(), y.nan_to_num()
        return x.shape == y.shape and (torch.allclose(x, y, rtol=1e-3, atol=1e-6) if on_cuda else torch.equal(x, y))

    return len(found) == len(again) and all(map(same, found, again))
