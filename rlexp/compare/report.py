"""Writes a comparison as text: for the terminal and as markdown."""

import math
import shlex
import textwrap
from collections.abc import Sequence

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.look_book import LookBooks
from rlexp.compare.measures import EXPOSURE, MEASURES, RETURNS, exposure, steps_to
from rlexp.compare.published import Published, published_rows
from rlexp.compare.question import evaluated
from rlexp.compare.results import Judgement, Result, corrected, normalised_iqms, scale
from rlexp.compare.sentences import scored, size, verdicts
from rlexp.compare.statistics import bounds, mean_interval
from rlexp.text import aligned, number

MOST_ROWS = 24  # of the terminal's table; with more it is only in the files
MOST_REMARKS = 6  # on the terminal
WIDTH = 120  # characters of its lines

Rows = list[list[str]]
Sections = Sequence[tuple[str, Rows]]  # titles and tables


# Tables --------------------------------------------------------------------------------------------------------------


def measure_rows(results: list[Result], judgement: Judgement) -> Rows:
    """Header, then one row per arm, for one measure on one environment."""
    primary = bool(results) and results[0].measure == judgement.question.primary
    rows = [["arm", "n", "mean [95 %]", "IQM [95 %]", "difference", "p", "of IQMs", "P(better)", "p by ranks"]]
    rows[0] += ["verdict"] if primary else []
    for r in results:
        count = scored(r)
        cells = ["baseline" if r.arm == judgement.baseline else "no baseline here", "", "", "", ""]
        if r.compared:
            better = f"{r.improvement.value:.2f}" + bounds(r.improvement.low, r.improvement.high)
            d, of_iqms = r.against, r.against_iqm
            cells = [str(d), corrected(d.p, d.alpha), f"{of_iqms.value:+.4g}{bounds(of_iqms.low, of_iqms.high)}"]
            cells += [better, corrected(r.p_rank, d.alpha)]
        word = "" if r.verdict is None else r.verdict.word + (" (within the margin)" if r.verdict.within else "")
        rows.append([r.arm, count, str(r.mean), str(r.iqm), *cells, *([word] if primary else [])])
    return rows


def cost_rows(task: Task) -> Rows:
    """Steps to the threshold, what became of the seeds, and the cost of training."""
    late = f"with {EXPOSURE:.0%} of training left"
    head = [
        "arm",
        "steps to threshold, median",
        "reached it",
        late,
        "steps per seed or population" if task.has_populations else "steps per seed",
        "seconds per run",
        "steps/s per run",
    ]
    rows = [head]
    for name, samples in task.arms.items():
        runs = {sample.run.folder: sample.run for sample in samples}.values()
        seconds = float(np.mean([run.seconds for run in runs]))
        steps = float(np.mean([sample.curve.steps[-1] for sample in samples]))
        rate = float(np.mean([steps * len(run.populations) / max(run.seconds, 1e-9) for run in runs]))
        cells = ["–", "–", "–"]
        if task.threshold is not None:
            first = [steps_to(task.threshold, s.curve.steps, s.curve.returns) for s in samples]
            middle, total = float(np.median(first)), len(first) + len(task.absent.get(name, {}))
            early = sum(exposure(task.threshold, s.curve) is not None for s in samples)
            reached = sum(map(math.isfinite, first))
            cells = ["–" if math.isinf(middle) else number(middle), f"{reached} of {total}", f"{early} of {total}"]
        rows.append([name, *cells, number(steps), number(seconds), number(rate)])
    return rows


def best_rows(task: Task) -> Rows:
    """Header, then one row per arm: mean over its populations of their best members' scores, by each measure."""
    rows = [["arm", "n", *(f"{name} [95 %]" for name in MEASURES)]]
    for name, samples in task.arms.items():
        cells = []
        for measure, (_, of) in MEASURES.items():
            scores = np.array([of(sample.best, task) for sample in samples], float)
            limits = (task.limits or (None, None)) if measure in RETURNS else (None, None)
            known = scores[np.isfinite(scores)]
            cells.append(str(mean_interval(known, limits)) if len(known) else "–")
        rows.append([name, str(len(samples)), *cells])
    return rows


def sections(comparison: Comparison, judgement: Judgement, published: Published) -> Sections:
    """Every table with its title."""
    found = [("Published scores", published_rows(comparison, published))] if published else []
    measures = list(dict.fromkeys(r.measure for r in judgement.results))
    for task in comparison.tasks:
        differing = [[key, *(str(values[name]) for name in task.arms)] for key, values in task.differing.items()]
        if differing:
            found.append((f"{task.env}: what differs", [["setting", *task.arms], *differing]))
        for name in measures:
            group = [r for r in judgement.results if r.env == task.env and r.measure == name and len(r.scores)]
            if group:
                role = "primary" if name == judgement.question.primary else "secondary"
                title = f"{task.env}, {name} ({role}): {MEASURES[name].meaning}"
                found.append((title, measure_rows(group, judgement)))
        if task.has_populations:
            title = "best member of each population, the one with the highest last training returns; a seed is its own"
            found.append((f"{task.env}, {title}", best_rows(task)))
        found.append((f"{task.env}, threshold and cost", cost_rows(task)))
    if len(comparison.tasks) > 1:
        rows = [[name, str(envs), str(x)] for name, (envs, x) in normalised_iqms(comparison, judgement).items()]
        title = f"all environments, {judgement.question.primary}"
        found.append((title, [["arm", "environments", "normalised IQM [95 %]"], *rows]))
    return found


def provenance(comparison: Comparison) -> list[str]:
    """Provenance of the runs: commands, commits, machines, versions, amount of training."""
    samples = [sample for task in comparison.tasks for sample in task.samples]
    runs = list({sample.run.folder: sample.run for sample in samples}.values())
    commands = [run.record["command"] for run in runs if run.record.get("command")]
    typed = [shlex.join(["python", "-m", "rlexp.train", *words[1:]]) for words in commands]
    lines = [f"`{command}`" for command in dict.fromkeys(typed)]
    for key in ("commit", "machine"):
        values = dict.fromkeys(run.record[key] for run in runs if run.record.get(key))
        lines += [f"{key} {', '.join(str(value)[:60] for value in values)}"] if values else []
    versions = dict.fromkeys(f"{k} {v}" for run in runs for k, v in run.record.get("versions", {}).items())
    lines += [", ".join(versions)] if versions else []
    steps = sum(float(sample.curve.steps[-1]) for sample in samples)
    minutes = sum(run.seconds for run in runs) / 60
    amount = f"{len(runs)} runs, {number(steps / 1e6)} million environment steps, {number(minutes)} minutes"
    return [*lines, f"{amount} of training"]


def declared(comparison: Comparison, judgement: Judgement, books: LookBooks) -> list[str]:
    """What the study asked: primary measure, margins, looks, and how the 5 % is shared."""
    question = judgement.question
    over = evaluated(comparison.tasks) if question.primary == "evaluation" else ""
    meaning = MEASURES[question.primary].meaning + (f", over {over}" if over else "")
    lines = [f"primary measure: {question.primary}, {meaning}"]
    for task in comparison.tasks:
        margin, planned = question.margin(task.env), books.planned(task.env)
        parts = [] if math.isnan(margin) else [f"margin ±{number(margin)} ({question.written[task.env]})"]
        parts += [f"declared looks at {', '.join(map(str, planned))} seeds"] if planned else []
        lines += [f"{task.env}: {'; '.join(parts)}"] if parts else []
    tests = judgement.tests
    shared = f"shared by {tests} comparisons" if tests > 1 else "for one comparison"
    shared += ", without those that were added" if judgement.added else ""
    return [
        *lines,
        f"5 % of false verdicts, {shared}: intervals of primary differences cover all true ones in 95 % of studies "
        f"where arms differ by a shift alone",
    ]


def _footnotes(comparison: Comparison, judgement: Judgement) -> list[str]:
    notes = [
        "The unit is the seed. Difference: of means, with the interval that inverts a studentised permutation test, at "
        "level 1 − 5 %/k for the k comparisons by the primary measure (less at declared looks) and 1 − 5 %/k' for the "
        "k' by all others; p is multiplied accordingly. Of IQMs: interquartile means, by the Bayesian bootstrap. "
        "P(better): a seed of the arm scores above one of the baseline, Newcombe's score interval; p by ranks: the "
        "same permutation test of the ranks. The formulas are in rlexp/compare/statistics.md.",
    ]
    if any(sample.run.share < 1 for task in comparison.tasks for sample in task.samples):
        notes.append("A run trained in a batch is charged its share of the batch's time.")
    if comparison.has_populations:
        notes.append(
            "A population is one unit: its score is the mean of its members', its steps and episodes are their sum, "
            "its curve is the mean of theirs. Its best member is the one with the highest last training returns, so "
            "that its evaluation is not biased upward; its final and area are."
        )
    if len(comparison.tasks) > 1:
        primary = judgement.question.primary
        ends = {s.env: scale(s, primary if primary in RETURNS else "final") for s in comparison.tasks}
        spans = "; ".join(
            f"{s.env} {number(ends[s.env][0])} to {number(ends[s.env][1])}" + ("" if s.bounds else " (of these runs)")
            for s in comparison.tasks
            if not math.isnan(ends[s.env][0])
        )
        notes += [f"Normalised scores map these spans to 0 to 1: {spans}."] if spans else []
    return notes


def _cell(text: str) -> str:
    """Text within a table, whose cells | and line breaks would end."""
    return " ".join(text.replace("|", "¦").split())


# The whole -----------------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison, judgement: Judgement, books: LookBooks, tables: Sections) -> str:
    """The whole comparison as markdown, without the figures."""
    parts = []
    for title, lines in (
        ("Verdict", verdicts(judgement)),
        ("What was asked", declared(comparison, judgement, books)),
        ("How it was made", provenance(comparison)),
        ("About the runs", comparison.remarks),
    ):
        parts += [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []
    parts += ["## Tables", ""]
    for title, rows in tables:
        head, *rest = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows]
        parts += [f"### {title}", "", head, "|" + "---|" * len(rows[0]), *rest, ""]
    return "\n".join([*parts, *_footnotes(comparison, judgement)])


def plain(comparison: Comparison, judgement: Judgement) -> str:
    """The answer for the terminal: sentences first, one table of the primary measure, remarks."""
    lines = [line.replace("**", "") for line in verdicts(judgement)]
    parts = [textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    rows = [["environment", "arm", "n", "mean [95 %]", "IQM [95 %]", "difference", "p", "verdict"]]
    for r in judgement.results:
        if r.measure == judgement.question.primary and len(r.scores):
            p = corrected(r.against.p, r.against.alpha) if r.compared else ""
            word = "baseline" if r.arm == judgement.baseline else r.verdict.word if r.verdict else "no baseline here"
            difference = size(r, judgement) if r.compared else ""
            rows.append([r.env, r.arm, scored(r), str(r.mean), str(r.iqm), difference, p, word])
    rows[1:] = sorted(rows[1:], key=lambda row: row[0])
    if len(rows) <= MOST_ROWS:
        title = f"{judgement.question.primary}: {MEASURES[judgement.question.primary].meaning}"
        parts += ["", title, *(f"  {line}" for line in aligned(rows)), ""]
    shown = comparison.remarks[:MOST_REMARKS]
    parts += [f"note: {remark}" for remark in shown]
    more = len(comparison.remarks) - len(shown)
    return "\n".join(parts + ([f"note: {more} more notes are in compare.md"] if more else []))
