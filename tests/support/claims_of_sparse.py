"""What the texts say of `experiment=apo_sparse` in numbers, computed from its csv files."""

import re
import statistics

from phrases import count, interval_of, mean, percent_together, share, together
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
    """Mean over agents of what they logged last."""
    rows = read(report.folder / "last_rows.csv")
    return statistics.mean(float(row[column]) for row in rows if (row["env"], row["arm"]) == (env, arm))


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
    for arm, other in PAIRS:
        yield f"| {ARMS[arm]} less {ARMS[other]} | {interval_of(less(report, arm, other))} |"


def overall(report, arm):
    low, high = together(report, arm)[1:]
    word = " **better**" if low > 0 else " **worse**" if high < 0 else ""
    return percent_together(report, arm) + word
