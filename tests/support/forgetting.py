"""Many learning curves at once of a model that rises, has a plateau, and may forget; see `curves`."""

import numpy as np
from scored import curve

TOTAL, ROW = 512_000, 2048  # environment steps, and those of a row of metrics.csv
CAP = 500.0  # return of no more
MEMORY = 10_000  # steps in which the policy's own fluctuations fade
FEW = 8  # episodes of a row, up to as many each is drawn


def levels(g, seeds, rise, width, plateau, forgets, fluctuation):
    """Expected return of the policy at each row (seeds, rows)."""
    steps = np.arange(ROW, TOTAL + 1, ROW, dtype=float)
    middle = rise * g.lognormal(0, 0.2, (seeds, 1))  # seeds rise at different times, by a fifth
    height = plateau + g.normal(0, 10, (seeds, 1))  # to different plateaus
    level = height / (1 + np.exp(-(steps - middle) / width))
    noise, fade = g.normal(0, 1, level.shape), np.exp(-ROW / MEMORY)
    for t in range(1, len(steps)):  # autocorrelated, with deviation 1
        noise[:, t] = fade * noise[:, t - 1] + np.sqrt(1 - fade**2) * noise[:, t]
    # begins some time after it is up, and takes 60,000 steps
    lost = np.clip((steps - middle - 4 * width - 40_000) / 60_000, 0, 1)
    return steps, np.clip((level + fluctuation * noise) * (1 - forgets * lost), 10, CAP)


def curves(g, seeds, rise=100_000, width=12_000, plateau=460.0, forgets=0.0, fluctuation=25.0, deviation=60.0):
    """Curves of seeds whose expected return rises by a logistic of that middle and width to a plateau.

    forgets: share of its level that a policy loses after a while on its plateau. fluctuation: deviation of the policy's
    expected return along training, autocorrelated over MEMORY steps. deviation: of episodes, capped at CAP. An episode
    takes as many steps as its return, as on CartPole.
    """
    steps, level = levels(g, seeds, rise, width, plateau, forgets, fluctuation)
    episodes = np.floor(np.cumsum(ROW / level, 1))
    counts = np.diff(episodes, axis=1, prepend=0.0)
    sums = counts * level + np.sqrt(counts) * deviation * g.normal(0, 1, level.shape)
    few = counts <= FEW
    drawn = np.minimum(CAP, level + deviation * g.normal(0, 1, (FEW, *level.shape)))
    kept = np.arange(FEW)[:, None, None] < counts
    sums = np.where(few, (drawn * kept).sum(0), sums)
    with np.errstate(invalid="ignore"):
        rows = np.where(counts > 0, sums / counts, np.nan)
    found = []
    for k in range(seeds):
        number, total = np.append(0, episodes[k]), np.append(0, np.cumsum(sums[k]))
        before = np.interp(np.maximum(episodes[k] - 100, 0), number, total)
        average = (total[1:] - before) / np.maximum(np.minimum(episodes[k], 100), 1)  # over the last 100 episodes
        average[episodes[k] == 0] = np.nan
        found.append(curve(steps, average, episodes[k], rows[k]))
    return found
