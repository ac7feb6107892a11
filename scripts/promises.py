"""Simulates what `compare` promises, on scores of many shapes: how often a statement is wrong, and how often found.

    scripts/promises                           everything, 10,000 studies each; writes outputs/reports/promises/
    scripts/promises --only false --only power some tables, likewise
    scripts/promises --studies 500             faster, and rougher; this and --shape print, and write nothing

Tables: false (verdicts between identical arms, one look), path (the same over a pilot and its declared looks),
differences (coverage of their intervals), arms (coverage of an arm's intervals), equivalence, power.
Every study has its own random numbers; two standard errors of a share of 5 % in 10,000 studies are .44 %.
"""

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from rlexp.compare import statistics
from rlexp.compare.looks import SHARES
from rlexp.compare.permutation import smallest_p
from rlexp.compare.planning import MOST, looks_at, power, seeds_for, spread, study_p
from rlexp.compare.verdict import ALPHA, FEWEST

REPORT = Path("outputs/reports/promises")
STUDIES = 10_000
SEEDS, TESTS = (5, 10, 20), (1, 6, 16)
TRUTH = 2_000_000  # scores that stand for a whole distribution
COARSE, CLEAR = 2000, 8  # assignments that settle most tests; a p above CLEAR times α on them is not below it on more
Scores = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Row = dict[str, Any]


def mixture(share: float, usual: Scores, rare: Scores) -> Scores:
    """Scores of which a share is usual and the others are rare."""
    return lambda g, size: np.where(g.random(size) < share, usual(g, size), rare(g, size))


def normal(mean: float, deviation: float) -> Scores:
    """Scores without a tail."""
    return lambda g, size: g.normal(mean, deviation, size)


SHAPES: dict[str, Scores] = {
    "normal": normal(0, 1),
    "lognormal": lambda g, size: g.lognormal(0, 1, size),
    "skewed to the left": lambda g, size: -g.lognormal(0, 1, size),
    "heavy tails": lambda g, size: g.standard_t(3, size),
    "at the ceiling": lambda g, size: np.minimum(500, g.normal(470, 60, size)),
    "one in five fails": mixture(0.8, normal(490, 5), lambda g, size: g.uniform(100, 400, size)),
    "one in ten fails": mixture(0.9, normal(490, 5), lambda g, size: g.uniform(0, 200, size)),
    "500 or 100, ± 1": mixture(0.5, normal(500, 1), normal(100, 1)),
    "500 or 100, three to one": mixture(0.75, normal(500, 1), normal(100, 1)),
    "exactly 500 or 100": mixture(0.5, lambda g, size: np.full(size, 500.0), lambda g, size: np.full(size, 100.0)),
    "nearly all the same": mixture(0.9, lambda g, size: np.full(size, 500.0), normal(450, 30)),
}
PAIRS = [  # an arm and a baseline of different shapes
    ("normal", "heavy tails"),
    ("one in five fails", "at the ceiling"),
    ("one in ten fails", "one in five fails"),
    ("500 or 100, ± 1", "500 or 100, three to one"),
    ("500 or 100, three to one", "one in five fails"),
    ("lognormal", "skewed to the left"),
]


def significant(x: np.ndarray, y: np.ndarray, theta: float, alpha: float) -> np.ndarray:
    """Whether p(θ) <= alpha in each study: first on a few assignments, then on enough where that is not clear."""
    if smallest_p([(x.shape[1], y.shape[1])], alpha) > alpha:
        return np.zeros(len(x), bool)
    rough = study_p(x, y, theta, max(alpha, 20 / COARSE))
    near = rough <= max(CLEAR * alpha, 10 / COARSE)
    found = np.zeros(len(x), bool)
    if near.any():
        found[near] = study_p(x[near], y[near], theta, alpha) <= alpha
    return found


def rng(*key: object) -> np.random.Generator:
    """A generator of its own for each simulation."""
    return np.random.default_rng([ord(letter) for letter in repr(key)])


def false_verdicts(shape: str, studies: int) -> Iterator[Row]:
    """Identical arms, each compared with one baseline: studies in which any is called better or worse."""
    for n, tests in itertools.product(SEEDS, TESTS):
        g = rng("false", shape, n, tests)
        wrong = np.zeros(studies, bool)
        base = SHAPES[shape](g, (studies, n))
        for _ in range(tests):
            wrong |= significant(SHAPES[shape](g, (studies, n)), base, 0.0, ALPHA / tests)
        yield {"shape": shape, "n": n, "comparisons": tests, "false verdicts": wrong.mean()}


def path(shape: str, studies: int) -> Iterator[Row]:
    """The same along a plan: a pilot of five, seeds by its spread for a margin of one deviation, up to three looks."""
    pilot = 5
    for tests in TESTS:
        g = rng("path", shape, tests)
        base = SHAPES[shape](g, (studies, MOST))
        arms = [SHAPES[shape](g, (studies, MOST)) for _ in range(tests)]
        margin = float(SHAPES[shape](g, (200_000,)).std())
        quantile = float(stats.norm.ppf(1 - ALPHA * SHARES[3][-1] / tests / 2) + stats.norm.ppf(0.9))
        found = np.array([spread([base[s, :pilot], *(arm[s, :pilot] for arm in arms)]).planned for s in range(studies)])
        seeds = np.clip(np.ceil(2 * (quantile * found / margin) ** 2), pilot + 1, MOST).astype(int)
        wrong = np.zeros(studies, bool)
        for n in np.unique(seeds):
            here = np.flatnonzero(seeds == n)
            looks = looks_at(int(n), pilot)
            for look, share in zip(looks, SHARES[len(looks)], strict=True):
                for arm in arms:
                    wrong[here] |= significant(arm[here, :look], base[here, :look], 0.0, ALPHA * share / tests)
        yield {"shape": shape, "comparisons": tests, "median seeds": np.median(seeds), "false verdicts": wrong.mean()}


def differences(shape: str, studies: int) -> Iterator[Row]:
    """Coverage of the interval of a difference, of one deviation between equal shapes, or between different ones."""
    others = [(arm, base) for arm, base in PAIRS if arm == shape]
    for n in SEEDS:
        for arm, base in [(shape, shape), *others]:
            g = rng("differences", arm, base, n)
            big_x, big_y = SHAPES[arm](g, (TRUTH,)), SHAPES[base](g, (TRUTH,))
            shift = float(big_x.std()) if arm == base else 0.0
            truth = float(big_x.mean() - big_y.mean()) * (arm != base) + shift
            x, y = SHAPES[arm](g, (studies, n)) + shift, SHAPES[base](g, (studies, n))
            covered = ~significant(x, y, truth, ALPHA)
            few = min(studies, 2000)
            middle = _iqm(big_x) - _iqm(big_y) if arm != base else shift
            iqms = [statistics.iqm_difference(a, b) for a, b in zip(x[:few], y[:few], strict=True)]
            better = [statistics.probability_of_improvement(a, b) for a, b in zip(x[:few], y[:few], strict=True)]
            theta = _above(big_x + shift, big_y)
            row: Row = {"arm": arm, "baseline": base, "n": n, "of means": covered.mean()}
            row["of IQMs"] = np.mean([i.low <= middle + 1e-9 and middle - 1e-9 <= i.high for i in iqms])
            yield row | {"P(better)": np.mean([i.low <= theta <= i.high for i in better])}


def _iqm(scores: np.ndarray) -> float:
    return float(statistics.iqm(scores))


def _above(x: np.ndarray, y: np.ndarray) -> float:
    """P(X > Y) + ½ P(X = Y)."""
    y = np.sort(y)
    return float((np.searchsorted(y, x, "left") + np.searchsorted(y, x, "right")).mean() / (2 * len(y)))


def arms(shape: str, studies: int) -> Iterator[Row]:
    """Coverage of the interval of an arm's mean and IQM."""
    for n in (3, *SEEDS):
        g = rng("arms", shape, n)
        big = SHAPES[shape](g, (2 * TRUTH,))
        mean, middle = float(big.mean()), _iqm(big)
        scores = SHAPES[shape](g, (min(studies, 4000), n))
        of_mean = [statistics.mean_interval(x) for x in scores]
        of_iqm = [statistics.iqm_interval(x) for x in scores]
        row: Row = {"shape": shape, "n": n, "mean": np.mean([i.low <= mean <= i.high for i in of_mean])}
        yield row | {"IQM": np.mean([i.low <= middle + 1e-9 and middle - 1e-9 <= i.high for i in of_iqm])}


def equivalence(shape: str, studies: int) -> Iterator[Row]:
    """Arms that differ by exactly the margin and are called equivalent; and equal arms that are, with planned seeds."""
    deviation = float(SHAPES[shape](rng("deviation", shape), (400_000,)).std())
    for tests, width in ((1, 1.0), (1, 2.0), (6, 1.5), (16, 1.5)):
        margin = width * deviation
        planned = seeds_for(SHAPES[shape], margin, ALPHA / tests)
        n = planned or MOST
        g = rng("equivalence", shape, tests, width)
        found = {}
        for name, shift in (("claimed at the edge", margin), ("found", 0.0)):
            x, y = SHAPES[shape](g, (studies, n)) + shift, SHAPES[shape](g, (studies, n))
            near = np.abs(x.mean(1) - y.mean(1)) < margin
            inside = np.zeros(studies, bool)
            inside[near] = significant(x[near], y[near], margin, ALPHA / tests)
            inside[inside] = significant(x[inside], y[inside], -margin, ALPHA / tests)
            found[name] = inside.mean()
        seeds = str(n) if planned else f"{n} (not enough)"
        yield {"shape": shape, "comparisons": tests, "margin, deviations": width, "seeds": seeds, **found}


def powers(shape: str, studies: int) -> Iterator[Row]:
    """What `planning.power` says of the margin and of equal arms, against more studies with other random numbers."""
    for n, tests in itertools.product(SEEDS, TESTS):
        g = rng("power", shape, n, tests)
        deviation = float(SHAPES[shape](g, (400_000,)).std())
        margin = deviation * float(stats.norm.ppf(1 - ALPHA / tests / 2) + 1.1) * (2 / n) ** 0.5
        told = power(SHAPES[shape], n, margin, ALPHA / tests)
        x, y = SHAPES[shape](g, (studies, n)), SHAPES[shape](g, (studies, n))
        better = (x.mean(1) + margin > y.mean(1)) & significant(x + margin, y, 0.0, ALPHA / tests)
        equal = np.abs(x.mean(1) - y.mean(1)) < margin
        for side in (1, -1):
            equal[equal] = significant(x[equal], y[equal], side * margin, ALPHA / tests)
        row: Row = {"shape": shape, "n": n, "comparisons": tests, "told better": told.found, "better": better.mean()}
        yield row | {"told equivalent": told.equivalent, "equivalent": equal.mean()}


TABLES = {
    "false": false_verdicts,
    "path": path,
    "differences": differences,
    "arms": arms,
    "equivalence": equivalence,
    "power": powers,
}


def _rows(name: str, shape: str, studies: int) -> list[Row]:
    return list(TABLES[name](shape, studies))


def main() -> None:
    """Simulate, print, and write the report's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[*TABLES], help="a table; may be repeated")
    parser.add_argument("--shape", action="append", choices=[*SHAPES], help="a shape; may be repeated")
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    whole = options.studies == STUDIES and options.shape is None
    with ProcessPoolExecutor(options.workers) as pool:
        for name in options.only or TABLES:
            start = time.time()
            jobs = [pool.submit(_rows, name, shape, options.studies) for shape in options.shape or SHAPES]
            rows = [row for job in jobs for row in job.result()]
            print(f"{name}: {TABLES[name].__doc__} ({time.time() - start:.0f} s)", flush=True)
            if name in ("false", "path"):
                print(f"  below {FEWEST} seeds there is no verdict")
            for row in rows:
                print("  " + "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
            if whole:
                REPORT.mkdir(parents=True, exist_ok=True)
                with open(REPORT / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, rows[0])
                    writer.writeheader()
                    writer.writerows(
                        {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
                    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
