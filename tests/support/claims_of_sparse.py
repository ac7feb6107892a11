"""What the texts say of `experiment=apo_sparse` in numbers, computed from its csv files."""

import re

from phrases import count, interval_of, mean, percent_together, share, together, value
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
    return share(report, env, arm) + words.get(said, "")


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
    yield f"Self-imitation is better than PPO over the seven, {percent_together(report, 'sil')};"
    yield f"APO is inconclusive near 0, {percent_together(report, 'apo')};"
    assert sorted(over, key=lambda arm: -over[arm][0])[:4] == ["sil", "rapid_bc", "opr", "apo+rnd"]
    assert all(count(report, env, arm, FOUND) == 10 for env in (DOORKEY, DOORS) for arm in IMITATING)
    assert all({*report.scores("MountainCar-v0", arm, "evaluation_sampled")} == {-200.0} for arm in ARMS)
    swings = {arm: value(report.value(SWING, arm, "mean")) for arm in ("sil", "apo+rnd", "ppo")}
    yield f"self-imitation {swings['sil']}, APO\nwith RND {swings['apo+rnd']}, PPO {swings['ppo']}."
    worse = {arm for arm in ARMS if report.rows[CHEETAH, arm, report.primary]["verdict"] == "worse"}
    assert worse == {SHARED, APART, "apo_random"}
    for env in (CHEETAH, SWING):
        assert max(last(report, env, "ppo_kl", "kl_beta")) < 0.000101
    yield from ("all seeds are at −200", "of 1,000 possible", "its β is 0.0001", "intervals reach 100 %")
    yield from ("over 10 frozen episodes", "a\nmargin of 5 %", "seeds 0 to 9", "500,000, on DoorKey-5x5 100,000")
    yield from ("and on Pendulum 200,000", "Means over 10 seeds with 95 % intervals", "all 80 comparisons")
    yield from ("How many of 10 seeds", "a return of 0.5", "2 cores", "two of the 77 arms")
    yield "(self-imitation 0.03, OPR 1, RND 3, PPO's entropy 0.03)"


def overall(report, arm):
    low, high = together(report, arm)[1:]
    word = " **better**" if low > 0 else " **worse**" if high < 0 else ""
    return percent_together(report, arm) + word
