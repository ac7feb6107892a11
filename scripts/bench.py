"""Compares speed with Stable-Baselines3: the same workloads by both, alternating, each run in a separate process.

    scripts/bench                                all workloads, three repeats, 20 minutes; writes outputs/reports/bench/
    scripts/bench --workloads W1,W2 --repeats 5  some of them, writes nothing; key=value changes rlexp's settings
    scripts/bench --compare                      only the processor time that `compare` takes for a large study

To see where a run spends its time: `python -m rlexp.train ... profile=true`.
Machines are noisy: compare ratios of medians within one call.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("steps_per_second", "process_seconds", "first_update_seconds", "peak_mb")
BRIEF = 30_000  # steps of the runs that choose the peer's number of threads
REPORTS = Path("outputs/reports/bench")
COMPARE_SECONDS = 25  # of the processor, that `compare` may take for the study below; 9 on an idle machine
CARTPOLE = "tuned=none env.num_envs=8 algo.rollout_steps=128 algo.epochs=4 algo.minibatches=4"
W1 = {"n_envs": 8, "n_steps": 128, "batch_size": 256, "n_epochs": 4}


@dataclass(frozen=True)
class Workload:
    """The same work configured for both frameworks."""

    what: str
    overrides: str  # of rlexp.train
    steps: int  # environment steps of one agent
    env: str  # the peer's environment id
    peer: dict[str, Any] = field(default_factory=dict)  # arguments of its PPO, and n_envs
    agents: int = 1
    peer_steps: int | None = None  # fewer steps for the peer, if its rate is clear before `steps`


WORKLOADS = {
    "W1": Workload(
        "CartPole-v1, 8 × 128, 4 epochs × 4",
        f"env=cartpole env.backend=gymnasium {CARTPOLE}",
        500_000,
        "CartPole-v1",
        W1,
    ),
    "W1-torch": Workload(
        "W1, environment compiled too",
        f"env=cartpole env.backend=torch {CARTPOLE}",
        500_000,
        "CartPole-v1",
        W1,
        peer_steps=100_000,
    ),
    "W1-10": Workload(
        "W1, 10 seeds side by side",
        f"env=cartpole env.backend=torch num_seeds=10 {CARTPOLE}",
        200_000,
        "CartPole-v1",
        W1,
        10,
        100_000,
    ),
    "W1-32": Workload(
        "W1, 32 seeds side by side",
        f"env=cartpole env.backend=torch num_seeds=32 {CARTPOLE}",
        100_000,
        "CartPole-v1",
        W1,
        32,
        100_000,
    ),
    "W1-apo": Workload(
        "W1 with APO (peer: PPO)",
        f"algo=apo env=cartpole env.backend=gymnasium {CARTPOLE}",
        500_000,
        "CartPole-v1",
        W1,
        peer_steps=100_000,
    ),
    "W2": Workload(
        "CartPole-v1 with SB3-zoo's values",
        "env=cartpole env.backend=gymnasium tuned=ppo_cartpole",
        150_000,
        "CartPole-v1",
        {"n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8},
        peer_steps=60_000,
    ),
    "W3": Workload(
        "Breakout, 8 × 128, NatureCNN",
        "env=breakout tuned=none compile=true algo.rollout_steps=128 algo.epochs=4 algo.minibatches=4",
        5_120,
        "BreakoutNoFrameskip-v4",
        W1,
    ),
    "W4": Workload(
        "HalfCheetah-v5, 1 × 2048, 10 epochs × 32 minibatches",
        "env=halfcheetah tuned=none env.num_envs=1 algo.rollout_steps=2048 algo.epochs=10 algo.minibatches=32",
        40_960,
        "HalfCheetah-v5",
        {"n_envs": 1, "n_steps": 2048, "batch_size": 64, "n_epochs": 10},
    ),
}


# One run, in a separate process -------------------------------------------------------------------------------------


def _rate(marks: list[tuple[float, int]]) -> float:
    """Steps per second, from (time, steps so far) at the end of each update, without the first fifth (start-up)."""
    first = max(2, len(marks) // 5)
    (start, before), (end, after) = marks[min(first, len(marks) - 2)], marks[-1]
    return (after - before) / (end - start)


def run_rlexp(workload: Workload, extra: list[str]) -> dict[str, float]:
    """Train in this process, timing each iteration of the training loop, logging included."""
    from rlexp import train
    from rlexp.training.trainer import Trainer

    marks: list[tuple[float, int]] = []
    iterate = Trainer.iterate

    def timed(self: Trainer) -> None:
        iterate(self)
        marks.append((time.perf_counter(), int(self.steps.sum())))

    Trainer.iterate = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        words = [*workload.overrides.split(), f"total_steps={workload.steps}", f"outputs={folder}"]
        sys.argv = ["rlexp.train", *words, "progress=none", "evaluation.episodes=0", *extra]
        train.main()
    return {"steps_per_second": _rate(marks), "first_update": marks[0][0]}


def run_peer(workload: Workload, threads: int, brief: bool, device: str) -> dict[str, float]:
    """The same with Stable-Baselines3 and its default logging."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(threads)
    marks: list[tuple[float, int]] = []

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            marks.append((time.perf_counter(), self.num_timesteps))

        def _on_training_end(self) -> None:
            marks.append((time.perf_counter(), self.num_timesteps))

    options = dict(workload.peer)
    pixels = "NoFrameskip" in workload.env
    if pixels:
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        envs: Any = VecFrameStack(make_atari_env(workload.env, n_envs=options.pop("n_envs"), seed=0), 4)
    else:
        envs = make_vec_env(workload.env, n_envs=options.pop("n_envs"), seed=0)
    model = PPO("CnnPolicy" if pixels else "MlpPolicy", envs, device=device, seed=0, **options)
    steps = workload.peer_steps or workload.steps
    model.learn(min(steps, BRIEF) if brief else steps, callback=Clock())
    return {"steps_per_second": _rate(marks[1:]), "first_update": marks[1][0]}


def measure(side: str, name: str, extra: list[str]) -> dict[str, float]:
    """Run one side of a workload in a new process, and time the whole process."""
    words = [sys.executable, __file__, f"--run={side}", f"--workloads={name}", *extra]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody reads meanwhile would be full at 64 KB
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            errors.seek(0)
            raise SystemExit(f"{side} failed on {name}:\n{errors.read()[-3000:]}")
    result = json.loads(out.splitlines()[-1])
    return {
        "steps_per_second": result["steps_per_second"],
        "process_seconds": seconds,
        "first_update_seconds": result["first_update"] - start,
        "peak_mb": usage.ru_maxrss / 1024,
    }


# What needs no peer -------------------------------------------------------------------------------------------------


def compare_seconds() -> float:
    """Seconds of the processor that `compare` takes for 20 arms of 100 seeds on 10 environments, without figures."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
    from runs import write_study

    from rlexp.compare import __main__ as compare

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        write_study(Path(folder))
        began = time.process_time()
        compare.main([folder, "figures=false"])
        return time.process_time() - began


def check_compare() -> str:
    """What `compare` takes, in a line.

    Raises:
        SystemExit: it is too slow.
    """
    seconds = compare_seconds()
    told = f"compare, 20 arms of 100 seeds on 10 environments: {seconds:.1f} s of the processor"
    if seconds >= COMPARE_SECONDS:
        raise SystemExit(f"{told}, and may take {COMPARE_SECONDS}")
    return told


# The table ----------------------------------------------------------------------------------------------------------


def compare(names: list[str], repeats: int, extra: list[str]) -> list[dict[str, Any]]:
    """Run all repeats of all workloads; one row per process."""
    rows: list[dict[str, Any]] = []
    for name in names:
        rates = {
            threads: measure("peer", name, [f"--threads={threads}", "--brief"]) for threads in (1, os.cpu_count() or 1)
        }
        best = max(rates, key=lambda threads: rates[threads]["steps_per_second"])
        measure("rlexp", name, extra)  # warms the cache of compiled graphs
        for repeat in range(repeats):
            for side, words in (("rlexp", extra), ("peer", [f"--threads={best}"])):
                figures = measure(side, name, words)
                rows.append({"workload": name, "side": side, "repeat": repeat, **figures})
                print(f"{name:9} {side:6} " + "  ".join(f"{k} {figures[k]:,.1f}" for k in COLUMNS), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The report: medians of both sides, and their ratio, with the lowest and highest ratio of a pair."""
    lines = [
        "| workload | rlexp, steps/s | SB3, steps/s | ratio (pairs: min, max) "
        "| whole process, s | first update, s | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["workload"] for row in rows):
        ours, theirs = ([r for r in rows if r["workload"] == name and r["side"] == side] for side in ("rlexp", "peer"))
        pairs = [a["steps_per_second"] / b["steps_per_second"] for a, b in zip(ours, theirs, strict=True)]
        mid = {(s, k): statistics.median(r[k] for r in side) for s, side in enumerate((ours, theirs)) for k in COLUMNS}
        ratio = mid[0, "steps_per_second"] / mid[1, "steps_per_second"]
        lines.append(
            f"| {name}: {WORKLOADS[name].what} | {mid[0, 'steps_per_second']:,.0f} | {mid[1, 'steps_per_second']:,.0f} "
            f"| **{ratio:.1f}** ({min(pairs):.1f}, {max(pairs):.1f}) "
            f"| {mid[0, 'process_seconds']:.1f}, {mid[1, 'process_seconds']:.1f} "
            f"| {mid[0, 'first_update_seconds']:.1f}, {mid[1, 'first_update_seconds']:.1f} "
            f"| {mid[0, 'peak_mb']:.0f}, {mid[1, 'peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def _machine() -> str:
    from importlib.metadata import version

    from rlexp.provenance.code_state import code_state

    packages = ("torch", "gymnasium", "stable-baselines3", "numpy")
    return f"{code_state()['machine']}; Python {platform.python_version()}, " + ", ".join(
        f"{package} {version(package)}" for package in packages
    )


def write(rows: list[dict[str, Any]], command: str) -> None:
    """Write the table and the raw numbers to outputs/reports/bench/."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    with open(REPORTS / "bench.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    (REPORTS / "table.md").write_text(f"`{command}`\n\n{_machine()}\n\n{table(rows)}\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"any of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--repeats", type=int, default=3, help="runs per workload and side; default: 3")
    parser.add_argument("--compare", action="store_true", help="only check the processor time of `compare`")
    parser.add_argument("--run", choices=("rlexp", "peer"), help=argparse.SUPPRESS)  # one side, in this process
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--peer-device", default="cpu", help=argparse.SUPPRESS)  # for pixels on a GPU
    parser.add_argument("--brief", action="store_true", help=argparse.SUPPRESS)
    options, extra = parser.parse_known_args()
    if unknown := [word for word in extra if word.startswith("-") or "=" not in word]:
        parser.error(f"{' '.join(unknown)}: unknown option; rlexp's settings are key=value")
    names = options.workloads.split(",")
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        parser.error(f"--workloads={','.join(unknown)}: choose from {', '.join(WORKLOADS)}")
    if options.compare:
        print(check_compare())
    elif options.run:
        work = WORKLOADS[names[0]]
        ours = options.run == "rlexp"
        peer = (options.threads, options.brief, options.peer_device)
        print(json.dumps(run_rlexp(work, extra) if ours else run_peer(work, *peer)))
    else:
        rows = compare(names, options.repeats, extra)
        print(table(rows))
        if len(names) == len(WORKLOADS) and not extra:  # the committed table has all workloads at their defaults
            write(rows, " ".join(["scripts/bench", *sys.argv[1:]]))
            print(check_compare())


if __name__ == "__main__":
    main()
