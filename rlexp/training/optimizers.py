"""Tests how an optimizer, possibly third-party, behaves with stacked agents, compiled graphs and checkpoints.

Agents side by side are stacked, one tensor per parameter (a, ...); a single agent is not (a = 1).
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from rlexp.errors import ConfigError
from rlexp.seeding import NoRandomness
from rlexp.training.optimizer_trial import SHAPES, STEPS, Make, OptimizerTrial, Shapes

AGENTS = 5
RATES = (1e-6, 0.1)  # small and large, as some optimizers bound their steps


@dataclass(frozen=True)
class Traits:
    """How an optimizer behaves."""

    elementwise: bool  # stacked agents move exactly as each would alone
    proportional: bool  # steps are proportional to the learning rate, even when it changes
    follows_lr: bool  # uses the current learning rate, so that schedules have an effect
    recordable: bool  # a step reads and writes only parameters and state, so that it can be part of a compiled graph


def traits(settings: Mapping[str, Any]) -> Traits:
    """Traits of the optimizer of a config group `optimizer`; `lr` is ignored.

    Raises:
        ConfigError: it cannot be made, needs more than gradients, or has state that no checkpoint contains.
    """
    return _traits(json.dumps({key: value for key, value in settings.items() if key != "lr"}, default=str))


@functools.cache
def _traits(settings: str) -> Traits:
    plain = json.loads(settings)
    name = f"optimizer._target_={plain.get('_target_')}"
    try:
        make: Make = instantiate(OmegaConf.create(plain), _convert_="all")
        with NoRandomness(f"{name}: the optimizer"):
            alone = OptimizerTrial(make, [0], RATES[1]).plain()
        follows_lr = _follows_lr(make)
        again = OptimizerTrial(make, [0], RATES[1]).reloaded()
        aside = OptimizerTrial(make, [0], RATES[1]).aside()
    except ConfigError:
        raise
    except Exception as error:  # third-party optimizers may raise anything
        line = " ".join(str(error).split())
        if isinstance(error, TypeError) and "'closure'" in line:
            line = "its step needs a closure that recomputes the loss, and such optimizers are not supported"
        raise ConfigError(f"{name}: cannot be used here: {line}") from error
    if aside is not None or not all(torch.equal(one, other) for one, other in zip(alone, again, strict=True)):
        what = "" if aside is None else f", its attribute {aside.split('.')[0]}, which a step changes"
        raise ConfigError(
            f"{name}: cannot be used here: it has state that no checkpoint contains{what}; keep it in self.state[param]"
        )
    return Traits(
        elementwise=stacks_exactly(make, SHAPES, AGENTS),
        proportional=_is_proportional(make),
        recordable=_is_recordable(make, alone),
        follows_lr=follows_lr,
    )


def stacks_exactly(make: Make, shapes: Shapes, agents: int, steps: int = STEPS) -> bool:
    """Whether stacked agents with parameters of these shapes move as each would alone, for that many steps.

    In the second half the gradients of the last one are infinite or NaN, as those of an agent that diverges.
    """
    last = agents - 1
    for rate in RATES:
        try:
            stacked = OptimizerTrial(make, range(agents), rate, shapes, spoilt=last).plain(steps)
        except Exception:  # it supports one agent's parameters, but not stacked ones
            return False
        for agent in {0, 1, 2, last} & {*range(agents)}:
            alone = OptimizerTrial(make, [agent], rate, shapes, spoilt=last).plain(steps)
            if not _close(alone, [x[agent : agent + 1] for x in stacked]):
                return False
    return True


def _close(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-6, atol: float = 1e-12) -> bool:
    return all(torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True) for x, y in zip(ours, theirs, strict=True))


def _is_recordable(make: Make, expected: list[Tensor]) -> bool:
    try:  # in a graph step counts are float32; a difference may be a thousandth of a value, or of a step
        return _close(OptimizerTrial(make, [0], RATES[1]).as_graph(), expected, rtol=1e-3, atol=1e-3 * RATES[1])
    except Exception:  # it would fail the same way when recorded
        return False


def _follows_lr(make: Make) -> bool:
    """Whether it uses the learning rate set before each step; Rprop, for one, uses only the first.

    Raises:
        TypeError: it has several learning rates.
    """
    param = torch.ones(2, requires_grad=True)
    rates = {group["lr"] for group in make([param], lr=0.1).param_groups}
    if rates != {0.1}:
        raise TypeError("its parameter groups have different learning rates, but optimizer.lr is set for all")
    falling = [0.1 if number < 2 else 0.01 for number in range(STEPS)]
    return not _close(OptimizerTrial(make, [0], falling).plain(), OptimizerTrial(make, [0], 0.1).plain())


def _is_proportional(make: Make) -> bool:
    """Whether scaling each agent's step by its relative learning rate is exact; see `lr_scale`.

    Adam's steps are proportional to the rate. Rprop's are not, as it bounds them; nor are those of an optimizer with
    the rate in its momentum buffer, when the rate changes.
    """
    for rate in RATES:
        agent_rates = torch.tensor(
            [
                [rate] * STEPS,
                [rate * (1 - t / STEPS) ** 3 for t in range(STEPS)],
                [rate * (t + 1) / STEPS for t in range(STEPS)],
            ]
        ).double()
        fastest = agent_rates.max(0).values
        try:
            scales = list((agent_rates / fastest).T)
            stacked = OptimizerTrial(make, range(3), fastest.tolist(), shapes=[(4,)]).scaled(scales)
        except Exception:
            return False
        for agent in range(3):
            alone = OptimizerTrial(make, [agent], agent_rates[agent].tolist(), shapes=[(4,)]).plain()
            if not _close(alone, [x[agent : agent + 1] for x in stacked]):
                return False
    return True
