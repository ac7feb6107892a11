"""What the texts say of `experiment=apo_ablation` in numbers, computed from its csv files."""

from phrases import by_arm, difference, direction, half_width, percent_together, signed, together, value

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


def ablation(report_of):
    report = report_of("apo_ablation")
    acrobot, cartpole, car = report.envs
    yield from by_arm(report, ALL)
    over = {arm: together(report, arm) for arm in ALL if arm != "ppo"}
    for arm, label in ALL.items():
        if arm != "ppo":
            word = "**better**" if over[arm][1] > 0 else "inconclusive"
            areas = [difference(report, env, arm, "area") for env in report.envs]
            yield f"| {label} | {percent_together(report, arm)} | {word} | {' | '.join(areas)} |"
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
    yield f"a random one is inconclusive, {percent_together(report, 'apo_random')}"
    ours = [over[arm] for arm in over]
    assert all(a[1] < b[2] for a in ours for b in ours)  # no interval lies above another
    widths = [half_width(report, cartpole, arm) for arm in over]
    yield f"on CartPole they reach {value(min(widths), 0)} to {value(max(widths), 0)} % of the span to either side"
    (env,) = (env for env in report.envs if direction(report, env, "area", "apo_ce") == "higher")
    assert env == cartpole
    assert direction(report, cartpole, "evaluation_sampled", "apo_ce") == "higher"
    for arm in ("apo_random", "apo anchor_by=advantage"):
        for measure in ("final", "area"):
            assert {direction(report, env, measure, arm) for env in report.envs} == {"lower"}
    assert not any(direction(report, env, "retention", arm) for env in (acrobot, car) for arm in over)
    yield "CartPole-v1 (2000 steps) | MountainCar-v0 |"
    yield from ("coefficient 1, one episode", "scores with a half-life of 20,000 steps", "400,000 steps", "2,000 steps")
    yield from (
        "over 20 episodes",
        "a margin of 5 %",
        "seeds 0 to 19",
        "Means over 20 seeds with 95 %",
        "all 56 comparisons",
    )
    yield from (
        "falls from 2 to 0",
        "coefficient 3 is",
        "0.1 too weak",
        "2 cores",
        "1.7 hours",
        "with 0.3",
        "4 or 16 episodes",
    )
    gains = [direction(report, env, "area", arm) for env in report.envs for arm in better]
    assert "higher" not in gains
    assert sum(x == "lower" for x in gains) > 9
