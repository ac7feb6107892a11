"""What the committed texts say of the studies in numbers, computed from their csv files.

A page's claims are the pieces of its text that hold numbers; `unexplained` finds what they leave.
"""

MINUS = str.maketrans("-", "−")


def value(x, digits=1):
    """-1234.5 as −1,234.5."""
    return f"{x:,.{digits}f}".translate(MINUS)


def signed(x, digits=1):
    return f"{x:+,.{digits}f}".translate(MINUS)


def difference(report, env, arm, measure="evaluation", digits=1, factor=1.0):
    """+1.2 [−0.9, 3.3], in units of the score times a factor."""
    x, low, high = (factor * report.value(env, arm, f"difference{end}", measure) for end in ("", "_low", "_high"))
    return f"{signed(x, digits)} [{value(low, digits)}, {value(high, digits)}]"


def mean(report, env, arm, measure="evaluation", digits=1):
    """1.2 [0.9, 1.5]."""
    x, low, high = (report.value(env, arm, f"mean{end}", measure) for end in ("", "_low", "_high"))
    return f"{value(x, digits)} [{value(low, digits)}, {value(high, digits)}]"


CLAIMS = {}
README = {}
