"""Composes an objective with a bonus: a mixin that adds rewards, modules or terms to whatever objective it is given.

A bonus is written like an objective, for one agent, as a dataclass derived from `Algorithm` of which every hook that it
overrides calls super(). Its hyperparameters are those of the config group `bonus`; they need names that no objective
uses, hence a prefix, as `rnd_coef`.
"""

import dataclasses
import inspect
from functools import partial
from typing import Any

from rlexp.algos.base import Algorithm
from rlexp.data import RunSpec
from rlexp.errors import ConfigError

MEMORY = ("prepare", "rewards", "observe", "coefficients", "replay", "adapt", "state_dict", "load_state_dict")
HOOKS = ("modules", "loss", *MEMORY)


def with_bonus(algo: partial[Any], bonus: partial[Any]) -> Algorithm:
    """The objective that both classes, called with their settings, make together: ``class RNDPPO(RND, PPO)``.

    Raises:
        ConfigError: one of them is not a class derived from `Algorithm`, the bonus is an objective itself, or both have
            a setting of one name.
    """
    base, mixin = _class("algo", algo), _class("bonus", bonus)
    shared = {field.name for field in dataclasses.fields(Algorithm)}
    own = {field.name for field in dataclasses.fields(mixin)} - shared
    fields = dataclasses.fields(base)
    if common := [kind for kind in mixin.__mro__ if issubclass(base, kind) and kind not in Algorithm.__mro__]:
        what = f"{mixin.__name__} is a {common[0].__name__}, as the objective is; derive a bonus from Algorithm"
        raise ConfigError(f"bonus: {what}")
    for name in own & {field.name for field in fields}:
        raise ConfigError(f"bonus.{name}: {base.__name__} has a setting of that name too; give it a prefix")
    for name in bonus.keywords.keys() & shared:
        raise ConfigError(f"bonus.{name}: a bonus takes it from its objective; set algo.{name}={bonus.keywords[name]}")
    for hook in HOOKS:
        if _overrides(base, hook) and _overrides(mixin, hook) and not _calls_super(mixin, hook):
            what = f"does not call super().{hook}(...), so that of {base.__name__} would never be called"
            raise ConfigError(f"bonus: {mixin.__name__}.{hook} {what}; call it and return both")
    # without this, defaults of the base class that the objective overrides would be those of the bonus
    defaults = {f.name: f.default for f in fields if f.init and f.default is not dataclasses.MISSING}
    return _combined(base, mixin, frozenset(own))(**defaults | algo.keywords | bonus.keywords)


def _overrides(kind: type[Algorithm], hook: str) -> bool:
    return getattr(kind, hook) is not getattr(Algorithm, hook)


def _calls_super(kind: type[Algorithm], hook: str) -> bool:
    undecorated: Any = inspect.unwrap(getattr(kind, hook))  # as by torch.no_grad
    return "super" in undecorated.__code__.co_names


def require_own_attributes(algo: partial[Any], bonus: partial[Any], spec: RunSpec) -> None:
    """Refuse (ConfigError) an objective and a bonus, prepared apart, that keep something under the same name."""
    held = []
    for made in (algo, bonus):
        one = made()
        try:
            one.prepare(spec)
        except Exception:  # a bonus may need the objective that it is composed with
            return
        held.append(set(vars(one)))
    shared = held[0] & held[1] - {field.name for field in dataclasses.fields(Algorithm)}
    if shared:
        names = ", ".join(f"self.{name}" for name in sorted(shared))
        what = f"both {algo.func.__name__} and {bonus.func.__name__} keep {names}, and would overwrite each other's"
        raise ConfigError(f"bonus: {what}; give them names of their own")


def _class(group: str, made: partial[Any]) -> type[Algorithm]:
    kind = made.func
    if isinstance(kind, type) and issubclass(kind, Algorithm):
        return kind
    name = getattr(kind, "__name__", kind)
    raise ConfigError(f"{group}._target_: {name} is not a class derived from rlexp.algos.base.Algorithm")


def _combined(algo: type[Algorithm], bonus: type[Algorithm], own: frozenset[str]) -> Any:
    def key(self: Algorithm, name: str) -> str:
        return f"{'bonus' if name in own else 'algo'}.{name}"

    # errors are traced to the code of the user's class, if one of them is
    foreign = [each.__module__ for each in (bonus, algo) if not each.__module__.startswith("rlexp.")]
    named = {"__module__": next(iter(foreign), algo.__module__), "key": key}
    made = type(f"{bonus.__name__}{algo.__name__}", (bonus, algo), named)
    return dataclasses.dataclass(kw_only=True)(made)
