"""What a study declares before it runs: the measure that decides, and the smallest effect of interest."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

PRIMARY = ("evaluation", "evaluation_sampled", "final", "area", "retention")  # measures that may decide
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*%\s*")


@dataclass(frozen=True)
class Declared:
    """A declaration; conf/config.yaml explains primary and margin, conf/env/cartpole.yaml limits."""

    primary: str = "evaluation"
    margin: float | str | None = None  # in the score's units, or a share of the span [no skill, mastery], as "5%"
    limits: tuple[float | None, float | None] | None = None  # env.limits

    @classmethod
    def read(cls, entry: Any) -> Self:
        """From an entry of run.json or sweep.json; a ValueError names what is wrong with it."""
        if not isinstance(entry, Mapping):
            raise ValueError(f"declared is {str(entry)[:20]}, not an object")
        primary, margin, limits = (entry.get(name) for name in ("primary", "margin", "limits"))
        if primary not in PRIMARY:
            raise ValueError(f"declared.primary={str(primary)[:20]} is none of {', '.join(PRIMARY)}")
        if flaw := margin_flaw(margin):
            raise ValueError(f"declared.margin={str(margin)[:20]} {flaw}")
        if not are_limits(limits):
            raise ValueError(f"declared.limits={str(limits)[:20]} are not [low, high]")
        return cls(primary, margin, None if limits is None else (limits[0], limits[1]))

    @property
    def entry(self) -> dict[str, Any]:
        """Entry for run.json and sweep.json."""
        known = {} if self.limits is None else {"limits": list(self.limits)}
        return {"primary": self.primary, "margin": self.margin, **known}

    @property
    def share(self) -> float | None:
        """The margin as a share of the span, 0 to 1; None if it is none."""
        found = _SHARE.fullmatch(self.margin) if isinstance(self.margin, str) else None
        return float(found[1]) / 100 if found else None

    def margin_within(self, bounds: tuple[float, float] | None) -> float | None:
        """The margin in the score's units; bounds: mean returns of no skill and of mastery. None: none is known."""
        if self.share is None:
            return None if self.margin is None else float(self.margin)
        return None if bounds is None else self.share * (bounds[1] - bounds[0])

    def __str__(self) -> str:
        def text(value: Any) -> str:
            return "null" if value is None else f"{value:g}" if is_number(value) else str(value)

        limits = f", env.limits=[{','.join(map(text, self.limits))}]" if self.limits else ""
        return f"primary={self.primary}, margin={text(self.margin)}{limits}"


def margin_flaw(margin: Any) -> str | None:
    """What is wrong with a margin; None: nothing."""
    if margin is None or (is_number(margin) and margin > 0):
        return None
    share = _SHARE.fullmatch(margin) if isinstance(margin, str) else None
    if share and 0 < float(share[1]) < 100:
        return None
    return "must be a positive number in the score's units, a percentage between 0 and 100 as in 5%, or null"


def are_limits(limits: Any) -> bool:
    """Whether these are None, or [low, high] with low < high, one of which may be None."""
    if limits is None:
        return True
    if not isinstance(limits, Sequence) or isinstance(limits, str) or len(limits) != 2:
        return False
    known = [limit for limit in limits if limit is not None]
    return bool(known) and all(map(is_number, known)) and (len(known) == 1 or known[0] < known[1])


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
