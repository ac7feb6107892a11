"""Chooses how a run is computed, with reasons: compiled or eager, number of threads, agents stacked or in turn."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

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


def choose_threads(setting: int | None, rows: int, *, pixels: bool) -> Choice:
    """CPU threads of torch: all for convolutions, else one per 256 rows of a minibatch over all agents."""
    if setting:
        return Choice(setting, f"torch_threads={setting}")
    if pixels:
        return Choice(ALL_THREADS, "all available, for pixels")
    useful = max(1, rows // ROWS_PER_THREAD)
    capped = "all available; " if useful > ALL_THREADS else ""
    return Choice(min(ALL_THREADS, useful), f"{capped}{rows:,} rows per minibatch, {ROWS_PER_THREAD} per thread")


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
    return "; ".join([*parts, *([f"{agents} agents {batching.value} ({batching.why})"] if agents > 1 else [])])
