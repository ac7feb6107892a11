"""What the hooks of an objective must give: names, shapes and kinds, each refused in one line with file and line."""

import inspect
from collections.abc import Collection, Container, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path

from rlexp.algos.base import Algorithm
from rlexp.algos.metric_names import invalid_name
from rlexp.checks.location import refusal
from rlexp.text import with_article

ANOTHER = (
    "is another one when it is called once more with the same rows: it draws random numbers, reads a clock or counts "
    "its calls, which no compiled or resumed run would repeat; policy.rand_like(x) and randn_like(x) draw"
)


def told(value: Any) -> str:
    """What something is, for who expected something else."""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return with_article(type(value).__name__)


def quoted(name: Any) -> tuple[str, ...]:
    """How a name is written in code."""
    return f'"{name}"', f"'{name}'"


def _require_name(algo: Algorithm, hook: str, name: Any) -> None:
    if flaw := invalid_name(name):
        raise refusal(algo, hook, f"metric {name!r} {flaw}", *(quoted(name) if isinstance(name, str) and name else ()))


def _as_tensor(value: Any) -> str:
    """How a number becomes a tensor; nothing of what cannot."""
    if isinstance(value, float):
        return ": leave out .item(), or torch.as_tensor(x)"
    return ": torch.as_tensor(x)" if isinstance(value, bool | int | np.number | np.ndarray) else ""


def require_loss(algo: Algorithm, given: Any) -> None:
    """Refuse what is not (scalar with a gradient, scalars by name)."""
    wanted = "wants (loss, metrics): a scalar tensor, and a dictionary of scalar tensors, which may be empty"
    if inspect.isgenerator(given):
        raise refusal(algo, "loss", f"is a generator, as there is a yield in it; {wanted}", "yield")
    if inspect.iscoroutine(given):
        given.close()
        raise refusal(algo, "loss", f"is an async function; {wanted}")
    if given is None:
        raise refusal(algo, "loss", f"returns nothing; {wanted}")
    if not (isinstance(given, tuple) and len(given) == 2):
        raise refusal(algo, "loss", f"returns {told(given)}; {wanted}", "return")
    loss, metrics = given
    if not isinstance(loss, Tensor):
        raise refusal(algo, "loss", f"the loss is {told(loss)}, wants a scalar tensor", "return")
    if loss.dim():
        what = f"the loss has shape {tuple(loss.shape)}, wants a scalar: weighted_mean(x, weights)"
        raise refusal(algo, "loss", what, "return")
    if loss.is_complex():
        raise refusal(algo, "loss", "the loss is complex, wants a real scalar: loss.real", "return")
    if not isinstance(metrics, dict):
        what = f"the metrics are {told(metrics)}, wants a dictionary of scalars"
        raise refusal(algo, "loss", what, "return")
    for name, value in metrics.items():
        _require_name(algo, "loss", name)
        flaw = ""
        if not isinstance(value, Tensor):
            flaw = f"is {told(value)}, wants a scalar tensor{_as_tensor(value)}"
        elif value.dim():
            flaw = f"has shape {tuple(value.shape)}, wants a scalar: weighted_mean(x, weights)"
        elif value.is_complex() or value.is_meta:
            flaw = f"is a {value.dtype} on {value.device}, wants a real number"
        if flaw:
            raise refusal(algo, "loss", f"metric {name!r} {flaw}", *quoted(name))


def require_gradient(algo: Algorithm, loss: Tensor) -> None:
    """Refuse a loss that moves nothing."""
    if not loss.requires_grad:
        what = "nothing in it depends on policy(batch.obs), or .detach(), no_grad or .data cuts it off"
        raise refusal(algo, "loss", f"the loss has no gradient: {what}", "return")


def require_observed(algo: Algorithm, observed: Any, agents: int, known: Container[str] | None = None) -> None:
    """Refuse what is not a number an agent by name; known: names that it may have, where they are fixed."""
    wanted = "wants a dictionary of tensors (A,), one value an agent, which may be empty: {}"
    if not isinstance(observed, dict):
        raise refusal(algo, "observe", f"returns {told(observed)}; {wanted}", "return")
    for name, value in observed.items():
        _require_name(algo, "observe", name)
        if not isinstance(value, Tensor) or tuple(value.shape) != (agents,) or value.is_complex():
            raise refusal(algo, "observe", f"metric {name!r} is {told(value)}; {wanted}", *quoted(name))
        if known is not None and name not in known:
            what = f"metric {name!r} was not there the first time, when columns are made; give NaN until it is known"
            raise refusal(algo, "observe", what, *quoted(name))


def require_apart(algo: Algorithm, observed: Iterable[str], of_loss: Container[str]) -> None:
    """Refuse metrics of `observe` that the loss gives, too."""
    for name in observed:
        if name in of_loss:
            what = f"metric {name!r} is also one of the loss, which it would overwrite; call it something else"
            raise refusal(algo, "observe", what, *quoted(name))


def require_same_names(algo: Algorithm, first: Collection[str], now: Collection[str]) -> None:
    """Refuse a loss that gives other metrics than the first time."""
    differ = sorted(set(first) ^ set(now))
    if differ:
        told_names = ", ".join(map(repr, differ))
        what = f"gives metric {told_names} in one call and not in another; give it always, NaN where there is none"
        raise refusal(algo, "loss", what, *(text for name in differ for text in quoted(name)))


def require_replay(algo: Algorithm, replay: Any, agents: int, minibatches: int) -> None:
    """Refuse what is not tensors (A, minibatches, ...)."""
    wanted = f"wants tensors (agents, minibatches, ...), here ({agents}, {minibatches}, ...)"
    if replay is None:
        raise refusal(algo, "replay", f"returns nothing; {wanted}, or () for nothing", "return")
    for path, value in tree_flatten_with_path(replay)[0]:
        if not isinstance(value, Tensor) or tuple(value.shape[:2]) != (agents, minibatches):
            where = "".join(map(str, path)) or "what it returns"
            raise refusal(algo, "replay", f"{where} is {told(value)}; {wanted}", "return")


def require_coefficients(algo: Algorithm, coefficients: Any, agents: int) -> None:
    """Refuse what is not a number an agent by name."""
    wanted = f"wanted a tensor of {agents} values, one an agent"
    if not isinstance(coefficients, dict):
        what = f"returns {told(coefficients)}; wants a dictionary: super().coefficients(...) | {{...}}"
        raise refusal(algo, "coefficients", what, "return")
    for name, value in coefficients.items():
        if not isinstance(value, Tensor) or tuple(value.shape) != (agents,):
            is_ = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise refusal(algo, "coefficients", f"{name} is {is_}; {wanted}", *quoted(name))


def same(found: list[Any], again: list[Any], *, on_cuda: bool) -> bool:
    """Whether two calls gave the same tensors; kernels of CUDA may race."""
    if len(found) != len(again):
        return False
    for x, y in zip(found, again, strict=True):
        if x is None or y is None:  # no gradient
            if x is not y:
                return False
        elif x.shape != y.shape or not (
            torch.allclose(x.nan_to_num(), y.nan_to_num(), rtol=1e-3, atol=1e-6)
            if on_cuda
            else torch.equal(x.nan_to_num(), y.nan_to_num())
        ):
            return False
    return True
