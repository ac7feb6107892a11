"""Comparisons with realistic curves, made of arrays: no run was trained, no file is read."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.samples import Sample
from rlexp.study.runs import Curve, Run

ROWS = 60  # of a curve


class Env(NamedTuple):
    """An environment whose returns go from low to the level that an arm reaches, a share of the way to high."""

    name: str = "CartPole-v1"
    low: float = 0.0
    high: float = 500.0
    noise: float = 0.08  # of the way
    limits: tuple[float | None, float | None] | None = None
    threshold: float | None = None
    bounds: tuple[float, float] | None = None


def curve(env, level, rate, g, evaluations=True, steps=100_000):
    """One seed: 1 − e^(−rate·t) on the way to its level, with autocorrelated noise; the first rows know no episode."""
    t = np.linspace(0, 1, ROWS + 1)[1:]
    level = level + g.normal(0, env.noise)
    noise = np.convolve(g.normal(0, env.noise, ROWS + 9), np.ones(10) / 10, "valid")
    share = level * (1 - np.exp(-rate * t)) + noise
    returns = env.low + (env.high - env.low) * share
    if env.limits:
        returns = np.clip(returns, *env.limits)
    evaluated, sampled = np.full((2, ROWS), np.nan)
    if evaluations:
        evaluated[5::6] = returns[5::6] + 0.05 * (env.high - env.low) * g.normal(1, 1, 10)
        sampled[5::6] = returns[5::6] - 0.05 * (env.high - env.low) * g.normal(1, 1, 10)
        if env.limits:
            evaluated, sampled = (np.clip(x, *env.limits) for x in (evaluated, sampled))
    before = returns.copy()
    before[:2] = np.nan
    seconds = t * g.uniform(90, 120)
    return Curve(
        steps=t * steps, seconds=seconds, returns=before, episodes=np.floor(t * 400 * g.uniform(0.9, 1.1)),
        row_returns=returns, evaluated=evaluated, evaluated_sampled=sampled,
    )  # fmt: skip


def study(envs, arms, seeds=10, evaluations=True, diverged=0, skip=(), seed=0):
    """A comparison: arms maps a name to (level, rate), shares of the way and of training.

    diverged: seeds of the last arm that have no curve. skip: (environment, arm) that was not run.
    """
    g, tasks = np.random.default_rng(seed), []
    for env in envs:
        found = {}
        for name, (level, rate) in arms.items():
            if (env.name, name) in skip:
                continue
            curves = [curve(env, level, rate, g, evaluations) for _ in range(seeds)]
            run = Run(Path(name), {}, {})
            found[name] = [Sample(k, each, float(each.row_returns[-1]), run) for k, each in enumerate(curves)]
        absent = {list(arms)[-1]: {seeds + k: "diverged" for k in range(diverged)}} if diverged else {}
        tasks.append(Task(env.name, found, {}, env.threshold, env.bounds, env.limits, absent))
    return Comparison(tasks, [])


CARTPOLE = Env(limits=(0.0, 500.0), threshold=475.0, bounds=(20.0, 500.0))
NEGATIVE = Env("Acrobot-v1", -200.0, -80.0, threshold=-100.0, bounds=(-200.0, -80.0))
TINY = Env("Tiny-v0", -0.05, 0.05)
CEILING = Env("FrozenLake-v1", 0.0, 1.05, noise=0.02, limits=(0.0, 1.0), bounds=(0.0, 1.0))
LARGE = Env("HalfCheetah-v5", -500.0, 1_400_000.0, bounds=(-280.0, 1_500_000.0))
