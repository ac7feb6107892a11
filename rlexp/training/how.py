"""How a run is computed, and why so: compiled or not, on how many threads, agents stacked or one after the other."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

# A compiled call of either kind saves about a millisecond; compiling costs half a minute when it is new, and a
# second or two when not. On a GPU a recorded call saves three, and recording costs about a second.
CALLS_WORTH_COMPILING = {"cpu": 10_000, "cuda": 1_000}
ROWS_A_THREAD = 256

ALL_THREADS = torch.get_num_threads()  # as torch starts out: the cores, or OMP_NUM_THREADS

PARTS = 2  # that are compiled: acting and the minibatch update
STACKED, IN_TURN, ALONE = "stacked", "one after the other", "alone"


class Choice(NamedTuple):
    """What was chosen, and by what."""

    value: Any
    why: str


def whether_to_compile(wanted: bool | str, device: str, calls: int) -> Choice:
    """`compile`, with auto decided by the length of the run alone: the same run is always computed the same way.

    calls: of acting and of minibatch updates in the whole run.
    """
    if wanted != "auto":
        return Choice(bool(wanted), f"compile={str(wanted).lower()}")
    enough = CALLS_WORTH_COMPILING[device.partition(":")[0]]
    return Choice(calls >= enough, f"{calls:,} calls, from {enough:,} on it pays")


def how_many_threads(wanted: int | None, rows: int, *, pixels: bool) -> Choice:
    """CPU threads of torch: all for convolutions, else one for every 256 rows that a minibatch has over all agents."""
    if wanted:
        return Choice(wanted, f"torch_threads={wanted}")
    if pixels:
        return Choice(ALL_THREADS, "all there are, for pixels")
    pay = max(1, rows // ROWS_A_THREAD)
    all_there_are = "all there are; " if pay > ALL_THREADS else ""
    return Choice(
        min(ALL_THREADS, pay), f"{all_there_are}a minibatch has {rows:,} rows, and {ROWS_A_THREAD} feed a thread"
    )


def as_it_came(compiled: Choice, uncompiled: Mapping[str, str]) -> Choice:
    """Whether graphs were compiled in the end. uncompiled: why acting or the update was not, by its name."""
    if not (compiled.value and uncompiled):
        return compiled
    why = "; ".join(f"{name}: {reason}" for name, reason in uncompiled.items())
    return Choice("in part" if len(uncompiled) < PARTS else False, why)


def line(how: Mapping[str, Choice], agents: int) -> str:
    """All that was chosen, in one line."""
    compiled, threads, batching = how["compiled"], how["torch_threads"], how["batching"]
    words = [
        f"{'compiled' if compiled.value else 'eager'} ({compiled.why})",
        f"{threads.value} thread{'s' * (threads.value > 1)} ({threads.why})",
    ]
    return "; ".join([*words, *([f"{agents} agents {batching.value} ({batching.why})"] if agents > 1 else [])])
