"""What the texts say of `experiment=forgetting` in numbers, computed from its csv files."""

from phrases import (
    by_arm,
    comparisons,
    count,
    difference,
    direction,
    half_width,
    percent_together,
    signed,
    together,
    together_of_one,
    value,
    word,
)
from scipy import stats

FALLING, KL = "ppo optimizer.lr=[0.01,0]", "ppo target_kl=0.02"
BEST, AVERAGE = "ppo evaluation.weights=best", "ppo evaluation.weights=average"
ACTIONS = ("sampled", "deterministic")
ANCHORS = ("apo", "apo anchor_coef=5", "apo top_k=16", "apo_random")
REMEDIES = {
    "ppo": "PPO",
    FALLING: "PPO, learning rate to 0",
    KL: "PPO, target KL 0.02",
    BEST: "PPO, best checkpoint",
    AVERAGE: "PPO, averaged weights",
    "ppo_kl": "PPO-KL",
    "ppo_ewma": "PPO-EWMA",
    "apo": "APO, coefficient 1",
    "apo anchor_coef=5": "APO, coefficient 5",
    "apo top_k=16": "APO, 16 episodes",
    "apo_random": "APO, random episode",
}


def forgetting(report_of):
    report = report_of("forgetting")
    acrobot, cartpole = report.envs
    yield from by_arm(report, REMEDIES)
    yield from _over_both(report)
    yield from _failed(report, acrobot)
    yield from _other_measures(report, acrobot, cartpole)
    yield from _kept(report, cartpole)
    steps = sum(report.evaluations(cartpole, "ppo", actions).sum(0).mean() for actions in ACTIONS)  # a step a reward
    yield f"which cost {value(10 * steps / 1e6)} million steps on CartPole"
    yield from ("a learning rate of 0.01 that stays, 20 epochs per rollout", "500,000 steps", "seeds 500 to 509")
    yield from (
        "a time limit of 2,000 steps",
        "over 20 episodes",
        "a margin of 5 % of the span",
        "40 seeds",
        "seeds 200 to 239",
    )
    low, high = (-500, -70), (0, 2000)
    for env, span in ((acrobot, low), (cartpole, high)):
        assert 20 * report.value(env, "apo", "margin") == span[1] - span[0]
    yield "(−500 to −70 on Acrobot, 0 to 2,000 on CartPole)"
    yield from (
        "95 % intervals",
        f"all {comparisons(report)} comparisons",
        "falls to 0,",
        "2 cores",
        "8.5 hours",
        "trainings of 40 seeds",
    )


def _over_both(report):
    cartpole = report.envs[1]
    over_both = {arm: together(report, arm) for arm in REMEDIES if arm != "ppo"}
    told = {arm: percent_together(report, arm) for arm in over_both}
    anchors = sorted(ANCHORS, key=lambda arm: over_both[arm][0])
    assert (anchors[0], anchors[-1]) == ("apo top_k=16", "apo anchor_coef=5")
    assert all(low < 0 < high for _, low, high in map(over_both.get, anchors))
    better = sorted((arm for arm in over_both if over_both[arm][1] > 0), key=lambda arm: over_both[arm][0])
    assert {*better} == {KL, BEST, AVERAGE, FALLING}
    yield f"by {signed(over_both[better[0]][0])} % to {signed(over_both[better[-1]][0])} % of the span"
    yield f"from {told[anchors[0]]} (the 16 best episodes) to {told[anchors[-1]]} (coefficient 5)"
    assert over_both[FALLING][1] > max(over_both[arm][2] for arm in anchors)
    yield f"that of the falling learning rate, {told[FALLING]}, begins above"
    beaten = [{arm for arm in anchors if over_both[other][1] > over_both[arm][2]} for other in (KL, BEST, AVERAGE)]
    assert set.intersection(*beaten) == {"apo", "apo top_k=16"}
    yield "better than coefficient 1 and 16 episodes"
    widths = [half_width(report, cartpole, arm) for arm in anchors]
    yield f"reach {min(widths):.0f} to {max(widths):.0f} % of the span to either side"


def _failed(report, env):
    failed = {arm: count(report, env, arm, high=-450) for arm in REMEDIES}
    kl, ewma, many = (failed.pop(arm) for arm in ("ppo_kl", "ppo_ewma", "apo top_k=16"))
    assert not any(failed.values())
    yield f"with PPO-KL {kl}, PPO-EWMA {ewma}, 16 episodes {many}, of the other arms none"
    (found,) = {report.value(env, arm, "p_rank") for arm in ("ppo_kl", "apo top_k=16")}
    yield f"PPO-KL is better than PPO there (P(better) 0.79, p = {30 * found:.2g})"
    assert f"by ranks they differ, P(better) 0.79, p = {30 * found:.2g}" in report.quotable
    assert word(report, env, arm="apo top_k=16") == "worse"
    yield f"16 episodes are worse, too (p = {30 * found:.2g})"
    yield "of 40, "


def _other_measures(report, acrobot, cartpole):
    yield f"{cartpole}: final training episodes"
    for arm, label in REMEDIES.items():
        if arm not in ("ppo", BEST, AVERAGE):
            found = [difference(report, env, arm, x) for env in (acrobot, cartpole) for x in ("final", "area")]
            yield f"| {label} | {' | '.join(found)} |"
    for measure in ("final", "area"):
        assert direction(report, cartpole, measure, "apo anchor_coef=5") == "higher"
        assert direction(report, cartpole, measure, "apo top_k=16") == "lower"
    yield "find coefficient 5 better on CartPole, and 16 episodes worse"
    assert {direction(report, acrobot, "area", arm) for arm in ANCHORS} == {"lower"}
    arms = [arm for arm in REMEDIES if (acrobot, arm, "retention") in report.rows and arm != "ppo"]
    assert not any(direction(report, acrobot, "retention", arm) for arm in arms)
    assert {arm for arm in REMEDIES if len(report.scores(cartpole, arm, "retention"))} == {KL, FALLING}


def _kept(report, env):
    second = {(arm, x): report.evaluations(env, arm, x)[12:].mean(0) for arm in REMEDIES for x in ACTIONS}
    apart = {
        (arm, actions): stats.ttest_ind(scores, second["ppo", actions], equal_var=False).confidence_interval()
        for (arm, actions), scores in second.items()
    }
    for arm, label in REMEDIES.items():
        if arm in (BEST, AVERAGE):
            continue
        cells = [label]
        for actions in ACTIONS:
            x = report.evaluations(env, arm, actions)
            assert x.shape == (25, 40)
            mean, least, most = second[arm, actions].mean(), *apart[arm, actions]
            percent = f"{signed((mean - second['ppo', actions].mean()) / 20)} [{value(least / 20)}, {value(most / 20)}]"
            lost = str((x[-5:].mean(0) < x.max(0) / 2).sum())
            cells += [value(x.max(0).mean())] * (actions == "sampled")
            cells += [value(mean), "–" if arm == "ppo" else percent, lost]
        yield f"| {' | '.join(cells)} |"
    for arm, side in (("apo", -1), ("apo top_k=16", -1), ("apo_random", -1), ("apo anchor_coef=5", 0)):
        assert (apart[arm, "sampled"].high < 0) == (side < 0)
        assert apart[arm, "sampled"].low < 0
    reached = report.evaluations(env, "ppo", "sampled").max(0)
    assert (reached > 1900).all()
    assert 0.6 < second["ppo", "sampled"].mean() / reached.mean() < 0.7
    yield "with coefficient 5 the mean is PPO's, with 1, 16 episodes or a random episode it is lower. With 5 fewer"
    ours, theirs = (value(second[arm, "deterministic"].mean()) for arm in ("apo anchor_coef=5", "ppo"))
    yield f"of coefficient 5 keep nearly all, {ours} of 2,000 against PPO's {theirs}"
    assert apart["ppo_kl", "deterministic"].low > 0
    yield from ("of the 25 frozen evaluations during training, 10 episodes each", "13 evaluations", "(95 %, Welch)")
    yield "in how many of 40 seeds the mean of the last five"


LASTING = "ppo optimizer.lr=0.01"
LIKELIEST = {
    LASTING: "PPO",
    FALLING: "PPO, learning rate to 0",
    "apo": "APO, coefficient 5",
    "apo_random": "APO, random episode, coefficient 5",
    "ppo_kl": "PPO-KL",
}


def deterministic(report_of):
    report = report_of("forgetting/deterministic")
    _, cartpole = report.envs
    yield from by_arm(report, LIKELIEST, LASTING)
    over = {arm: together_of_one(report, arm) for arm in LIKELIEST if arm != LASTING}
    assert [arm for arm, d in over.items() if d[1] > 0] == [FALLING]
    for arm, d in over.items():
        yield f"| {LIKELIEST[arm]} | {signed(d[0])} [{value(d[1])}, {value(d[2])}] |"
    yield from ("coefficient 5 {} % [{}, {}]".format(signed(over["apo"][0]), *map(value, over["apo"][1:])),)
    yield from (
        "falls to 0 is better, {} % [{}, {}].".format(signed(over[FALLING][0]), *map(value, over[FALLING][1:])),
    )
    second = {arm: report.evaluations(cartpole, arm, "deterministic")[12:].mean(0) for arm in LIKELIEST}
    means = {arm: value(x.mean()) for arm, x in second.items()}
    for arm, x in second.items():
        apart = stats.ttest_ind(x, second[LASTING], equal_var=False).confidence_interval()
        told = f"{signed((x.mean() - second[LASTING].mean()) / 20)} [{value(apart.low / 20)}, {value(apart.high / 20)}]"
        yield f"| {LIKELIEST[arm]} | {means[arm]} | {'–' if arm == LASTING else told} |"
        assert arm == LASTING or apart.low > 0
    yield f"it keeps {means['apo']} of 2,000 again, PPO {means[LASTING]}"
    yield from ("over 20 episodes", "a margin of 5 %", "seeds 200 to 239", "Means over 40 seeds with 95 % intervals")
    yield from (
        f"all {comparisons(report)} comparisons",
        "the last 13 of 25 evaluations",
        "(95 %, Welch)",
        "2 cores",
        "1.4 hours",
        "coefficient 5 seemed",
        "of 10 episodes",
        "coefficient 5 is above",
    )
