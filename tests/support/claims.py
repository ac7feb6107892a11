"""What the committed texts say of the studies in numbers, computed from their csv files.

The claims of a report are the pieces of its text that hold numbers, those of another page the pieces of a section.
`python tests/support/claims.py` prints them, to write a text from.
"""

import functools
import statistics

from claims_of_ablation import ablation, defaults_less
from claims_of_forgetting import ANCHORS, AVERAGE, FALLING, deterministic, forgetting
from claims_of_lucky import AGING, BY_ADVANTAGE, lucky
from claims_of_sparse import APART, DOORKEY, DOORS, FOUND, SHARED, less, sparse
from phrases import (
    LONG,
    beside_published,
    by_treatment,
    count,
    difference,
    direction,
    half_width,
    in_percent,
    mean,
    overall,
    overall_word,
    parse,
    percent,
    percent_together,
    plan,
    secondary_by_env,
    share,
    together,
    value,
    verdict,
    verdicts_by_env,
    word,
)
from reports import REPORTS, Report, read

LANDER = "LunarLander-v3"
WHOLE = {"equivalent": "neither helps nor hurts by more than the margin"}
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")


def apo_suite(report_of):
    report = report_of("apo_suite")
    cartpole, lander, car = "CartPole-v1 (2000 steps)", "LunarLander-v3", "MountainCar-v0"
    yield from verdicts_by_env(report)
    yield from secondary_by_env(report)
    bad, none = (count(report, cartpole, arm, high=1300) for arm in ("ppo", "apo"))
    assert none == 0
    yield f"{bad} of 40 PPO seeds are below 1,300, none"
    apo, ppo = (count(report, lander, arm, 200) for arm in ("apo", "ppo"))
    assert ppo == 40
    yield f"On LunarLander {apo} of 40 APO seeds reach 200 in frozen evaluation, of PPO's all {ppo}."
    yield f"On the whole the anchor {WHOLE[overall_word(report)]}"
    up, down = (direction(report, env, "evaluation") for env in (cartpole, lander))
    assert direction(report, car, "evaluation") == up
    yield "on CartPole and MountainCar the"
    yield f"deterministic policy ends {up}, on LunarLander {down} by more than the margin"
    lower = [env for env in report.envs if direction(report, env, "area") == "lower"]
    assert set(report.envs) - {*lower} == {cartpole}
    yield f"(*area*) is lower on {NUMBERS[len(lower)]} of six environments, and undecided on CartPole"
    found = direction(report, car, "final", words=("better", "worse"))
    yield f"on MountainCar the final training episodes are {found} by {difference(report, car, 'apo', 'final')},"
    others = [env for env in report.envs if env not in (cartpole, car, "Pendulum-v1")]
    measures = ("evaluation_sampled", "final")
    (found,) = {direction(report, env, m, words=("better", "worse")) for env in others for m in measures}
    yield f"on the other {NUMBERS[len(others)]} environments APO is {found} by both measures"
    assert not any(direction(report, env, m) for env in (cartpole, "Pendulum-v1") for m in measures)
    yield f"*retention* is {direction(report, car, 'retention')} on MountainCar"
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


def reference(report_of):
    report = report_of("reference")
    cheetah = sorted(report.scores("HalfCheetah-v4", "ppo", "last_100_episodes"))
    apart = max(range(1, len(cheetah)), key=lambda k: cheetah[k] - cheetah[k - 1])
    kinds = [f"between {value(x[0], 0)} and {value(x[-1], 0)}" for x in (cheetah[:apart], cheetah[apart:])]
    yield f"{apart} of {len(cheetah)} end {kinds[0]}"
    yield f"the others {kinds[1]}"
    row = next(line for line in report.published if line[0] == "HalfCheetah-v4")
    yield f"HalfCheetah's, {row[4]}, with p = {row[5]}"
    yield f"({row[5]} × 6 = {6 * float(row[5]):.2f})"
    yield "; ".join(f"{env} {mean(report, env, 'ppo')}" for env in ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"))
    yield from (
        "last 100 training episodes",
        "Welch's 95 % interval",
        "γ .99",
        "10 million frames",
    )
    yield "2 cores"
    yield "127 minutes"
    yield "an interval that excludes 0"


def best_trials():
    """(algorithm, environment as in the tuning) -> the best trial of tune_fair."""
    best = {}
    for row in read(REPORTS / "tune_fair" / "trials.csv"):
        key = tuple(part.split("=")[1] for part in row["tuning"].split(",")[:2])
        if row["evaluation"] and float(row["evaluation"]) > float(best.get(key, row)["evaluation"]):
            best[key] = row
        best.setdefault(key, row)
    return best


TUNED = {"Acrobot-v1": "acrobot", LONG: "cartpole_long", LANDER: "lunarlander"}


def in_tuning(report):
    """Rows of a table: the best trial's score over three tuning seeds, the same values on forty other seeds."""
    best = best_trials()
    yield f"| | {' | '.join(TUNED)} |"
    for arm in ("ppo", "apo"):
        trials = [value(float(best[arm, name]["evaluation"])) for name in TUNED.values()]
        yield f"| {arm.upper()}, best trial (3 tuning seeds) | {' | '.join(trials)} |"
        yield f"| {arm.upper()}, 40 other seeds | {' | '.join(mean(report, env, arm) for env in TUNED)} |"


def optimism(report_of):
    there = float(best_trials()["ppo", TUNED[LONG]]["evaluation"])
    here = report_of("tune_fair").value(LONG, "ppo", "mean")
    yield f"PPO's scored {value(there, 0)} there, and {value(here, 0)} on forty others"


def tune_fair(report_of):
    report, values = report_of("tune_fair"), report_of("tune_fair/values")
    yield from verdicts_by_env(report)
    yield from secondary_by_env(report)
    yield from in_tuning(report)
    yield from verdicts_by_env(values)
    best = best_trials()
    coefs = [float(best["apo", name]["algo.anchor_coef"]) for name in TUNED.values()]
    yield "coefficients {:.2g} (Acrobot), {:.2g} (CartPole) and {:.2g} (LunarLander)".format(*coefs)
    apo, ppo = (float(best[arm, TUNED[LANDER]]["optimizer.lr"]) for arm in ("apo", "ppo"))
    yield f"a learning rate of {apo:.2g} where PPO's is {ppo:.2g}"
    yield f"three tuning seeds, which scored {value(float(best['apo', TUNED[LANDER]]['evaluation']))},"
    none = count(report, "Acrobot-v1", "apo", high=-499)
    assert none == 0
    yield f"{count(report, 'Acrobot-v1', 'ppo', high=-499)} of 40 PPO seeds score −500, none"
    yield f"over the three environments it is {overall_word(values)}, {overall(values)}"
    yield f"where APO as the search set it is {word(report, LANDER)} by more than the margin"
    assert {word(report, "Acrobot-v1"), word(report, LONG)} == {"inconclusive"}
    yield "The only decided difference is LunarLander's"
    assert "worse" not in {word(values, env) for env in values.envs}
    yield "With equal values APO is worse on none:"
    curves = [direction(report, env, "area") for env in ("Acrobot-v1", LANDER)]
    yield f"On Acrobot APO's learning curve is {curves[0]}, as some"
    yield f"on LunarLander it is {curves[1]}."
    pairs = [
        (best[arm, name]["evaluation"], report.value(env, arm, "mean"))
        for env, name in TUNED.items()
        for arm in ("ppo", "apo")
    ]
    assert all(float(there) > here for there, here in pairs)
    yield "The best trial's score is optimistic in all six cases"
    yield f"with that learning rate scores {mean(values, LANDER, 'ppo')}"
    reach = [half_width(report, env) for env in report.envs]
    yield f"With 40 seeds the intervals reach from {min(reach):.0f} to {max(reach):.0f} % of the span"
    yield from (
        "24 trials of",
        "(0.01 to 10)",
        "Seeds get 200,000 steps",
        "they get 32,000,",
        "margin is 5 % of",
    )
    yield from ("time limit of 2,000 steps", "instead of 500", "95 % intervals", "200,000 steps are few")
    yield from ("Eight trials, 24 agents", "2 cores", "48 minutes, and 28 for")


def weak_anchors(report):
    """Differences of the arms with coefficient 1, all of which are better, in order."""
    arms = [arm for arm in report.arms(LONG) if "anchor_coef=1 " in arm]
    assert {direction(report, LONG, "evaluation", arm) for arm in arms} == {"higher"}
    return sorted((share(report, LONG, arm) for arm in arms), key=lambda text: parse(text.split()[0])[0])


def apo_cartpole(report_of):
    reports = [report_of(f"apo_cartpole/{name}") for name in ("bootstrapped", "ends", "tuned")]
    bootstrapped, ends, tuned = reports
    arms = {(arm.split()[1].split("=")[1], arm): arm for arm in ends.arms(LONG)[1:]}
    of = {coef: [arm for (x, _), arm in arms.items() if x == coef] for coef in ("0.1", "1", "5", "10")}

    def directions(report, measure, *coefs):
        return {direction(report, LONG, measure, arm) for coef in coefs for arm in of[coef]}

    for report, steps in zip(reports, ("400,000", "400,000", "32,000"), strict=True):
        yield f"| {steps} | {mean(report, LONG, 'ppo')} |"
    yield from by_treatment(reports, "evaluation", 1, 5 / ends.value(LONG, of["1"][0], "margin"))
    yield from by_treatment(reports, "area")
    yield from by_treatment([bootstrapped, ends], "retention", 3, coefs=("0.1", "1"))
    best = weak_anchors(ends)
    yield f"better under *ends* in all four settings, from {best[0]} to {best[-1]}"
    (only,) = (arm for arm in of["1"] if direction(bootstrapped, LONG, "evaluation", arm))
    yield f"under *bootstrapped* in one, {share(bootstrapped, LONG, only)}."
    higher = [arm for arm in ends.arms(LONG)[1:] if direction(tuned, LONG, "evaluation", arm) == "higher"]
    assert higher == [arm for arm in of["0.1"] if "forward" in arm]
    told = " and ".join(share(tuned, LONG, arm) for arm in higher)
    yield f"better with coefficient 0.1 and the forward KL, {told}."
    for measure, verb in (("evaluation", "it is worse"), ("area", "the curve is lower")):
        assert all(directions(report, measure, "10") == {"lower"} for report in reports)
        assert all(directions(report, measure, "5") == {"lower"} for report in (bootstrapped, ends))
        assert "lower" not in directions(tuned, measure, "5")
        yield f"With 5 {verb} under the first two treatments, with 10 under all three"
    assert "equivalent" not in {verdict(report, LONG, arm) for report in reports for arm in ends.arms(LONG)[1:]}
    yield "No arm is equivalent to PPO"
    everything = {"higher" in directions(report, "evaluation_sampled", *of) for report in reports}
    assert everything == {False}
    yield "No interval is above 0;"
    yield from by_treatment(reports, "evaluation_sampled", 0)
    assert all(directions(report, "evaluation_sampled", "10") == {"lower"} for report in reports)
    assert all(directions(report, "evaluation_sampled", "5") == {"lower"} for report in (bootstrapped, ends))
    lower = [direction(tuned, LONG, "evaluation_sampled", arm) for arm in of["5"]].count("lower")
    yield "that of coefficient 0.1, forward and oldest under *tuned* nearly is."
    yield "Those of coefficient 10 are below 0 under all three"
    yield f"those of 5 under the first two and in {NUMBERS[lower]} of four settings"
    curves = [arm for arm in ends.arms(LONG)[1:] if direction(tuned, LONG, "area", arm) == "higher"]
    assert curves == [arm for arm in of["0.1"] if "reverse" in arm]
    yield "with tuned values and coefficient 0.1 it is higher with the reverse KL."
    lower = [direction(bootstrapped, LONG, "area", arm) for arm in of["1"]].count("lower")
    yield f"with 1 in {NUMBERS[lower]} of four settings under *bootstrapped*"
    assert not any(direction(ends, LONG, "area", arm) for arm in of["1"])
    kept = [mean(report, LONG, "ppo", "retention", 3) for report in (bootstrapped, ends)]
    (n,) = {len(report.scores(LONG, "ppo", "retention")) for report in (bootstrapped, ends)}
    yield f"PPO itself, {n} of 40 seeds, retains {kept[0]} under *bootstrapped* and {kept[1]} under *ends*"
    few = max(len(report.scores(LONG, arm, "retention")) for report in reports for arm in of["5"])
    assert not any(len(report.scores(LONG, arm, "retention")) for report in reports for arm in of["10"])
    yield f"With coefficient 5 at most {few} of 40 seeds reach 400 early enough, with 10 none"
    pairs = [(report, arm) for report in (bootstrapped, ends) for arm in (*of["0.1"], *of["1"], *of["5"])]
    assert not any(
        direction(report, LONG, "retention", arm) for report, arm in pairs if "retention" in report.judged(arm)
    )
    yield "No difference is found."
    assert not len(tuned.scores(LONG, "ppo", "retention"))
    yield "with tuned values the 32,000 steps are too few"
    found = [f"{plan(report, LONG, r'do so for a margin of ([0-9.]+)'):.0f}" for report in reports]
    yield f"40 seeds find a difference of {found[0]}, {found[1]} and {found[2]} in the return four"
    yield "so much that 40 cannot tell the margin"
    yield from (
        "train 40 seeds each",
        "limit is 2,000 steps instead of 500",
        "margin 5 % of",
        "8 environments × 128 steps",
    )
    yield from (
        "with 5 % of false",
        "With coefficient 1 APO",
        "first reached 400",
        "bold excludes 0.",
        "from coefficient 1 on, in some settings",
        "with coefficient 1, the end is not",
        "with coefficient 1, forward and newest",
        "Commit 2183070;",
        "limit of 2,000 steps",
        "what 40 seeds",
    )
    yield "2 cores"


def objectives(report_of):
    report = report_of("objectives")
    (env,) = report.envs
    assert {row["seed"] for row in report.seeds} == set(map(str, range(10)))
    assert all(148_000 < float(row["steps"]) < 150_000 for row in report.seeds)
    yield from (
        "CartPole-v1, 150,000 steps, seeds 0 to 9",
        "the ceiling of 500",
        "the margin 5 % of",
        "with 95 % intervals",
    )
    yield from ("| steps to 475 |", "mean of 475 over 100 episodes", "the 20 epochs of each rollout")
    for arm in report.arms(env):
        times = [row["steps_to_threshold"] for row in report.seeds if row["arm"] == arm]
        reached = [float(x) for x in times if x]
        median = statistics.median([float(x or "inf") for x in times])
        steps = "–" if median == float("inf") else f"{median:,.0f}"
        told = "baseline" if arm == "ppo" else verdict(report, env, arm)
        apart = "" if arm == "ppo" else f"{share(report, env, arm)} "
        final = value(report.value(env, arm, "mean", "evaluation"))
        yield f"| {mean(report, env, arm)} | {apart}| {told} | {final} | {steps} | {len(reached)} |"
    assert sorted(report.arms(env), key=lambda arm: report.value(env, arm, "mean"))[:3] == [
        "a2c",
        "ppo_ewma",
        "apo_random",
    ]
    yield "given twice the steps it ends at 500 in every seed"


CLAIMS = {
    "apo_ablation": ablation,
    "apo_cartpole": apo_cartpole,
    "apo_suite": apo_suite,
    "forgetting": forgetting,
    "forgetting/deterministic": deterministic,
    "lucky": lucky,
    "apo_sparse": sparse,
    "objectives": objectives,
    "reference": reference,
    "tune_fair": tune_fair,
}


def did_it_help(report_of):
    first = report_of("first")
    low, high = (
        5 / first.value("CartPole-v1", "apo", "margin") * first.value("CartPole-v1", "apo", f"difference_{end}")
        for end in ("low", "high")
    )
    yield f"by {low:.0f} to {high:.0f} % of the way"
    yield "the declared margin of 5 %"
    yield "all comparisons together risk 5 % of false verdicts"
    for measure in ("final", "area"):
        assert not direction(first, "CartPole-v1", measure)
    yield "by the other measures, in units of return, the intervals contain 0"


def results(report_of):
    suite = report_of("apo_suite")
    cartpole, lander, car = "CartPole-v1 (2000 steps)", "LunarLander-v3", "MountainCar-v0"
    yield f"**{overall_word(suite)}** over six environments, {overall(suite)} |"
    assert word(suite, cartpole, car) == "better"
    where = "CartPole with 2,000 steps where time-outs count as terminations"
    yield f"{where}, {percent(suite, cartpole)}; MountainCar, {percent(suite, car)}."
    parts, luck = report_of("apo_ablation"), report_of("lucky")
    more = in_percent(defaults_less(parts, "apo_random"))
    yield f"the best episode does more than a random one, {more} over these and Acrobot |"
    assert word(suite, lander) == "worse"
    assert word(luck, lander, arm=AGING) == "equivalent"
    harm, none = percent(suite, lander), percent(luck, lander, AGING)
    assert direction(luck, lander, "evaluation_sampled", AGING) == "lower"
    yield f"LunarLander, {harm}. Scores that age mend what its policy does most likely, {none}, but not what it samples"
    yield "last 100 training episodes"
    yield from beside_published(report_of("reference"))
    rare = report_of("apo_sparse")
    assert together(rare, "apo")[1] < 0 < together(rare, "apo")[2]
    yield f") does, {percent_together(rare, 'sil')} over five environments"  # code is no part of what is compared
    forgot = report_of("forgetting")
    assert all(low < 0 < high for _, low, high in (together(forgot, arm) for arm in ANCHORS))
    yield f"**a learning rate that falls to 0** does, {percent_together(forgot, FALLING)} |"


def ppo_results(report_of):
    yield "last 100 training episodes"
    yield from beside_published(report_of("reference"))
    suite = report_of("apo_suite")
    yield f"with tuned ones it ends at {mean(suite, 'MountainCar-v0', 'ppo')} in frozen evaluation"
    yield f"{suite.rows['MountainCar-v0', 'ppo', 'evaluation']['n']} seeds)"


def apo_results(report_of):
    suite, fair = report_of("apo_suite"), report_of("tune_fair")
    yield f"{overall_word(suite)} over the six, {overall(suite)} of the span"
    for told in ("better", "worse"):
        first, *others = (f"{env} ({percent(suite, env)})" for env in suite.envs if word(suite, env) == told)
        yield f"{told} on {', '.join([first, *others[:-1]])} and {others[-1]}"
    yield f"{overall_word(fair)} over the three, {overall(fair)}"
    yield f"{word(fair, LANDER)} on LunarLander ({percent(fair, LANDER)})"
    best = weak_anchors(report_of("apo_cartpole/ends"))
    yield f"with 1 it ends better where truncation is treated as termination, from {best[0]} to {best[-1]};"
    valued = report_of("apo_cartpole/bootstrapped")
    middling = [arm for arm in valued.arms(LONG)[1:] if "anchor_coef=1 " in f"{arm} "]
    higher = [arm for arm in middling if direction(valued, LONG, "evaluation", arm) == "higher"]
    yield f"in {NUMBERS[len(higher)]} of {NUMBERS[len(middling)]} settings also"
    tuned = report_of("apo_cartpole/tuned")
    arms = [arm for arm in tuned.arms(LONG)[1:] if direction(tuned, LONG, "evaluation", arm) == "higher"]
    assert all("anchor_coef=0.1 direction=forward" in arm for arm in arms)
    told = " and ".join(share(tuned, LONG, arm) for arm in arms)
    yield f"with values tuned for PPO, coefficient 0.1 and the forward KL, {told}."
    yield "with a time limit of 2,000 steps"
    yield "with coefficient 10 slower and worse under each"
    yield "with 5 under two"
    forgot = report_of("forgetting")
    yield "on CartPole with 2,000 steps, on Acrobot hardly"
    one, five, sixteen = (percent_together(forgot, arm) for arm in ANCHORS[:3])
    yield f"coefficient 1 {one}, 5 {five}, the 16 best episodes {sixteen}. On CartPole alone"
    for measure in ("final", "area"):
        assert direction(forgot, LONG, measure, "apo anchor_coef=5") == "higher"
    yield "measures find coefficient 5 better"
    yield f"A learning rate that falls to 0 does help, {percent_together(forgot, FALLING)}, more than any anchor"
    parts = report_of("apo_ablation")
    yield f"the defaults are better than PPO, {percent_together(parts, 'apo')}"
    yield f"better than a random episode,\n{in_percent(defaults_less(parts, 'apo_random'))}"
    yield from ("than coefficient 3", "make no\ndifference of 5 %")
    rare = report_of("apo_sparse")
    yield f"inconclusive over the seven, {percent_together(rare, 'apo')}; self-imitation"
    yield f"is better than PPO, {percent_together(rare, 'sil')}, and"
    yield f"than APO,\n{in_percent(less(rare, 'sil', 'apo'))}"
    yield f"with one each, {in_percent(less(rare, SHARED, APART))},"
    luck = report_of("lucky")
    assert (word(luck, LANDER, arm=AGING), word(luck, LANDER, arm=BY_ADVANTAGE)) == ("equivalent", "worse")
    yield f"judged by advantage {percent(luck, LANDER, BY_ADVANTAGE)}, ageing {percent(luck, LANDER, AGING)},"
    bench = read(REPORTS / "bench" / "bench.csv")
    apo, ppo = (
        statistics.median(
            float(row["steps_per_second"]) for row in bench if (row["workload"], row["side"]) == (work, "rlexp")
        )
        for work in ("W1-apo", "W1")
    )
    yield f"it runs at {apo / ppo:.2f} of PPO's speed"


WORK = {
    "CartPole, 8 × 128, Gymnasium's environments": "W1",
    "the same by default, with the environment compiled, too": "W1-torch",
    "the same, 10 seeds side by side, summed": "W1-10",
    "HalfCheetah-v5, 1 × 2048": "W4",
    "Breakout, 8 × 128, NatureCNN": "W3",
}


def speed(_):
    """Rows of a table: median steps per second of both sides, and their ratio."""
    runs = read(REPORTS / "bench" / "bench.csv")
    for label, work in WORK.items():
        here, there = (
            statistics.median(
                float(row["steps_per_second"]) for row in runs if (row["workload"], row["side"]) == (work, side)
            )
            for side in ("rlexp", "peer")
        )
        ratio = here / there
        yield f"| {label} | {here:,.0f} | {there:,.0f} | {ratio:.{0 if ratio > 10 else 1}f} |"
    yield "| work | rlexp | Stable-Baselines3 | ratio |"
    yield "medians of three runs"


def table(name, **where):
    """Rows of a table of outputs/reports/promises."""
    rows = read(REPORTS / "promises" / f"{name}.csv")
    return [row for row in rows if all(row[key] == str(value) for key, value in where.items())]


def percents(rows, column, worst=min):
    """The worst of a column of shares, in percent."""
    return f"{100 * worst(float(row[column]) for row in rows):.1f}"


def promises(_):
    """Rows of the table of what compare promises."""
    equal = [row for row in table("differences") if row["arm"] == row["baseline"]]
    apart = [row for row in table("differences") if row["arm"] != row["baseline"]]
    yield f"| at most {percents(table('false'), 'false verdicts', max)} %, within two standard errors (.44) of 5;"
    yield f"| at most {percents(table('path'), 'false verdicts', max)} % |"
    yield f"| at least {percents(equal, 'of means')} % |"
    yield f"| at least {percents(equal, 'of IQMs')} %; {percents(equal, 'P(better)')} % |"
    few, ten, most = (percents([row for row in apart if row["n"] == str(n)], "of means") for n in (5, 10, 20))
    yield f"| at least {few}, {ten}, {most} % with 5, 10, 20 seeds:"
    yield f"| likewise P(better) | the same | at least {percents(apart, 'P(better)')} % |"
    iqm = [percents([row for row in table("arms") if int(row["n"]) >= 5], "IQM")]
    yield f"| at least {iqm[0]} % |"
    few, ten, most = (percents(table("arms", n=n), "mean") for n in (5, 10, 20))
    yield f"| at least {few}, {ten}, {most} % with 5, 10, 20 seeds;"
    edge = percents(table("equivalence"), "claimed at the edge", max)
    found = percents([row for row in table("equivalence") if "not" not in row["seeds"]], "found")
    yield f"| at most {edge} %; at least {found} % |"
    off = max(abs(float(row[f"told {x}"]) - float(row[x])) for row in table("power") for x in ("better", "equivalent"))
    yield f"| by at most .{round(1000 * off):03d} |"


def uncovered(_):
    """What no interval covers: coverage with 5, 10 and 20 seeds."""

    def three(rows, column):
        five, ten, twenty = (f"{100 * float(row[column]):.0f}" for row in rows if int(row["n"]) >= 5)
        return f"{five}, {ten} and {twenty} %"

    mirror = table("differences", arm="lognormal", baseline="skewed to the left")
    yield f"the difference is covered in {three(mirror, 'of means')}."
    one_arm = table("differences", arm="one in five fails", baseline="at the ceiling")
    yield f"covers it in {three(one_arm, 'of means')} (5, 10, 20 seeds)"
    for shape, where in (
        ("one in five fails", "one seed in five fails"),
        ("one in ten fails", "one in ten fails"),
        ("nearly all the same", "nine in ten score the same"),
        ("500 or 100, three to one", "500 or 100, three to one"),
        ("lognormal", "lognormal"),
    ):
        yield f"| {where} | {three(table('arms', shape=shape), 'mean')} |"


def ewma_results(report_of):
    once, forgot = report_of("objectives"), report_of("forgetting")
    yield f"inconclusive by the area under the learning curve, {percent(once, 'CartPole-v1', 'ppo_ewma')} of the span"
    ewma, ppo = (value(once.value("CartPole-v1", arm, "mean", "evaluation")) for arm in ("ppo_ewma", "ppo"))
    yield f"policy scores {ewma}, PPO's {ppo}; three of ten"
    yield f"inconclusive, too, {percent_together(forgot, 'ppo_ewma')} over CartPole and Acrobot"
    yield f"are better than PPO, {percent_together(forgot, AVERAGE)} ("


def kl_results(report_of):
    once, forgot = report_of("objectives"), report_of("forgetting")
    yield f"no difference from PPO was found, {percent(once, 'CartPole-v1', 'ppo_kl')} of the span"
    ends = {value(once.value("CartPole-v1", arm, "mean", "evaluation")) for arm in ("ppo_kl", "ppo")}
    yield f"both end at {ends.pop()}"
    assert not ends
    yield f"inconclusive over CartPole and Acrobot, {percent_together(forgot, 'ppo_kl')} ("
    yield f"rare, too, {percent_together(report_of('apo_sparse'), 'ppo_kl')} ("


def imitating(report_of, arm):
    rare = report_of("apo_sparse")
    yield percent_together(rare, arm)
    counts = [[count(rare, env, x, FOUND) for env in (DOORKEY, DOORS)] for x in (arm, "ppo")]
    yield "{} and {} of 10 seeds find the goal, PPO's {} and {}".format(*counts[0], *counts[1])


def exploring(report_of):
    rare = report_of("apo_sparse")
    yield f"PPO with it is inconclusive against PPO, {percent_together(rare, 'ppo+rnd')},"
    yield f"as is APO with it, {percent_together(rare, 'apo+rnd')};"
    counts = [str(count(rare, env, x, FOUND)) for x in ("ppo+rnd", "apo+rnd", "ppo") for env in (DOORKEY, DOORS)]
    yield "{} and {} of 10 seeds find the goal, with APO {} and {}, PPO's {} and {}".format(*counts)


PAGES = {
    ("rlexp/algos/ppo_ewma.md", "Results"): ewma_results,
    ("rlexp/algos/ppo_kl.md", "Results"): kl_results,
    ("README.md", "Did it help?"): did_it_help,
    ("README.md", "Results"): results,
    ("README.md", "Speed"): speed,
    ("rlexp/algos/ppo.md", "Results"): ppo_results,
    ("rlexp/algos/apo.md", "Results"): apo_results,
}
# pages of which only these sentences tell what was measured
SENTENCES = {
    "outputs/reports/promises/report.md": [promises],
    "rlexp/compare/statistics.md": [promises, uncovered],
    "rlexp/sweep/tune/README.md": [optimism],
    "rlexp/algos/rnd.md": [exploring],
    **{f"rlexp/algos/{name}.md": [functools.partial(imitating, arm=name)] for name in ("sil", "rapid_bc", "opr")},
}


if __name__ == "__main__":
    for name, claims in CLAIMS.items():
        print(f"# {name}", *claims(Report), sep="\n")
    for (page, heading), claims in PAGES.items():
        print(f"# {page}, {heading}", *claims(Report), sep="\n")
