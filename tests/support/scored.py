"""Comparisons made of scores alone, without folders of runs."""

from pathlib import Path

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.samples import Sample
from rlexp.study.runs import Curve, Run

TEN = np.arange(-4.5, 5)  # ten scores, mean 0


def curve(steps, returns, episodes, rows=None, evaluated=None, sampled=None):
    """A learning curve; what is left out is not known."""
    unknown = np.full(len(steps), np.nan)
    others = (unknown if x is None else np.array(x, float) for x in (rows, evaluated, sampled))
    return Curve(steps, steps / 1000, returns, episodes, *others)


def sample(seed, score, final=None, env="E"):
    """A seed by its frozen evaluation, NaN: it has none; final: its training return, always the same."""
    steps = np.array([1000.0, 2000, 3000, 4000])
    returns = np.full(4, score if final is None else final)
    evaluation = None if np.isnan(score) else float(score)
    return Sample(seed, curve(steps, returns, steps / 100), evaluation, Run(Path(env), {}, {"env.id": env}))


def task(arms, env="E", limits=None, bounds=None, absent=None, finals=None, threshold=None):
    """An environment by the scores of its arms; finals: training returns of arms where those are others."""
    held = {
        name: [
            sample(k, score, final, env)
            for k, (score, final) in enumerate(zip(scores, (finals or {}).get(name, scores), strict=True))
        ]
        for name, scores in arms.items()
    }
    return Task(env, held, {}, threshold, bounds, limits, absent or {})


def comparison(*tasks):
    return Comparison(list(tasks), [])
