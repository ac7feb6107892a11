"""Committed comparisons as arrays, and the numbers in a text that nothing accounts for."""

import csv
import functools
import re
from pathlib import Path

import numpy as np

from rlexp.compare.arms import Task
from rlexp.compare.question import Question
from rlexp.compare.results import ALPHA, Judgement, Result, Verdict
from rlexp.compare.statistics import Difference, Interval

REPORTS = Path(__file__).parents[2] / "outputs" / "reports"
MEASURES = ("evaluation", "evaluation_sampled", "final", "area", "retention")
NUMBER = r"[-+−±]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?"
INTERVAL = re.compile(rf"(?P<value>{NUMBER})(?P<percent> %)? \[(?P<low>{NUMBER}), (?P<high>{NUMBER})\]")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parse(text):
    """A number as it is printed; and half a unit of its last digit, by which rounding may move it."""
    plain = text.replace("−", "-").replace(",", "").lstrip("±+")
    mantissa, _, exponent = plain.partition("e")
    digits = len(mantissa.partition(".")[2])
    return float(plain), 0.5 * 10.0 ** (int(exponent or 0) - digits)


def is_rounded(text, value, error=1e-5):
    """Whether a printed number is this value, rounded; error: of the value itself, relative."""
    printed, half = parse(text)
    return abs(printed - value) <= half * 1.001 + error * abs(value)


class Report:
    """compare.csv and scores.csv of a folder of outputs/reports."""

    def __init__(self, name):
        self.name, self.folder = name, REPORTS / name
        self.rows = {(row["env"], row["arm"], row["measure"]): row for row in read(self.folder / "compare.csv")}
        self.seeds = read(self.folder / "scores.csv")

    @property
    def envs(self):
        return list(dict.fromkeys(env for env, _, _ in self.rows))

    def arms(self, env):
        return list(dict.fromkeys(arm for e, arm, _ in self.rows if e == env))

    @property
    def primary(self):
        """The measure that verdicts are about."""
        return next(measure for (_, _, measure), row in self.rows.items() if row["role"] == "primary")

    def judged(self, arm):
        """Measures by which an arm is compared on the first environment."""
        return {measure for env, name, measure in self.rows if (env, name) == (self.envs[0], arm)}

    def scores(self, env, arm, measure):
        """Scores of an arm's seeds (n,), as judged."""
        found = [row[measure] for row in self.seeds if (row["env"], row["arm"]) == (env, arm)]
        return np.array([float(x) for x in found if x not in ("", None)])

    def value(self, env, arm, column, measure=None):
        """A number of compare.csv; measure: default the primary one."""
        return float(self.rows[env, arm, measure or self.primary][column] or "nan")

    @property
    def judgement(self):
        """What compare found, from its tables; without the verdicts over environments."""
        spans = {env: row["margin"] and 20 * float(row["margin"]) for (env, _, _), row in self.rows.items()}
        spans |= {env: 20 * float(row["margin"]) for (env, _, _), row in self.rows.items() if row["margin"]}
        tasks = {env: Task(env, {}, {}, None, span and (0.0, span)) for env, span in spans.items()}
        results = [self._result(tasks[env], arm, measure) for env, arm, measure in self.rows]
        question = Question(
            self.primary,
            {r.env: r.margin for r in results if r.margin == r.margin},
            {r.env: "5%" for r in results if r.margin == r.margin},
        )
        base = next(arm for (_, arm, _), row in self.rows.items() if not row["alpha"])
        levels = [r.against.alpha for r in results if r.verdict]
        return Judgement(question, base, results, [], round(ALPHA / max(levels)) if levels else 0)

    def _result(self, task, arm, measure):
        row = self.rows[task.env, arm, measure]

        def numbers(*names):
            return [float(row[name] or "nan") for name in names]

        def interval(name):
            return Interval(*numbers(name, f"{name}_low", f"{name}_high"))

        n, planned = int(row["n"]), int(row["planned"])
        found = Result(task, arm, measure, self.scores(task.env, arm, measure), interval("mean"), interval("iqm"))
        found.missing = {-k: "" for k in range(1, planned - n + 1)}
        found.diverged = int(row["diverged"])
        if row["alpha"]:
            (value, low, high), p, alpha = interval("difference"), *numbers("p", "alpha")
            if abs(p - alpha) < 1e-5 * alpha:  # which six digits do not tell apart
                p = alpha * (1.01 if low < 0 < high else 0.99)
            found.against = Difference(value, low, high, p, alpha=alpha)
            found.against_iqm, found.improvement = interval("iqm_difference"), interval("improvement")
            found.p_rank, found.margin = numbers("p_rank", "margin")
        if row["verdict"]:
            found.verdict = Verdict(row["verdict"], row["why"], row["within_margin"] == "True")
        return found

    def evaluations(self, env, arm, actions):
        """Mean returns in frozen evaluations during training (evaluations, seeds); actions: as in evaluations.csv."""
        found = read(self.folder / "evaluations.csv")
        rows = [row for row in found if (row["env"], row["arm"], row["actions"]) == (env, arm, actions)]
        return np.array([[float(x) for key, x in row.items() if key.startswith("seed_")] for row in rows])

    @property
    def published(self):
        """Cells of compare.md's table of published scores, by row."""
        page = (self.folder / "compare.md").read_text(encoding="utf-8")
        table = page.split("### Published scores\n\n")[1].split("\n\n")[0]
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]

    @functools.cached_property
    def quotable(self):
        """compare.md, and plan.txt if there is one, as plain text in one line."""
        found = [self.folder / name for name in ("compare.md", "plan.txt")]
        return " ".join(flat(path.read_text(encoding="utf-8")) for path in found if path.exists())


def flat(text):
    return " ".join(text.replace("**", "").split())


def differing(text, wanted):
    """Where a text is not another: "" if only the last digits of numbers differ, as by rounding twice."""
    if re.sub(NUMBER, "#", text) != re.sub(NUMBER, "#", wanted):
        return f"{text}\n  instead of\n{wanted}"
    pairs = zip(re.findall(NUMBER, text), re.findall(NUMBER, wanted), strict=True)
    apart = [f"{a} instead of {b}" for a, b in pairs if a != b and not close(a, b)]
    return ", ".join(apart)


def close(first, second):
    (a, half), (b, _) = parse(first), parse(second)
    return abs(a - b) <= 2.01 * half and a * b >= 0


def names():
    """Reports with tables of this version of compare."""
    found = (path.parent for path in sorted(REPORTS.rglob("compare.csv")))
    return [folder.relative_to(REPORTS).as_posix() for folder in found if "role" in read(folder / "compare.csv")[0]]


def unexplained(text, quotes, claims):
    """Numbers in a page that are neither in a sentence or table row of `quotes` nor in one of the `claims`.

    Code that is no quotation, links, and digits within a name, as in CartPole-v1, are no numbers of the study.

    Raises:
        AssertionError: a claim is not in the text, or an indented sentence is not in the quotes.
    """
    rest = []
    for line in sentences(text):
        if line.startswith("    "):
            told = flat(line)
            assert told in quotes or re.match(r"(python|scripts/|EXTRAS=|for |done|tensorboard|\$ )", told), told
        elif not (line.startswith("|") and flat(line) in quotes):
            rest.append(line)
    left = flat(re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "", "\n".join(rest))))
    for claim in sorted({*map(flat, claims)}, key=len, reverse=True):
        assert claim in left, f"not in the text: {claim}"
        left = left.replace(claim, " ")
    return re.findall(rf"(?<![\w.−-]){NUMBER}(?![\w-])", left)


def sentences(text):
    """Lines of a page; a quoted sentence that goes on in a deeper indented line is one line."""
    lines = []
    for line in text.splitlines():
        if line.startswith("      ") and lines and lines[-1].startswith("    "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines
