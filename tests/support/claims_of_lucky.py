"""What the texts say of `experiment=lucky` in numbers, computed from its csv files."""

import statistics

from phrases import by_arm, count, difference, direction, percent, signed, value, word
from reports import read

from rlexp.compare.permutation import permutation_test

BY_ADVANTAGE, AGING, MANY, BOTH, WEAK = (
    f"apo {setting}"
    for setting in (
        "anchor_by=advantage",
        "anchor_half_life=50000",
        "top_k=16",
        "anchor_by=advantage top_k=16",
        "anchor_coef=0.1",
    )
)
LABELS = {
    "ppo": "PPO",
    "apo": "APO",
    BY_ADVANTAGE: "APO, judged by advantage",
    AGING: "APO, an anchor that ages",
    MANY: "APO, 16 episodes",
    BOTH: "APO, 16 episodes by advantage",
    WEAK: "APO, coefficient 0.1",
    "apo_random": "APO, random episode",
}

COLUMNS = ("entropy", "anchor_age", "anchor_return", "anchor_length", "anchor_score")


def lucky(report_of):
    report = report_of("lucky")
    (env,) = report.envs
    yield from by_arm(report, LABELS)
    for arm, label in LABELS.items():
        cells = [difference(report, env, arm, x) for x in ("evaluation_sampled", "final", "area") if arm != "ppo"]
        solved = [count(report, env, arm, 200), int((report.scores(env, arm, "evaluation_sampled") >= 200).sum())]
        yield f"| {label} | {' | '.join(cells or ['–'] * 3)} | {solved[0]} | {solved[1]} |"
        assert arm == "ppo" or solved[1] == 0
    direct = [
        permutation_test([(report.scores(env, WEAK, x), report.scores(env, AGING, x))], 0.05 / 3)
        for x in ("area", "evaluation_sampled", "final")
    ]
    yield f"by {signed(direct[0].value)} [{value(direct[0].low)}, {value(direct[0].high)}], by the other two"
    assert all(d.low < 0 < d.high for d in direct[1:])
    anchors = [arm for arm in LABELS if arm != "ppo"]
    for measure in ("evaluation_sampled", "final", "area"):
        assert {direction(report, env, measure, arm) for arm in anchors} == {"lower"}
    assert word(report, env, arm=AGING) == "equivalent"
    assert {word(report, env, arm=arm) for arm in anchors if arm != AGING} == {"worse"}
    yield f"is equivalent to PPO, {percent(report, env, AGING)} of the span"
    yield f"makes it worse, {percent(report, env, BY_ADVANTAGE)}"
    for arm in (BY_ADVANTAGE, MANY, BOTH):
        assert report.value(env, arm, "difference_high") < report.value(env, "apo", "difference_low")
    found, states = {}, read(report.folder / "last_rows.csv")
    for arm, label in LABELS.items():
        rows = [row for row in states if row["arm"] == arm]
        assert len(rows) == 20
        means = {x: statistics.mean(float(row[x] or "nan") for row in rows) for x in COLUMNS}
        cells = [value(means["entropy"], 2)]
        if arm == "ppo":
            sure = means["entropy"]
            cells += ["–"] * 4
        else:
            assert means["entropy"] > sure
            cells += [value(means["anchor_age"], 0), value(means["anchor_return"]), value(means["anchor_length"], 0)]
            cells += [str(sum(float(row["anchor_length"]) == 1000 for row in rows))]
        yield f"| {label} | {' | '.join(cells)} |"
        found[arm] = means
    ages = {arm: value(found[arm]["anchor_age"], 0) for arm in LABELS}
    yield f"coefficient 0.1 costs little with anchors of {ages[WEAK]} steps, 16 episodes much with {ages[MANY]}"
    assert found[AGING]["anchor_age"] < 16 * 1024  # steps of a rollout
    scored, returned = value(found[BY_ADVANTAGE]["anchor_score"]), value(found[BY_ADVANTAGE]["anchor_return"])
    yield f"is {scored} where the return, undiscounted, is {returned}"
    for arm, words in (("apo", "APO still rises, {}, {}, {} in"), ("ppo", "PPO no more,\n{}, {}, {}:")):
        ends = report.evaluations(env, arm, "deterministic").mean(1)[-3:]
        yield words.format(*map(value, ends))
    yield from (
        "One that ages and one of\ncoefficient 0.1 cost least",
        "by area 0.1 costs",
        "1,000 steps, and the last column",
    )
    least = sorted(anchors, key=lambda arm: -report.value(env, arm, "difference", "area"))
    assert {*least[:2]} == {WEAK, AGING}
    for measure in ("evaluation_sampled", "final", "area"):
        lows, highs = (
            [report.value(env, arm, f"difference_{end}", measure) for arm in (AGING, WEAK)] for end in ("low", "high")
        )
        assert max(lows) < min(highs)
    assert report.value(env, AGING, "difference_low") > report.value(env, "apo", "difference_high")
    yield from ("1,000,000 steps", "seeds 0 to 19", "over 20 episodes", "half-life of 50,000 steps", "16 episodes")
    yield from ("95 % intervals", "all seven comparisons", "a margin of 5 %")
    yield from (
        "coefficient 1, except",
        "coefficient 1 in most",
        "reaches 200",
        "Means over 20 seeds",
        "2 cores",
        "2 hours",
    )
