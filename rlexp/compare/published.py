"""Compares scores with published ones: beside=published.csv with columns env, score, deviation, seeds and source."""

import csv
import math
from pathlib import Path

from rlexp.compare.statistics import Summary, summary, welch
from rlexp.compare.verdict import Result
from rlexp.errors import ConfigError
from rlexp.text import number

Published = dict[str, tuple[Summary, str]]  # environment -> mean, variance and number of seeds; source

COLUMNS = ("env", "score", "deviation", "seeds", "source")


def read_published(path: str) -> Published:
    """Read the published score and its source for each environment.

    Raises:
        ConfigError: the file cannot be read, or lacks a column.
    """
    try:
        with open(Path(path), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {
            row["env"]: (
                Summary(float(row["score"]), float(row["deviation"]) ** 2, int(row["seeds"])),
                row["source"].strip(),
            )
            for row in rows
        }
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"beside={path}: cannot be read as a csv with the columns {', '.join(COLUMNS)} ({error!r})"
        ) from None


def published_rows(results: list[Result], published: Published) -> list[list[str]]:
    """Header, then one row per final score: ours, the published one, and Welch's interval of the difference."""
    rows = [["environment", "arm", "here", "published", "difference [95 %]", "p", "source"]]
    for r in results:
        if r.measure != "final" or not len(r.scores):
            continue
        here = summary(r.scores)
        if r.env not in published:
            rows.append([r.env, r.arm, _format(here), "none", "", "", ""])
            continue
        there, source = published[r.env]
        d = welch(here, there)
        rows.append([r.env, r.arm, _format(here), _format(there), str(d), number(d.p, 2), source])
    return rows


def _format(x: Summary) -> str:
    spread = "" if math.isnan(x.variance) else f" ± {x.variance**0.5:.1f}"
    return f"{x.mean:.1f}{spread} ({x.n} seed{'s' * (x.n > 1)})"
