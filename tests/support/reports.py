"""Committed comparisons as arrays, and the numbers in a text that nothing accounts for."""

import csv
import functools
import re
from pathlib import Path

import numpy as np

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

    def scores(self, env, arm, measure):
        """Scores of an arm's seeds (n,), as judged."""
        found = [row[measure] for row in self.seeds if (row["env"], row["arm"]) == (env, arm)]
        return np.array([float(x) for x in found if x not in ("", None)])

    def value(self, env, arm, column, measure="evaluation"):
        return float(self.rows[env, arm, measure][column] or "nan")

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
    for claim in sorted(map(flat, claims), key=len, reverse=True):
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
