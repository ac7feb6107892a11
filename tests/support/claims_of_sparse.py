"""What the texts say of `experiment=apo_sparse` in numbers, computed from its csv files."""

import re

from phrases import (
    comparisons,
    count,
    difference,
    direction,
    interval_of,
    mean,
    percent_together,
    share,
    together,
    value,
)
from reports import read

from rlexp.compare.permutation import permutation_test

SHARED, APART = "apo anchor_share=True population=8", "apo population=8"
ARMS = {
    "ppo": "PPO",
    "apo": "APO",
    SHARED: "APO, 8 agents, one anchor",
    APART: "APO, 8 agents, an anchor each",
    "sil": "self-imitation",
    "rapid_bc": "RAPID's cloning",
    "opr": "OPR",
    "apo_random": "APO, random episode",
    "ppo_kl": "PPO-KL",
    "ppo+rnd": "PPO + RND",
    "apo+rnd": "APO + RND",
}
ENVS = {
    "MiniGrid-DoorKey-5x5-v0": "DoorKey-5x5",
    "MiniGrid-DoorKey-8x8-v0": "DoorKey-8x8",
    "MiniGrid-RedBlueDoors-6x6-v0": "RedBlueDoors",
    "MountainCar-v0": "MountainCar",
    "CartpoleSwingupSparse-v1": "swingup_sparse",
    "Pendulum-v1": "Pendulum (dense)",
    "CheetahRun-v1": "CheetahRun (dense)",
}
DOORKEY, DOORS = "MiniGrid-DoorKey-8x8-v0", "MiniGrid-RedBlueDoors-6x6-v0"
SWING, CHEETAH = "CartpoleSwingupSparse-v1", "CheetahRun-v1"
IMITATING = {"sil", "rapid_bc", "opr"}
FOUND = 0.5  # return from which a seed has found the goal
PAIRS = (("sil", "apo"), ("rapid_bc", "apo"), ("opr", "apo"), ("apo", "apo_random"), ("apo+rnd", "ppo+rnd"))
PAIRS += ((SHARED, APART),)


def less(report, arm, other):
    """An arm's difference from another over all environments, in shares of the span; one of PAIRS."""
    spans = {env: 20 * report.value(env, "apo", "margin") for env in report.envs}
    pairs = [tuple(report.scores(env, x, report.primary) / spans[env] for x in (arm, other)) for env in report.envs]
    return permutation_test(pairs, 0.05 / len(PAIRS))


def told(report, env, arm):
    """A cell: difference in percent of the span, and the verdict if there is one."""
    said = report.rows[env, arm, report.primary]["verdict"]
    words = {"equivalent": " equivalent", "better": " **better**", "worse": " **worse**"}
    within = ", within the margin" if report.rows[env, arm, report.primary]["within_margin"] == "True" else ""
    return share(report, env, arm) + words.get(said, "") + within * (said in ("better", "worse"))


def coefficient(report, env, arm):
    """The values that its tuning chose, from the names of its runs."""
    (run,) = {row["run"] for row in report.seeds if (row["env"], row["arm"]) == (env, arm)}
    return ", ".join(re.findall(r"(?:anchor_coef|ent_coef|sil_coef|bc_coef|rnd_coef|kl_target)=([\d.]+)", run))


def last(report, env, arm, column):
    """What each agent of an arm logged last."""
    rows = read(report.folder / "last_rows.csv")
    return [float(row[column]) for row in rows if (row["env"], row["arm"]) == (env, arm)]


def sparse(report_of):
    report = report_of("apo_sparse")
    assert {*report.envs} == {*ENVS}
    yield f"| arm | over the seven | {' | '.join(ENVS.values())} |"
    digits = {env: 2 if "MiniGrid" in env else 1 for env in ENVS}
    yield f"| PPO | – | {' | '.join(mean(report, env, 'ppo', digits=digits[env]) for env in ENVS)} |"
    for arm, label in ARMS.items():
        if arm != "ppo":
            cells = [told(report, env, arm) for env in ENVS]
            yield f"| {label} | {overall(report, arm)} | {' | '.join(cells)} |"
        yield f"| {label} | {' | '.join(coefficient(report, env, arm) for env in ENVS)} |"
    for arm, label in ARMS.items():
        if arm not in (SHARED, APART):
            yield f"| {label} | {count(report, DOORKEY, arm, FOUND)} | {count(report, DOORS, arm, FOUND)} |"
    apart = {pair: less(report, *pair) for pair in PAIRS}
    for (arm, other), d in apart.items():
        yield f"| {ARMS[arm]} less {ARMS[other]} | {interval_of(d)} |"
    assert {arm for (arm, other), d in apart.items() if d.low > 0 and other == "apo"} == IMITATING
    unsure = apart["apo", "apo_random"], apart["apo+rnd", "ppo+rnd"]
    assert all(d.low < 0 < d.high for d in unsure)
    gain = value(100 * apart[SHARED, APART].value)
    yield f"**One anchor for eight agents is better than one each**, by {gain} % of the span"
    over = {arm: together(report, arm) for arm in ARMS if arm != "ppo"}
    assert {arm for arm in over if over[arm][1] > 0} == {"sil"}
    assert {arm for arm in over if over[arm][2] < 0} == {SHARED, APART}
    yield f"It is better than PPO over the seven, {percent_together(report, 'sil')};"
    yield f"APO is inconclusive, {percent_together(report, 'apo')};"
    assert sorted(over, key=lambda arm: -over[arm][0])[:4] == ["sil", "rapid_bc", "opr", "apo+rnd"]
    assert all(count(report, env, arm, FOUND) == 10 for env in (DOORKEY, DOORS) for arm in IMITATING)
    assert all({*report.scores("MountainCar-v0", arm, "evaluation_sampled")} == {-200.0} for arm in ARMS)
    swings = {arm: value(report.value(SWING, arm, "mean")) for arm in ("sil", "apo+rnd", "ppo")}
    yield f"self-imitation {swings['sil']}, APO with RND {swings['apo+rnd']}, PPO {swings['ppo']}."
    assert max(report.value(SWING, arm, "mean") for arm in ARMS) < report.value(SWING, "sil", "margin") == 50
    shares = {env: gain_on(report, env) for env in ENVS}
    assert {env for env, x in shares.items() if x > 0.02} == {"MiniGrid-DoorKey-5x5-v0", DOORS}
    assert sum(shares.values()) - shares["MiniGrid-DoorKey-5x5-v0"] - shares[DOORS] < 0.02
    lost = difference(report, "MiniGrid-DoorKey-5x5-v0", "opr", "evaluation", 3)
    yield f"on DoorKey-5x5, {lost} of a return of at most 1"
    yield f"in its last training episodes, {difference(report, DOORKEY, 'rapid_bc', 'final', 3)}."
    assert {direction(report, CHEETAH, measure, "apo_random") for measure in ("final", "area")} == {"lower"}
    top = {arm: report.scores("MountainCar-v0", arm, "evaluation") for arm in ARMS}
    assert [(arm, (x > -200).sum()) for arm, x in top.items() if (x > -200).any()] == [("rapid_bc", 1)]
    yield f"by its most likely ones, {value(top['rapid_bc'].max())}."
    areas = trials_of(report, "env.id=MiniGrid-DoorKey-8x8-v0", "algo=ppo")
    found = [value(areas[x], 2) for x in ("0.01", "0.03", "0.003", "0")]
    yield "areas of {}, {}, {} and {} for 0.01, 0.03, 0.003 and 0".format(*found)
    assert len({*trials_of(report, "env=mountaincar", "").values()}) == 1
    worse = {arm for arm in ARMS if report.rows[CHEETAH, arm, report.primary]["verdict"] == "worse"}
    assert worse == {SHARED, APART, "apo_random"}
    for env in (CHEETAH, SWING, "MountainCar-v0"):
        assert max(last(report, env, "ppo_kl", "kl_beta")) < 0.000101
    assert sum(x < 0.000101 for x in last(report, "Pendulum-v1", "ppo_kl", "kl_beta")) == 9
    yield from ("the margin of 50", "of 1,000 possible", "its β is 0.0001", "intervals reach 100 %")
    yield from ("over 10 frozen episodes", "a\nmargin of 5 %", "seeds 0 to 9", "500,000, on DoorKey-5x5 100,000")
    yield from (
        "and on Pendulum 200,000",
        "Means over 10 seeds with 95 % intervals",
        f"all {comparisons(report)} comparisons",
    )
    yield from ("How many of 10 seeds", "a return of 0.5", "2 cores", "two of the 77 arms")
    yield from ("APO's 3 on RedBlueDoors and 0.1 on Pendulum", "28 and 29 November")
    yield from ("commits 8569e41, db0fe56", "from 8569e41 in which")
    assert [coefficient(report, env, "apo") for env in (DOORS, "Pendulum-v1")] == ["3", "0.1"]


def gain_on(report, env):
    """What one anchor is better than one each, in shares of the span."""
    shared, apart = (report.scores(env, arm, report.primary).mean() for arm in (SHARED, APART))
    return (shared - apart) / (20 * report.value(env, "apo", "margin"))


def trials_of(report, begins, ends):
    """Areas of the trials of some tunings, by the last of their coefficients."""
    rows = [
        row for row in read(report.folder / "trials.csv") if begins in row["tuning"] and row["tuning"].endswith(ends)
    ]
    return {[x for key, x in row.items() if "." in key and x][-1]: float(row["area"]) for row in rows}


def overall(report, arm):
    low, high = together(report, arm)[1:]
    word = " **better**" if low > 0 else " **worse**" if high < 0 else ""
    return percent_together(report, arm) + word
