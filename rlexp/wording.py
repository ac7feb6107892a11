"""How numbers are written for people."""

import math


def number(x: float | None, digits: int = 4) -> str:
    """So many figures, whole thousands in full; a dash for nothing."""
    if x is None or math.isnan(x):
        return "–"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.{digits}g}"


def span(low: float, high: float) -> str:
    """An interval in brackets, with a space before; nothing where there is none."""
    return "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"


def with_article(noun: str) -> str:
    """A noun with "a" or "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
