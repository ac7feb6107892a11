"""What the committed texts say of the studies in numbers, computed from their csv files.

The claims of a report are the pieces of its text that hold numbers, those of the README the pieces of a section.
`python tests/support/claims.py` prints them, to write a text from.
"""

import math
import re
import statistics

from reports import INTERVAL, REPORTS, Report, parse, read

MINUS = str.maketrans("-", "−")


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


def count(report, env, arm, low=-math.inf, high=math.inf):
    """Seeds whose evaluation is within [low, high)."""
    scores = report.scores(env, arm, "evaluation")
    return int(((low <= scores) & (scores < high)).sum())


def apo_suite(report_of):
    report = report_of("apo_suite")
    cartpole, lander, car = "CartPole-v1 (2000 steps)", "LunarLander-v3", "MountainCar-v0"
    yield from verdicts_by_env(report)
    yield from secondary_by_env(report)
    bad, none = (count(report, cartpole, arm, high=1300) for arm in ("ppo", "apo"))
    assert none == 0
    yield f"{bad} of 40 PPO seeds are below 1,300, none"
    apo, ppo = (count(report, lander, arm, 200) for arm in ("apo", "ppo"))
    yield f"{apo} of 40 APO seeds reach 200 in frozen evaluation, of PPO's all {ppo}."
    yield f"better by {difference(report, car, 'apo', 'final')},"
    early = [len(report.scores(car, arm, "retention")) for arm in ("apo", "ppo")]
    yield f"of the {early[0]} and {early[1]} seeds that reached"
    found = [f"{plan(report, env, r'do so for a margin of ([0-9.]+)'):.3g}" for env in (car, lander, cartpole)]
    yield f"a difference of {found[0]} on MountainCar, {found[1]} on LunarLander and {found[2]} on CartPole"
    yield "more than the 40 that they got. With 40, the plan says"
    yield from (
        "coefficient 1 and",
        "margin 5 %",
        "95 % intervals",
        "time limit of 2,000 steps",
        "instead of 500",
        "400,000 steps",
    )
    yield from ("over 20 episodes", "2 cores", "49 minutes")


def plan(report, env, pattern):
    """A number that the plan gives for an environment."""
    of_env = (report.folder / "plan.txt").read_text(encoding="utf-8").split(f"{env}: ")[1]
    return float(re.search(pattern, of_env)[1])


CLAIMS = {"apo_suite": apo_suite}


def did_it_help(report_of):
    first = report_of("first")
    low, high = (
        5 / first.value("CartPole-v1", "apo", "margin") * first.value("CartPole-v1", "apo", f"difference_{end}")
        for end in ("low", "high")
    )
    yield f"by {low:.0f} to {high:.0f} % of the way"
    yield "more than the 5 % that"


def results(report_of):
    suite = report_of("apo_suite")
    cartpole, lander, car = "CartPole-v1 (2000 steps)", "LunarLander-v3", "MountainCar-v0"
    yield f"over six environments, {overall(suite)} of the span"
    yield f"CartPole with a time limit of 2,000 steps, {percent(suite, cartpole)}, and on"
    yield f"MountainCar, {percent(suite, car)}; worse on LunarLander, {percent(suite, lander)};"
    yield "last 100 training episodes"
    yield from beside_published(report_of("reference"))


def percent(report, env, arm="apo"):
    """+1.2 % [−0.9, 3.3]."""
    return share(report, env, arm).replace(" [", " % [")


def overall(report):
    """The sentence over all environments, to one digit; the test of compare.md computes it."""
    found = INTERVAL.search(report.quotable[report.quotable.index("Over ") :])
    x, low, high = (parse(found[key])[0] for key in ("value", "low", "high"))
    return f"{signed(x)} % [{value(low)}, {value(high)}]"


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


def speed(_):
    """Rows of a table: median steps per second of both sides, and their ratio."""
    runs = read(REPORTS / "bench" / "bench.csv")
    for work in ("W1", "W1-torch", "W1-10", "W4", "W3"):
        here, there = (
            statistics.median(
                float(row["steps_per_second"]) for row in runs if (row["workload"], row["side"]) == (work, side)
            )
            for side in ("rlexp", "peer")
        )
        ratio = here / there
        yield f"| {here:,.0f} | {there:,.0f} | {ratio:.{0 if ratio > 10 else 1}f} |"
    yield from (
        "medians of three runs",
        "CartPole, 8 × 128,",
        "the same, 10 seeds side",
        "1 × 2048",
        "Breakout, 8 × 128,",
    )


def table(name, **where):
    """Rows of a table of outputs/reports/promises."""
    rows = read(REPORTS / "promises" / f"{name}.csv")
    return [row for row in rows if all(row[key] == str(value) for key, value in where.items())]


def percents(rows, column, worst=min):
    """The worst of a column of shares, in percent."""
    return f"{100 * worst(float(row[column]) for row in rows):.1f}"


def promises(_=None):
    """Rows of the table of what compare promises."""
    equal = [row for row in table("differences") if row["arm"] == row["baseline"]]
    apart = [row for row in table("differences") if row["arm"] != row["baseline"]]
    yield f"| at most {percents(table('false'), 'false verdicts', max)} %, within two standard errors (.44) of 5;"
    yield f"| at most {percents(table('path'), 'false verdicts', max)} % |"
    yield f"| at least {percents(equal, 'of means')} % |"
    yield f"| at least {percents(equal, 'of IQMs')} %; {percents(equal, 'P(better)')} % |"
    few, ten, most = (percents([row for row in apart if row["n"] == str(n)], "of means") for n in (5, 10, 20))
    yield f"| at least {few}, {ten}, {most} % with 5, 10, 20 seeds:"
    iqm = [percents([row for row in table("arms") if int(row["n"]) >= 5], "IQM")]
    yield f"| at least {iqm[0]} % |"
    few, ten, most = (percents(table("arms", n=n), "mean") for n in (5, 10, 20))
    yield f"| at least {few}, {ten}, {most} % with 5, 10, 20 seeds;"
    edge = percents(table("equivalence"), "claimed at the edge", max)
    found = percents([row for row in table("equivalence") if "not" not in row["seeds"]], "found")
    yield f"| at most {edge} %; at least {found} % |"
    off = max(abs(float(row[f"told {x}"]) - float(row[x])) for row in table("power") for x in ("better", "equivalent"))
    yield f"| by at most .{round(1000 * off):03d} |"


def uncovered():
    """The paragraph on what no interval covers: coverage with 5, 10 and 20 seeds."""

    def three(rows, column):
        five, ten, twenty = (f"{100 * float(row[column]):.0f}" for row in rows if int(row["n"]) >= 5)
        return f"{five}, {ten} and {twenty} %"

    one_arm = table("differences", arm="one in five fails", baseline="at the ceiling")
    yield f"covers it in {three(one_arm, 'of means')} (5, 10, 20 seeds)"
    for shape, where in (
        ("one in five fails", "where one seed in five fails"),
        ("one in ten fails", "where one in ten does"),
        ("nearly all the same", "where nine in ten score the same"),
        ("500 or 100, three to one", "of scores of 500 or 100 as three to one"),
        ("lognormal", "of lognormal ones"),
    ):
        yield f"in {three(table('arms', shape=shape), 'mean')} {where}"


README = {"Did it help?": did_it_help, "Results": results, "Speed": speed}


if __name__ == "__main__":
    for name, claims in CLAIMS.items():
        print(f"# {name}", *claims(Report), sep="\n")
    for heading, claims in README.items():
        print(f"# README, {heading}", *claims(Report), sep="\n")
