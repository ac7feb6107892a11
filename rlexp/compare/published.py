"""Compares scores with published ones: beside=published.csv with columns env, score, deviation, seeds and source."""

import csv
import math
from operator import itemgetter

import numpy as np

from rlexp.compare.arms import Comparison
from rlexp.compare.measures import last
from rlexp.compare.statistics import Summary, summary, welch
from rlexp.errors import ConfigError
from rlexp.text import number

Published = list[tuple[str, Summary, str]]  # environment; mean, variance and number of seeds; source

COLUMNS = ("env", "score", "deviation", "seeds", "source")


def read_published(path: str) -> Published:
    """Read published scores and their sources; a ConfigError if the file cannot be read."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return [
                (env, Summary(float(score), float(deviation) ** 2, int(seeds)), source.strip())
                for env, score, deviation, seeds, source in map(itemgetter(*COLUMNS), csv.DictReader(file))
            ]
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"beside={path}: cannot be read as a csv with the columns {', '.join(COLUMNS)} ({error!r})"
        ) from None


def published_rows(comparison: Comparison, published: Published) -> list[list[str]]:
    """Header, then one row per arm and published score: the arm's last 100 training episodes, and Welch's interval."""
    rows = [["environment", "arm", "here", "published", "difference [95 %]", "p", "source"]]
    for task in comparison.tasks:
        for name, samples in task.arms.items():
            here = summary(np.array([last(sample.curve.returns) for sample in samples]))
            found = [_beside(here, there, source) for env, there, source in published if env == task.env]
            rows += [[task.env, name, _format(here), *cells] for cells in found or [["none", "", "", ""]]]
    return rows


def _beside(here: Summary, there: Summary, source: str) -> list[str]:
    d = welch([(here, there)])
    return [_format(there), str(d), number(d.p, 2), source]


def _format(x: Summary) -> str:
    spread = "" if math.isnan(x.variance) else f" ± {x.variance**0.5:.1f}"
    return f"{x.mean:.1f}{spread} ({x.n} seed{'s' * (x.n > 1)})"
