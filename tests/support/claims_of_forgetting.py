"""What the texts say of `experiment=forgetting` in numbers, computed from its csv files."""

from phrases import by_arm, difference, direction, percent_together, together, value, word

FALLING, KL = "ppo optimizer.lr=[0.01,0]", "ppo target_kl=0.02"
BEST, AVERAGE = "ppo evaluation.weights=best", "ppo evaluation.weights=average"
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
    for arm, label in REMEDIES.items():
        if "weights" in arm:  # which are of PPO's training
            continue
        cells = []
        for actions in ("sampled", "deterministic"):
            x = report.evaluations(cartpole, arm, actions)
            assert x.shape == (25, 40)
            cells += [value(x.max(0).mean()), value(x[-1].mean()), str((x[-1] < x.max(0) / 2).sum())]
        yield f"| {label} | {' | '.join(cells)} |"
    over_both = {arm: together(report, arm) for arm in REMEDIES if arm != "ppo"}
    told = {arm: percent_together(report, arm) for arm in over_both}
    anchors = sorted(ANCHORS, key=lambda arm: over_both[arm][0])
    assert (anchors[0], anchors[-1]) == ("apo top_k=16", "apo anchor_coef=5")
    assert all(low < 0 < high for _, low, high in map(over_both.get, anchors))
    assert max(over_both, key=over_both.get) == FALLING
    yield f"a learning rate that falls to 0 most, {told[FALLING]} of the span over both environments"
    yield f"from {told[anchors[0]]} (the 16 best episodes) to {told[anchors[-1]]} (coefficient 5)"
    assert over_both[FALLING][1] > max(over_both[arm][2] for arm in anchors)
    yield f"begins at {value(over_both[FALLING][1])}, above where any of theirs ends"
    beaten = [{arm for arm in anchors if over_both[other][1] > over_both[arm][2]} for other in (KL, BEST, AVERAGE)]
    assert set.intersection(*beaten) == {"apo", "apo top_k=16"}
    yield "better than coefficient 1 and 16 episodes"
    assert word(report, acrobot, arm="apo top_k=16") == "worse"
    assert all(direction(report, acrobot, "area", arm) == "lower" for arm in anchors)
    yield "with 16 it is worse"
    units = {arm: difference(report, cartpole, arm, "final") for arm in (anchors[-1], anchors[0], FALLING)}
    yield f"on CartPole higher with coefficient 5, {units[anchors[-1]]} in units of return,"
    yield f"lower with 16 episodes, {units[anchors[0]]}; with the falling learning rate {units[FALLING]}"
    assert direction(report, cartpole, "area", anchors[-1]) == "higher"
    yield "it is higher with coefficient 5"
    sampled, likely = (report.evaluations(cartpole, "apo anchor_coef=5", x) for x in ("sampled", "deterministic"))
    of_ppo, likely_of_ppo = (report.evaluations(cartpole, "ppo", x) for x in ("sampled", "deterministic"))
    lost, lost_of_ppo = ((x[-1] < x.max(0) / 2).sum() for x in (sampled, of_ppo))
    yield f"half of what it reached in {lost_of_ppo} of 40 seeds"
    yield f"with coefficient 5 seldom loses as much, in {lost}, but"
    yield f"keep nearly all, {value(likely[-1].mean())} of 2,000, where PPO ends at {value(likely_of_ppo[-1].mean())}"
    yield "entropy over the last 150,000 steps 0.58 nats of at most 0.69, PPO's 0.30"
    yield from ("a learning rate of 0.01 that stays, 20 epochs per rollout", "500,000 steps", "seeds 500 to 509")
    yield from ("the margin 5 % of the span", "40 seeds", "95 % intervals", "all 30 comparisons", "falls to 0,")
    yield from ("of the 25 frozen evaluations", "in how many of 40 seeds", "seeds 200 to 239", "2 cores", "8.5 hours")
