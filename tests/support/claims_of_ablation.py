"""What the texts say of `experiment=apo_ablation` in numbers, computed from its csv files."""

from phrases import (
    by_arm,
    comparisons,
    difference,
    direction,
    half_width,
    interval_of,
    percent_together,
    signed,
    together,
    value,
)
from reports import MEASURES

from rlexp.compare.permutation import permutation_test

ALL = {
    "ppo": "PPO",
    "apo": "APO",
    "apo direction=reverse": "reverse KL",
    "apo top_k=4": "4 episodes",
    "apo top_k=16": "16 episodes",
    "apo anchor_coef=0.1": "coefficient 0.1",
    "apo anchor_coef=0.3": "coefficient 0.3",
    "apo anchor_coef=3": "coefficient 3",
    "apo anchor_coef=[2,0]": "coefficient from 2 to 0",
    "apo anchor_coef=[0,2]": "coefficient from 0 to 2",
    "apo replace_on_tie=False": "of equal episodes the oldest",
    "apo anchor_half_life=20000": "scores that age",
    "apo anchor_by=advantage": "judged by advantage",
    "apo_ce": "cross-entropy",
    "apo_random": "random episode",
}
FADING = "apo anchor_coef=[2,0]"


def defaults_less(report, arm):
    """The defaults' difference from a variant over all environments, in shares of the span; one of thirteen."""
    pairs = []
    for env in report.envs:
        span = 20 * report.value(env, "apo", "margin")
        pairs.append(tuple(report.scores(env, x, report.primary) / span for x in ("apo", arm)))
    return permutation_test(pairs, 0.05 / (len(ALL) - 2))


def in_time(report, env, arm):
    """Seeds that reach the threshold with a quarter of their steps left."""
    rows = [row for row in report.seeds if (row["env"], row["arm"]) == (env, arm)]
    return sum(float(row["steps_to_threshold"] or "inf") <= 0.75 * float(row["steps"]) for row in rows)


def ablation(report_of):
    report = report_of("apo_ablation")
    acrobot, cartpole, car = report.envs
    yield from by_arm(report, ALL)
    over = {arm: together(report, arm) for arm in ALL if arm != "ppo"}
    less = {arm: defaults_less(report, arm) for arm in ALL if arm not in ("ppo", "apo")}
    for arm, label in ALL.items():
        if arm != "ppo":
            word = "**better**" if over[arm][1] > 0 else "inconclusive"
            areas = [difference(report, env, arm, "area") for env in report.envs]
            apart = interval_of(less[arm]) if arm in less else "–"
            yield f"| {label} | {percent_together(report, arm)} | {word} | {apart} | {' | '.join(areas)} |"
    assert {arm for arm, d in less.items() if d.low > 0} == {
        "apo anchor_coef=3",
        "apo anchor_by=advantage",
        "apo_random",
    }
    assert len([arm for arm, d in less.items() if d.low > -0.05 and d.high < 0.05]) == 8
    assert {arm for arm, d in less.items() if d.low < 0 < 0.05 < d.high} == {"apo anchor_coef=0.1", "apo_ce"}
    told = {env: [report.rows[env, arm, "evaluation"]["verdict"] for arm in over] for env in report.envs}
    assert {*told[cartpole]} == {"inconclusive"}
    assert told[acrobot].count("worse") == 4
    assert all(report.value(acrobot, arm, "difference") < 0 for arm in over)
    assert all(report.rows[car, arm, "evaluation"]["verdict"] == "better" for arm in over if over[arm][1] > 0)
    better = [arm for arm in over if over[arm][1] > 0]
    assert {*better} == {
        "apo",
        "apo anchor_coef=0.3",
        FADING,
        "apo anchor_half_life=20000",
        "apo top_k=4",
        "apo top_k=16",
    }
    lowest, highest = (f(over[arm][0] for arm in better) for f in (min, max))
    assert highest == over[FADING][0]
    yield f"{signed(lowest)} % to {signed(highest)} % of the span"
    yield f"a random episode, {percent_together(report, 'apo_random')}"
    early = {arm: in_time(report, car, arm) for arm in ("apo", "apo anchor_coef=0.3", "ppo", "apo top_k=16")}
    yield f"by {early['apo']} of 20 seeds with the defaults and by {early['apo anchor_coef=0.3']} with 0.3"
    yield f"of PPO by {early['ppo']}; with 16 episodes by {early['apo top_k=16']}, too"
    assert not any(report.scores(env, arm, "retention").size for env in report.envs for arm in ALL)
    weak = "apo anchor_coef=0.1"
    assert not any(direction(report, env, m, weak) for env in report.envs for m in MEASURES[:4])
    widths = [half_width(report, cartpole, arm) for arm in over]
    yield f"on CartPole they reach {value(min(widths), 0)} to {value(max(widths), 0)} % of the span to either side"
    (env,) = (env for env in report.envs if direction(report, env, "area", "apo_ce") == "higher")
    assert env == cartpole
    assert direction(report, cartpole, "evaluation_sampled", "apo_ce") == "higher"
    for arm in ("apo_random", "apo anchor_by=advantage"):
        for measure in ("final", "area"):
            assert {direction(report, env, measure, arm) for env in report.envs} == {"lower"}
    yield "CartPole-v1 (2000 steps) | MountainCar-v0 |"
    yield from ("coefficient 1, one episode", "scores with a half-life of 20,000 steps", "400,000 steps", "2,000 steps")
    yield from (
        "over 20 episodes",
        "a margin of 5 %",
        "seeds 0 to 19",
        "Means over 20 seeds with 95 %",
        f"all {comparisons(report)} comparisons",
    )
    yield from (
        "a coefficient of 0.3, one that falls from 2 to 0",
        "coefficient 3 are",
        "With 0.1",
        "0.1 is",
        "2 cores",
        "1.7 hours",
        "4 and 16 episodes",
    )
    gains = [direction(report, env, "area", arm) for env in report.envs for arm in better]
    assert "higher" not in gains
    assert sum(x == "lower" for x in gains) > 9
