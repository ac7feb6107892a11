#!/usr/bin/env python3
"""Train short runs with the code of a commit and with the code of this checkout, and compare all their results.

Prints a line for each run, ok or the first difference, and exits 1 if anything differs. Compares metrics.csv,
evaluation.json, checkpoint.pt and the result in run.json, less times, config hashes and what only one of the two
records (columns of metrics.csv). Takes about ten minutes on two cores. Uncommitted changes count: do not edit this
checkout meanwhile. Without .venv, in an environment of your own: python scripts/same_results.py COMMIT
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import re
import reprlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
RTOL, ATOL = 1e-4, 1e-4  # of --rounding

# Arguments of every command unless it sets them itself; threads change rounding, log_every=1 logs every update
COMMON = "torch_threads=1 log_every=1 evaluation.episodes=2 evaluation.max_steps=200 total_steps=4096 "
COMMON += "algo.rollout_steps=32 algo.epochs=4 algo.minibatches=4"
# Arguments of `python -m rlexp.train`, in order; tuned values are the default. PARENT: the run in init_from/parent
CASES = {
    "algorithms": ["-m algo=ppo,apo,apo_ce,apo_random,ppo_kl num_seeds=2"],
    "loop": ["-m env=acrobot,pendulum algo=apo num_seeds=2 batching=loop optimizer.lr=[1e-3,0] algo.anchor_coef=[1,0]"],
    "compiled": [
        "algo=apo env=mountaincar num_seeds=2 compile=true",
        "algo=ppo_kl env=pendulum env.backend=gymnasium compile=true",
    ],
    "gymnasium": ["-m algo=apo env.backend=gymnasium env.vectorization=vector,sync,async num_seeds=2"],
    "spaces": ["env.id=FrozenLake-v1", "-m env=pendulum,mountaincar_continuous algo=apo,apo_ce num_seeds=2"],
    "envpool": ["-m env.backend=envpool env=cartpole,pendulum num_seeds=2"],
    "pixels": ["algo=apo env=breakout env.num_envs=2 algo.max_steps=64 total_steps=256"],
    "resume": [f"-m algo=apo env.vectorization=auto,sync,async {more}" for more in ("stop_at=2048", "")],
    "extend": [f"algo=apo_random optimizer.lr=[1e-3,0] total_steps={more}" for more in ("2048", "4096 resume=extend")],
    "init_from": [
        "study=init_from/parent algo=apo env=mountaincar num_seeds=2",
        "init_from=PARENT init_with=[normalizer,optimizer,memory] algo=apo env=mountaincar num_seeds=2",
        "init_from=PARENT:1 algo=ppo_kl env=mountaincar env.normalize_obs=true",
    ],
    "batched": ["-m hydra/launcher=batched algo=ppo,apo seed=0,1 optimizer.lr=1e-3,3e-4"],
    "joblib": ["-m hydra/launcher=joblib algo=apo seed=0,1"],
    "submitit": ["-m hydra/launcher=submitit_local algo=apo seed=0,1"],
    "ray": ["-m hydra/launcher=ray algo=apo seed=0,1"],
    "optuna": [
        "-m hydra/sweeper=optuna hydra.sweeper.n_trials=6 hydra.sweeper.n_startup=2 hydra.sweeper.pruner=median "
        "hydra.sweeper.prune_after=2 optimizer.lr=tag(log,interval(1e-4,1e-2)) algo.clip_coef=0.1,0.2"
    ],
}
NEEDS = {"pixels": "ale_py", "optuna": "optuna"} | {name: name for name in ("envpool", "joblib", "submitit", "ray")}
NOT_RESULTS = {"config_hash", "seconds", "time", "wall_time", "steps_per_second"}


class Side(NamedTuple):
    """A checkout, and the folder that its runs are made in."""

    tree: Path
    folder: Path

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python with this checkout's code, and a cache of its own for compiled graphs."""
        env = os.environ | {"PYTHONPATH": str(self.tree), "RLEXP_CACHE": str(self.folder / "cache")}
        command, pipe = [sys.executable, *words], subprocess.PIPE
        return subprocess.run(command, cwd=self.folder, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def train(self, case: str) -> str:
        """Run the commands of a case; returns the end of the output of the first that fails."""
        for command in CASES[case]:
            parent = next(self.folder.glob("outputs/init_from/parent/*/run.json"), self.folder).parent.name[-8:]
            words = shlex.split(command.replace("PARENT", f"outputs/init_from/parent/{parent}"))
            given = {word.partition("=")[0] for word in words}
            words += [word for word in [*COMMON.split(), f"study={case}"] if word.partition("=")[0] not in given]
            done = self.python("-m", "rlexp.train", *words)
            if done.returncode:
                return f"exit code {done.returncode} of {' '.join(words)}\n{done.stdout[-2000:]}"
        return ""

    def runs(self, case: str) -> dict[str, Path]:
        """Run folders by study and overrides, as hashes may change; equal ones by start time."""
        found: dict[str, Path] = {}
        paths = self.folder.glob(f"outputs/{case}/**/run.json")
        for path in sorted(paths, key=lambda path: json.loads(path.read_text()).get("started_unix", 0)):
            overrides = path.parent / ".hydra/overrides.yaml"  # not there if the run failed early
            text = overrides.read_text() if overrides.exists() else f"- {path.parent.name}"
            own = {*re.findall(r"^- '?(.*?)'?$", text, re.MULTILINE)} - {*COMMON.split(), f"study={case}"}
            own = {word for word in own if not word.endswith("=null")}  # the default of a key that may be newer
            name = re.sub(r"([/-])[0-9a-f]{8}\b", r"\1*", " ".join(sorted(own)))
            while name in found:
                name += " (again)"
            found[name] = path.parent
        return found


def results(run: Path) -> dict[str, Any]:
    """What must be the same of a run, by file; files that are missing are left out."""
    record = json.loads((run / "run.json").read_text())
    told = {name: record.get(name) for name in ("status", "seeds", "result")}
    told["how"] = {name: choice["value"] for name, choice in record.get("how", {}).items()}
    readers = {"metrics.csv": lambda text: list(csv.DictReader(text.splitlines())), "evaluation.json": json.loads}
    found = {name: read((run / name).read_text()) for name, read in readers.items() if (run / name).exists()}
    if (path := run / "checkpoint.pt").exists():
        found[path.name] = state = torch.load(path, weights_only=True)
        if (snapshot := state.get("environments")) is not None:
            # Gymnasium's spaces have random generators that nobody seeds or uses: drop 128-bit numbers, their states
            state["environments"] = re.sub(rb"\d{25,}", b"", snapshot.numpy().tobytes()[8:])
    return found | {"run.json": told}


def drop_unshared(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Drop what only one of two versions records: columns of metrics.csv, the trainer's entries in checkpoint.pt."""
    tables = [found.get("metrics.csv", []) for found in (before, after)]
    states = [found.get("checkpoint.pt", {}).get("trainer", {}) for found in (before, after)]
    for ours, theirs in (tables, states):
        each = [ours, theirs] if isinstance(ours, dict) else [*ours, *theirs]
        shared = set.intersection(*map(set, each)) if each else set()
        for entries in each:
            for name in entries.keys() - shared:
                del entries[name]


def difference(before: Any, after: Any, rounding: bool, at: str = "") -> str:
    """The first place where two nested values differ, with both values; empty if none does."""
    if isinstance(before, dict) and isinstance(after, dict):
        if unshared := before.keys() ^ after.keys():
            return f"{at}: only one of the two has {reprlib.repr(sorted(map(str, unshared)))}"
        skipped = NOT_RESULTS | ({"environments"} if rounding else set())  # bytes, which have no tolerance
        pairs = [(f"{at}.{key}", value, after[key]) for key, value in before.items() if key not in skipped]
    elif isinstance(before, list | tuple) and type(before) is type(after):
        return difference(dict(enumerate(before)), dict(enumerate(after)), rounding, at)
    elif isinstance(before, Tensor) and isinstance(after, Tensor):
        same = before.dtype == after.dtype and torch.equal(before, after)
        pairs = [] if same else [(at, before.dtype, after.dtype), (at, before.tolist(), after.tolist())]
    else:
        same = type(before) is type(after) and (before == after or (before != before and after != after))
        same = same or (rounding and close(before, after))
        return "" if same else f"{at}: {reprlib.repr(before)} and {reprlib.repr(after)}"
    found = (difference(ours, theirs, rounding, place) for place, ours, theirs in pairs)
    return next((told for told in found if told), "")


def close(before: Any, after: Any) -> bool:
    """Whether two floats, or cells of metrics.csv, differ by rounding only."""
    try:
        return type(before) in (float, str) and math.isclose(float(before), float(after), rel_tol=RTOL, abs_tol=ATOL)
    except (TypeError, ValueError):
        return False


def compare(case: str, before: Side, after: Side, rounding: bool) -> int:
    """Train and compare one case, with a line for each run; returns how many differ, are missing or failed."""
    if case in NEEDS and importlib.util.find_spec(NEEDS[case]) is None:
        print(f"skipped  {case}: {NEEDS[case]} is not installed", flush=True)
        return 0
    with ThreadPoolExecutor(2) as pool:
        faults = zip(("the commit", "this checkout"), pool.map(Side.train, (before, after), (case, case)), strict=True)
    lines = [f"FAILED   {case}: with {side}: {fault}" for side, fault in faults if fault]
    old, new = before.runs(case), after.runs(case)
    for name in {**old, **new}:
        if name not in old or name not in new:
            lines.append(f"MISSING  {case}: {name}: not with {'this checkout' if name in old else 'the commit'}")
            continue
        found = results(old[name]), results(new[name])
        drop_unshared(*found)
        what = difference(*found, rounding).lstrip(".")
        ours, theirs = old[name].name[-8:], new[name].name[-8:]
        moved = f" (the hash of its folder was {ours}, is {theirs})" * (ours != theirs)
        lines.append(f"DIFFERS  {case}: {name}: {what}{moved}" if what else f"ok       {case}: {name}{moved}")
    print(*lines or [f"MISSING  {case}: no runs"], sep="\n", flush=True)
    return sum(not line.startswith("ok") for line in lines or [""])


def main() -> int:
    """Compare all cases; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="compare with the code of this commit")
    parser.add_argument("--rounding", action="store_true", help=f"floats may differ by {RTOL} of their size, or {ATOL}")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="NAME", help=", ".join(CASES))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="same_results-"))
    before, after = Side(folder / "tree", folder / "before"), Side(ROOT, folder / "after")
    worktree = ["git", "-C", str(ROOT), "worktree"]
    if subprocess.run([*worktree, "add", "--quiet", "--detach", str(before.tree), args.commit]).returncode:
        return 2  # git has said why
    try:
        for side in (before, after):
            side.folder.mkdir()
            if str(side.tree) not in (found := side.python("-c", "import rlexp; print(rlexp.__file__)").stdout):
                sys.exit(f"same_results: PYTHONPATH={side.tree} is not what is imported: {found}")
        count = sum(compare(case, before, after, args.rounding) for case in args.only)
    finally:
        subprocess.run([*worktree, "remove", "--force", str(before.tree)])
    print(f"{count} differ, are missing or failed; all runs are in {folder}" if count else "all results are the same")
    if not count:
        shutil.rmtree(folder)
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
