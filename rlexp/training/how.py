"""Chooses how a run is computed, with reasons: compiled or eager, number of threads, agents stacked or in turn."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from rlexp.algos.base import Algorithm
from rlexp.checks.objective import Findings
from rlexp.errors import ConfigError
from rlexp.networks.actor_critic import ActorCritic
from rlexp.training.optimizers import Traits, stacks_exactly

log = logging.getLogger(__name__)

Batching = Literal["auto", "vmap", "loop"]

# A compiled call, of acting or of an update, saves about a millisecond; compiling takes half a minute, or a second or
# two if the library is cached. On a GPU a recorded call saves three milliseconds, and recording takes about a second.
CALLS_WORTH_COMPILING = {"cpu": 10_000, "cuda": 1_000}
ROWS_PER_THREAD = 256

ALL_THREADS = torch.get_num_threads()  # torch's default: the number of cores, or OMP_NUM_THREADS

PARTS = 2  # compiled parts: acting and the minibatch update
STACKED, IN_TURN, ALONE = "stacked", "one after the other", "alone"


class Choice(NamedTuple):
    """A chosen value and the reason."""

    value: Any
    why: str


def choose_compile(setting: bool | str, device: str, calls: int) -> Choice:
    """Whether to compile. auto depends only on the length of the run, so that a run is always computed the same way.

    calls: of acting and of minibatch updates in the whole run.
    """
    if setting != "auto":
        return Choice(bool(setting), f"compile={str(setting).lower()}")
    enough = CALLS_WORTH_COMPILING[device.partition(":")[0]]
    return Choice(calls >= enough, f"{calls:,} calls, worthwhile from {enough:,}")


def choose_threads(setting: int | None, rows: int, *, pixels: bool, most: int | None = None) -> Choice:
    """CPU threads of torch: all for convolutions, else one per 256 rows of a minibatch over all agents.

    most: that there are for this process; default: all.
    """
    if setting:
        return Choice(setting, f"torch_threads={setting}")
    most = most or ALL_THREADS
    if pixels:
        return Choice(most, "all available, for pixels")
    useful = max(1, rows // ROWS_PER_THREAD)
    capped = "all available; " if useful > most else ""
    return Choice(min(most, useful), f"{capped}{rows:,} rows per minibatch, {ROWS_PER_THREAD} per thread")


def choose_batching(
    setting: Batching,
    networks: Sequence[ActorCritic],
    algo: Algorithm,
    make_optimizer: Callable[..., Any],
    optimizer: Traits,
    found: Findings,
) -> Choice:
    """Whether agents are stacked or trained one after the other.

    They cannot be stacked with early stopping by target KL, as each agent stops separately, an optimizer that is not
    elementwise, or a loss with data-dependent control flow, as found by `checks.objective.check_loss`. On a
    CPU, convolutions are faster in turn.

    Raises:
        ConfigError: batching=vmap, but agents cannot be stacked.
    """
    where = found.unstackable_at
    at_network = where is not None and where.startswith("the network")
    alone = [*["algo.target_kl"] * (algo.target_kl is not None), *["this optimizer"] * (not optimizer.elementwise)]
    if where is not None:
        alone.append(where if at_network else f"the loss ({where})")
    if alone and setting == "vmap":
        raise ConfigError(f"batching=vmap: {' and '.join(alone)} cannot be used with stacked agents; use batching=auto")
    agents = len(networks)
    if agents == 1:
        return Choice(ALONE, "one agent")
    if where is not None:
        subject = where if at_network else f"{where}: {type(algo).__name__}.loss"
        cost = f"agents are trained one after the other; {agents} take about {agents} times as long as one"
        log.info("%s %s: %s", subject, found.unstackable_why, cost)
    if alone:
        return Choice(IN_TURN, f"because of {' and '.join(alone)}")
    if setting == "loop":
        return Choice(IN_TURN, "batching=loop")
    params = [param for param in networks[0].parameters() if param.requires_grad]
    prefers_loop = any(getattr(module, "prefers_loop", False) for module in networks[0].modules())
    if setting == "auto" and prefers_loop and next(networks[0].parameters()).device.type == "cpu":
        return Choice(IN_TURN, "faster for convolutions on a CPU")
    if not stacks_exactly(make_optimizer, [tuple(param.shape) for param in params], agents, steps=3):
        if setting == "vmap":
            raise ConfigError("batching=vmap: this optimizer mixes agents of these shapes; use batching=auto")
        log.info("this optimizer mixes stacked agents of these shapes: they are trained one after the other")
        return Choice(IN_TURN, "this optimizer mixes stacked agents of these shapes")
    return Choice(STACKED, "faster than one after the other" if setting == "auto" else "batching=vmap")


def compiled_in_fact(compiled: Choice, uncompiled: Mapping[str, str]) -> Choice:
    """Whether graphs were actually compiled. uncompiled: part (acting or the update) -> why it is not."""
    if not (compiled.value and uncompiled):
        return compiled
    why = "; ".join(f"{name}: {reason}" for name, reason in uncompiled.items())
    return Choice("in part" if len(uncompiled) < PARTS else False, why)


def describe(how: Mapping[str, Choice], agents: int) -> str:
    """All choices, in one line."""
    compiled, threads, batching = how["compiled"], how["torch_threads"], how["batching"]
    parts = [
        f"{'compiled' if compiled.value else 'eager'} ({compiled.why})",
        f"{threads.value} thread{'s' * (threads.value > 1)} ({threads.why})",
    ]
    if (processes := how.get("processes")) is not None:
        parts.append(f"{processes.value} processes ({processes.why})")
    return "; ".join([*parts, *([f"{agents} agents {batching.value} ({batching.why})"] if agents > 1 else [])])
