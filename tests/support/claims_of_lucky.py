"""What the texts say of `experiment=lucky` in numbers, computed from its csv files."""

import statistics

from phrases import by_arm, count, difference, direction, percent, value, word
from reports import read

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

COLUMNS = ("entropy", "anchor_age", "anchor_return")


def lucky(report_of):
    report = report_of("lucky")
    (env,) = report.envs
    yield from by_arm(report, LABELS)
    for arm, label in LABELS.items():
        cells = [difference(report, env, arm, x) for x in ("evaluation_sampled", "final", "area") if arm != "ppo"]
        yield f"| {label} | {' | '.join(cells or ['–'] * 3)} | {count(report, env, arm, 200)} |"
    anchors = [arm for arm in LABELS if arm != "ppo"]
    for measure in ("evaluation_sampled", "final", "area"):
        assert {direction(report, env, measure, arm) for arm in anchors} == {"lower"}
    assert word(report, env, arm=AGING) == "equivalent"
    assert {word(report, env, arm=arm) for arm in anchors if arm != AGING} == {"worse"}
    yield f"is equivalent to PPO, {percent(report, env, AGING)} of the span"
    yield f"makes it worse, {percent(report, env, BY_ADVANTAGE)}"
    for arm in (BY_ADVANTAGE, MANY, BOTH):
        assert report.value(env, arm, "difference_high") < report.value(env, "apo", "difference_low")
    ages, states = {}, read(report.folder / "last_rows.csv")
    for arm, label in LABELS.items():
        rows = [row for row in states if row["arm"] == arm]
        assert len(rows) == 20
        means = {x: statistics.mean(float(row[x] or "nan") for row in rows) for x in COLUMNS}
        cells = [value(means["entropy"], 2)]
        cells += ["–", "–"] if arm == "ppo" else [value(means["anchor_age"], 0), value(means["anchor_return"])]
        yield f"| {label} | {' | '.join(cells)} |"
        ages[arm] = means["anchor_age"]
    assert max(anchors, key=ages.get) == BY_ADVANTAGE
    assert ages[AGING] < 16 * 1024  # steps of a rollout
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
