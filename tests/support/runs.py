"""Folders of runs that were never trained."""

import json
import platform

from rlexp.config.identity import config_hash
from rlexp.files import file_digest

ALGOS = {
    "ppo": {"_target_": "rlexp.algos.ppo.PPO", "clip_coef": 0.2},
    "apo": {"_target_": "rlexp.algos.apo.APO", "clip_coef": 0.2, "anchor_coef": 1, "direction": "forward"},
}  # others have PPO's


def write_run(
    folder, algo="ppo", env="CartPole-v1", seeds=range(5), level=100.0, status="done", lr=1e-3, tuned="",
    population=1, total_steps=4000, evaluation=None, optimizer=None, **more
):  # fmt: skip
    """A run's folder as training leaves it; seed k ends at level + k."""
    folder.mkdir(parents=True)
    config = {
        "seed": min(seeds),
        "num_seeds": len(seeds) // population,
        **({"population": population} if population > 1 else {}),
        "total_steps": total_steps,
        "env": {"id": env, "threshold": 90, "bounds": [0, 200]},
        "algo": ALGOS.get(algo, ALGOS["ppo"]) | more,
        "optimizer": {"lr": lr} | (optimizer or {}),
        **({"evaluation": evaluation} if evaluation else {}),
    }
    rows = ["seed,step,wall_time,episodic_return,episodic_length,episodes,loss"]
    for k in seeds:
        rows.append(f"{k},{total_steps // 4},1.0,,,0,0.5")
        rows += [f"{k},{total_steps // 4 * t},{t}.0,{(level + k) * t / 4:.9g},9,{10 * t},0.5" for t in (2, 3, 4)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    agents = [{"seed": k, "mean_return": level + 2 * k, "episodes": []} for k in seeds]
    (folder / "evaluation.json").write_text(json.dumps({"agents": agents}))
    record = {
        "status": status,
        "started": f"2026-01-01T00:00:{len(list(folder.parent.iterdir())):02d}",
        "config": config,
        "config_hash": config_hash(config),
        "choices": {"algo": algo} | ({"tuned": tuned} if tuned else {}),
        "seeds": list(seeds),
        "commit": "c0ffee",
        "dirty": False,
        "versions": {"torch": "2"},
        "files": {name: file_digest(folder / name) for name in ("metrics.csv", "evaluation.json")},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


HEADER = "seed,step,wall_time,episodic_return,episodes\r\n"


def write_study(folder):
    """Twenty arms of a hundred seeds each on ten environments."""
    for env in range(10):
        write_run(folder / f"ppo{env}", env=f"E{env}-v0", seeds=range(100))
        for coef in range(1, 20):
            write_run(folder / f"apo{coef}_{env}", "apo", f"E{env}-v0", range(100), 100.0 + coef, anchor_coef=coef)


def make(folder, status="done", rows="", seeds=(0,), total_steps=1000, **more):
    """A run's folder by hand; rows: what follows the header of metrics.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"status": status, "seeds": list(seeds), "config": {"total_steps": total_steps}, "host": platform.node()}
    (folder / "run.json").write_text(json.dumps(record | more))
    if rows:
        (folder / "metrics.csv").write_text(HEADER + rows, newline="")
    return folder


def plan(study, *names):
    study.mkdir(parents=True, exist_ok=True)
    content = {"jobs": {name: {"overrides": [f"algo={name}"]} for name in names}, "launches": ["first"]}
    (study / "sweep.json").write_text(json.dumps(content))
