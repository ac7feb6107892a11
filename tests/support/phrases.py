"""Pieces of text that hold numbers of a committed comparison: cells, rows of tables, intervals in a sentence."""

import math
import re
import statistics

from reports import INTERVAL, parse, read

MINUS = str.maketrans("-", "−")


def value(x, digits=1):
    """-1234.5 as −1,234.5, and -0.04 as 0.0."""
    return f"{round(x, digits) + 0.0:,.{digits}f}".translate(MINUS)


def signed(x, digits=1):
    return f"{round(x, digits) + 0.0:+,.{digits}f}".translate(MINUS)


def interval(report, env, arm, column, measure, digits=1, factor=1.0, sign=False):
    """1.2 [0.9, 1.5], of three columns of compare.csv times a factor; – where there are none."""
    x, low, high = (factor * report.value(env, arm, f"{column}{end}", measure) for end in ("", "_low", "_high"))
    if math.isnan(low):
        return "–"
    return f"{(signed if sign else value)(x, digits)} [{value(low, digits)}, {value(high, digits)}]"


def mean(report, env, arm, measure=None, digits=1):
    return interval(report, env, arm, "mean", measure, digits)


def difference(report, env, arm, measure=None, digits=1):
    return interval(report, env, arm, "difference", measure, digits, sign=True)


def share(report, env, arm, digits=1):
    """The difference by the primary measure in percent of the span, of which the margin is 5."""
    factor = 5 / report.value(env, arm, "margin")
    return interval(report, env, arm, "difference", report.primary, digits, factor, sign=True)


def half_width(report, env, arm="apo"):
    """Of the interval of the difference by the primary measure, in percent of the span."""
    low, high = (report.value(env, arm, f"difference_{end}") for end in ("low", "high"))
    return 5 / report.value(env, arm, "margin") * (high - low) / 2


def verdict(report, env, arm):
    """The word, and what stands beside it."""
    row = report.rows[env, arm, report.primary]
    word = row["verdict"] if row["verdict"] in ("inconclusive", "interim") else f"**{row['verdict']}**"
    beside = "within the margin" if row["within_margin"] == "True" else row["why"]
    return f"{word}, {beside}" if beside else word


def word(report, *envs, arm="apo"):
    """The verdict's word, which is the same on these environments."""
    (found,) = {report.rows[env, arm, report.primary]["verdict"] for env in envs}
    return found


def overall_word(report):
    """The verdict's word over all environments; the test of compare.md computes it."""
    return re.search(r"Over \d+ environments apo (?:is|against ppo is) (\w+)", report.quotable)[1]


def direction(report, env, measure, arm="apo", words=("higher", "lower")):
    """Of a difference whose interval excludes 0; empty: it does not."""
    low, high = (report.value(env, arm, f"difference_{end}", measure) for end in ("low", "high"))
    return words[0] if low > 0 else words[1] if high < 0 else ""


def verdicts_by_env(report, arm="apo", base="ppo"):
    """Rows of a table: environment, seeds, both means, the difference in percent, the verdict."""
    yield f"| environment | seeds per arm | {base.upper()} | {arm.upper()} | difference, % | {arm.upper()} is |"
    for env in report.envs:
        n = report.rows[env, arm, report.primary]["n"]
        cells = [mean(report, env, base), mean(report, env, arm), share(report, env, arm), verdict(report, env, arm)]
        yield f"| {env} | {n} | {' | '.join(cells)} |"


def secondary_by_env(report, arm="apo"):
    """Rows of a table: environment, and differences by the other measures."""
    yield "| environment | evaluation, sampled actions | final training episodes | area | retention |"
    for env in report.envs:
        cells = [difference(report, env, arm, measure) for measure in ("evaluation_sampled", "final", "area")]
        cells.append(difference(report, env, arm, "retention", 3) if (env, arm, "retention") in report.rows else "–")
        yield f"| {env} | {' | '.join(cells)} |"


def by_arm(report, labels, base="ppo"):
    """Rows of a table: of each arm, in each environment, its mean, the difference in percent of the span, the verdict.

    labels: arm -> what its row begins with; the arms are these, in this order.
    """
    assert {arm for env in report.envs for arm in report.arms(env)} == {*labels}
    yield f"| arm | {' | '.join(f'{env} | difference, % | is' for env in report.envs)} |"
    for arm, label in labels.items():
        cells = [label]
        for env in report.envs:
            told = ["–", "baseline"] if arm == base else [share(report, env, arm), verdict(report, env, arm)]
            cells += [mean(report, env, arm), *told]
        yield f"| {' | '.join(cells)} |"


def count(report, env, arm, low=-math.inf, high=math.inf):
    """Seeds whose evaluation is within [low, high)."""
    scores = report.scores(env, arm, report.primary)
    return int(((low <= scores) & (scores < high)).sum())


def plan(report, env, pattern):
    """A number that the plan gives for an environment."""
    of_env = (report.folder / "plan.txt").read_text(encoding="utf-8").split(f"{env}: ")[1]
    return float(re.search(pattern, of_env)[1])


ARM = re.compile(r"apo anchor_coef=(?P<coef>\S+) direction=(?P<kl>\S+) replace_on_tie=(?P<newest>\S+)")
LONG = "CartPole-v1 (2000 steps)"


def by_treatment(reports, measure, digits=1, factor=1.0, coefs=("0.1", "1", "5", "10")):
    """A table: coefficient, KL and tie rule, and the difference from PPO under each treatment; bold: not 0."""
    yield f"| coefficient | KL | tie | {' | '.join(report.name.split('/')[1] for report in reports)} |"
    for arm in reports[0].arms(LONG)[1:]:
        coef, kl, newest = ARM.fullmatch(arm).groups()
        if coef not in coefs:
            continue
        cells = [interval(report, LONG, arm, "difference", measure, digits, factor, sign=True) for report in reports]
        for index, report in enumerate(reports):
            low, high = (report.value(LONG, arm, f"difference_{end}", measure) for end in ("low", "high"))
            if low > 0 or high < 0:
                cells[index] = f"**{cells[index]}**"
        yield f"| {coef} | {kl} | {'newest' if newest == 'True' else 'oldest'} | {' | '.join(cells)} |"


def percent(report, env, arm="apo"):
    """+1.2 % [−0.9, 3.3]."""
    return share(report, env, arm).replace(" [", " % [")


def overall(report, arm="apo"):
    """+1.2 % [−0.9, 3.3], over all environments; the bounds as compare.md tells them, where a test computes them."""
    x = statistics.mean(
        5 / report.value(env, arm, "margin") * report.value(env, arm, "difference") for env in report.envs
    )
    found = INTERVAL.search(report.quotable[report.quotable.index("Over ") :])
    low, high = (parse(found[key])[0] for key in ("low", "high"))
    return f"{signed(x)} % [{value(low)}, {value(high)}]"


def together(report, arm):
    """(difference, low, high) in percent of the span over all environments, of one of many arms, from compare.md."""
    told = re.search(r"Over \d+ environments .*?(?= - On |$)", report.quotable)[0]
    found = INTERVAL.match(told, re.search(rf"[:;] {re.escape(arm)} (?=[-+])", told).end())
    return tuple(parse(found[key])[0] for key in ("value", "low", "high"))


def interval_of(d):
    """+1.2 [0.9, 1.5], in percent, of a share."""
    return f"{signed(100 * d.value)} [{value(100 * d.low)}, {value(100 * d.high)}]"


def in_percent(d):
    """+1.2 % [0.9, 1.5], of a share."""
    return interval_of(d).replace(" [", " % [")


def percent_together(report, arm):
    x, low, high = together(report, arm)
    return f"{signed(x)} % [{value(low)}, {value(high)}]"


def comparisons(report):
    """How many primary comparisons share the five percent."""
    (level,) = {row["alpha"] for row in report.rows.values() if row["role"] == "primary" and row["alpha"]}
    return round(0.05 / float(level))


def together_of_one(report, arm):
    """As `together`, where each arm has a sentence of its own."""
    told = re.search(rf"Over \d+ environments {re.escape(arm)} (?:is|against) .*?: ", report.quotable)
    found = INTERVAL.match(report.quotable, told.end())
    return tuple(parse(found[key])[0] for key in ("value", "low", "high"))


def beside_published(report):
    """Rows of a table: environment, steps, here and published, mean ± deviation over seeds."""
    for row in read(report.folder / "published.csv"):
        env = row["env"]
        x = report.scores(env, "ppo", "last_100_episodes")
        digits = 1 if abs(x.mean()) < 1000 else 0
        steps = "1 M" if "-v4" in env else "500 k"
        here = f"{value(x.mean(), digits)} ± {value(x.std(ddof=1), digits)} ({len(x)} seeds)"
        there = (
            f"{value(float(row['score']), digits)} ± {value(float(row['deviation']), digits)} ({row['seeds']} seeds)"
        )
        yield f"| {env} | {steps} | {here} | {there} |"
