"""What the committed texts say of the studies in numbers, computed from their csv files.

The claims of a report are the pieces of its text that hold numbers, those of the README the pieces of a section.
`python tests/support/claims.py` prints them, to write a text from.
"""

import math

from reports import Report

MINUS = str.maketrans("-", "−")
ABOUT = ["PPO", "APO"]


def value(x, digits=1):
    """-1234.5 as −1,234.5."""
    return f"{x:,.{digits}f}".translate(MINUS)


def signed(x, digits=1):
    return f"{x:+,.{digits}f}".translate(MINUS)


def interval(report, env, arm, column, measure, digits=1, factor=1.0, sign=False):
    """1.2 [0.9, 1.5], of three columns of compare.csv times a factor; – where there are none."""
    x, low, high = (factor * report.value(env, arm, f"{column}{end}", measure) for end in ("", "_low", "_high"))
    if math.isnan(low):
        return "–"
    return f"{(signed if sign else value)(x, digits)} [{value(low, digits)}, {value(high, digits)}]"


def mean(report, env, arm, measure="evaluation", digits=1):
    return interval(report, env, arm, "mean", measure, digits)


def difference(report, env, arm, measure="evaluation", digits=1):
    return interval(report, env, arm, "difference", measure, digits, sign=True)


def share(report, env, arm, digits=1):
    """The difference by the primary measure in percent of the span, of which the margin is 5."""
    factor = 5 / report.value(env, arm, "margin")
    return interval(report, env, arm, "difference", "evaluation", digits, factor, sign=True)


def verdict(report, env, arm):
    """The word, and what stands beside it."""
    row = report.rows[env, arm, "evaluation"]
    word = row["verdict"] if row["verdict"] in ("inconclusive", "interim") else f"**{row['verdict']}**"
    beside = "within the margin" if row["within_margin"] == "True" else row["why"]
    return f"{word}, {beside}" if beside else word


def verdicts_by_env(report, arm="apo", base="ppo"):
    """Rows of a table: environment, seeds, both means, the difference in percent, the verdict."""
    for env in report.envs:
        n = report.rows[env, arm, "evaluation"]["n"]
        cells = [mean(report, env, base), mean(report, env, arm), share(report, env, arm), verdict(report, env, arm)]
        yield f"| {env} | {n} | {' | '.join(cells)} |"


def secondary_by_env(report, arm="apo"):
    """Rows of a table: environment, and differences by the other measures."""
    for env in report.envs:
        cells = [difference(report, env, arm, measure) for measure in ("evaluation_sampled", "final", "area")]
        cells.append(difference(report, env, arm, "retention", 3) if (env, arm, "retention") in report.rows else "–")
        yield f"| {env} | {' | '.join(cells)} |"


CLAIMS = {}
README = {}


if __name__ == "__main__":
    for name, claims in CLAIMS.items():
        print(f"# {name}", *claims(Report(name)), sep="\n")
    for heading, claims in README.items():
        print(f"# README, {heading}", *claims(Report), sep="\n")
