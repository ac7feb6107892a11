"""Draws games.svg from runs.csv: python outputs/reports/worlds/draw.py"""

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

GAMES = {  # env of runs.csv: title, published score and what it is of
    "pong": ("Pong", 20.36, "CleanRL, 10 M"),
    "breakout": ("Breakout", 414.66, "CleanRL, 10 M"),
    "annotated_breakout": ("Breakout, one life\n(experiment=annotated_breakout)", None, ""),
    "starpilot": ("StarPilot (easy)", 31.0, "CleanRL, 25 M"),
}


def main() -> None:
    """Draw the curve of each game beside the score that is published."""
    folder = Path(__file__).parent
    curves = defaultdict(list)
    with open(folder / "runs.csv", newline="") as file:
        for row in csv.DictReader(file):
            curves[row["env"]].append((int(row["step"]) / 1e6, float(row["episodic_return"])))
    matplotlib.rcParams["svg.hashsalt"] = "rlexp"  # the same file each time
    figure, axes = plt.subplots(1, len(GAMES), figsize=(16, 3.6), layout="constrained")
    for ax, (env, (title, published, source)) in zip(axes, GAMES.items(), strict=True):
        ax.plot(*zip(*curves[env], strict=True), color="tab:blue", label="PPO, one seed")
        if published is not None:
            ax.axhline(published, color="tab:gray", linestyle="--", label=f"{published:g}: {source}")
        ax.set(title=title, xlabel="million steps", ylabel="return of the last 100 episodes")
        ax.grid(alpha=0.3)
        ax.margins(y=0.08)
        ax.legend(loc="best")
    figure.savefig(folder / "games.svg", metadata={"Date": None})
    figure.savefig(folder / "games.png", dpi=90)


if __name__ == "__main__":
    main()
