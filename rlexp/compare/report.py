"""Writes a comparison as text: for the terminal and as markdown."""

import math
import shlex
import textwrap
from collections.abc import Sequence

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.looks import LookBook
from rlexp.compare.measures import EXPOSURE, MEASURES, exposure, steps_to
from rlexp.compare.published import Published, published_rows
from rlexp.compare.statistics import Interval, bounds
from rlexp.compare.verdict import ALPHA, Judgement, Overall, Result, floor, normalised_iqms, scale
from rlexp.text import aligned, number

MOST_SENTENCES = 6  # with more verdicts, one line per environment and verdict
MOST_ROWS = 24  # of the terminal's table; with more it is only in the files
MOST_REMARKS = 6  # on the terminal
WIDTH = 120  # characters of its lines
ORDER = ("better", "worse", "equivalent", "inconclusive", "interim")

Rows = list[list[str]]
Sections = Sequence[tuple[str, Rows]]  # titles and tables


# Sentences -----------------------------------------------------------------------------------------------------------


def verdicts(judgement: Judgement) -> list[str]:
    """The answer: one sentence per arm and environment, or one per environment and verdict if they are many."""
    found = judgement.primary
    if len(found) <= MOST_SENTENCES:
        lines = [sentence(r, judgement) for r in found]
    else:
        lines = _verdict_lines(found, judgement)
    overall = [overall_sentence(o, judgement) for o in judgement.overall]
    return (lines + overall if len(found) <= MOST_SENTENCES else overall + lines) + _reservations(judgement)


def _nothing_compared(judgement: Judgement) -> str:
    """Why there is no verdict at all; empty if there is one."""
    primary = judgement.question.primary
    if judgement.primary:
        return ""
    scored = [m for m in MEASURES if any(r.measure == m and len(r.scores) for r in judgement.results)]
    if primary in scored:
        return f"There is nothing to compare with {judgement.baseline}: no other arm has a score on its environments."
    remedy = {
        "evaluation": "train with evaluation.episodes, or run python -m rlexp.evaluate run=... on each run",
        "evaluation_sampled": "train with evaluation.every",
        "retention": "no seed reached the threshold early enough, or log_every is too large",
    }.get(primary, "train longer")
    others = f"; or choose one that the runs have, as in primary={scored[0]}" if scored else ""
    return f"No seed has a score by the primary measure, {primary}: {remedy}{others}."


def sentence(r: Result, judgement: Judgement) -> str:
    """The verdict on one arm, and in the same sentence what the other measures say."""
    parts = [f"{_claim(r, judgement)}: {_size(r, judgement)}, {_seeds(r, judgement)}"]
    if r.verdict and r.verdict.why:
        parts.append(_why(r, judgement))
    if r.ranks_differ:
        share = f"{r.improvement.value:.0%}{_percent(r.improvement)}"
        parts.append(
            f"by ranks they differ (p = {r.p_rank:.2g}): a seed of {r.arm} is above one of the baseline in {share}"
        )
    others = judgement.secondary(r)
    if apart := [other for other in others if _disagrees(r, other)]:
        parts.append("but " + ", ".join(f"{x.measure} is {_direction(x)}, {x.against}" for x in apart))
    if rest := [other for other in others if other not in apart and other.measure != "retention"]:
        parts.append("secondary: " + ", ".join(f"{x.measure} {x.against}" for x in rest))
    return "; ".join(parts) + "."


def _claim(r: Result, judgement: Judgement) -> str:
    word, within = (r.verdict.word, r.verdict.within) if r.verdict else ("inconclusive", False)
    if word in ("better", "worse"):
        margin = f" (within {_margin(r, judgement)})" if within else ""
        return f"{r.arm} is **{word}** than {judgement.baseline} on {r.env}{margin}"
    if word == "equivalent":
        return f"{r.arm} is **equivalent** to {judgement.baseline} on {r.env} within {_margin(r, judgement)}"
    return f"{r.arm} against {judgement.baseline} on {r.env} is **{word}**"


def _margin(r: Result, judgement: Judgement) -> str:
    written = judgement.question.written.get(r.env, "")
    return written.replace("%", " %") if written.endswith("%") else number(r.margin)


def _size(r: Result, judgement: Judgement) -> str:
    """The difference and its interval, in percent of the span if the margin is."""
    d = r.against
    if not judgement.question.in_percent(r.env):
        return str(d)
    low, high = scale(r.task)
    value, least, most = (100 * x / (high - low) for x in (d.value, d.low, d.high))
    return f"{value:+.3g} %{bounds(least, most)}"


def _seeds(r: Result, judgement: Judgement) -> str:
    """How many seeds of each arm were scored, of how many; and how many of them diverged."""
    base = next(x for x in judgement.results if (x.env, x.measure, x.arm) == (r.env, r.measure, judgement.baseline))
    counts = [_count(x) for x in (r, base)]
    plural = "" if counts[0] == "1" else "s"
    text = (
        f"{counts[0]} seed{plural} each" if counts[0] == counts[1] else f"{counts[0]} seed{plural} against {counts[1]}"
    )
    for x in (r, base):
        if x.diverged:
            low = floor(x.task)
            scored = number(low if low is not None else float(x.scores.min()))
            text += f" ({x.diverged} of {x.arm} diverged and scored {scored})"
    return text


def _why(r: Result, judgement: Judgement) -> str:
    why = r.verdict.why if r.verdict else ""
    if why == "one score":
        return "nearly all seeds of both arms score exactly the same, as at a limit, where no difference can show"
    if why in ("ceiling", "floor"):
        return f"{why}: nearly all seeds of both arms are at it, where no difference can show"
    return why


def _disagrees(r: Result, other: Result) -> bool:
    """Whether a secondary measure tells arms apart where the primary one does not, or the other way round."""
    return other.differs and not (r.differs and (r.against.value > 0) == (other.against.value > 0))


def _direction(r: Result) -> str:
    return "higher" if r.against.value > 0 else "lower"


def _percent(x: Interval) -> str:
    return "" if math.isnan(x.low) else f" of pairs [{100 * x.low:.0f}, {100 * x.high:.0f}]"


def _verdict_lines(found: list[Result], judgement: Judgement) -> list[str]:
    """One line per environment and verdict, with the arms of that verdict."""
    lines = []
    for env in dict.fromkeys(r.env for r in found):
        for word in ORDER:
            group = [r for r in found if r.env == env and r.verdict and r.verdict.word == word]
            by_why: dict[str, list[Result]] = {}
            for r in group:
                by_why.setdefault(_why(r, judgement), []).append(r)
            for why, same in by_why.items():
                than = {"better": "than", "worse": "than", "equivalent": "to"}.get(word, "against")
                margin = f" within {_margin(same[0], judgement)}" if word == "equivalent" else ""
                head = f"On {env} **{word}** {than} {judgement.baseline}{margin}" + (f" ({why})" if why else "")
                lines.append(f"{head}: " + "; ".join(_short(r, judgement) for r in same) + ".")
    return lines


def _short(r: Result, judgement: Judgement) -> str:
    parts = [f"{r.arm} {_size(r, judgement)}"]
    if r.missing or r.diverged:
        parts.append(_seeds(r, judgement))
    if r.verdict and r.verdict.within:
        parts.append(f"within {_margin(r, judgement)}")
    if r.ranks_differ:
        parts.append(f"by ranks they differ, p = {r.p_rank:.2g}")
    parts += [f"but {x.measure} {x.against}" for x in judgement.secondary(r) if _disagrees(r, x)]
    return ", ".join(parts)


def overall_sentence(o: Overall, judgement: Judgement) -> str:
    """The verdict over all environments."""
    d, word = o.against, o.verdict.word
    share = f"{100 * d.value:+.3g} %{bounds(100 * d.low, 100 * d.high)} of the span of scores"
    within = f" within {100 * o.margin:.3g} %" if word == "equivalent" or o.verdict.within else ""
    if word in ("better", "worse", "equivalent"):
        claim = f"{o.arm} is **{word}** {'to' if word == 'equivalent' else 'than'} {judgement.baseline}{within}"
    else:
        claim = f"{o.arm} against {judgement.baseline} is **{word}**" + (f" ({o.verdict.why})" if o.verdict.why else "")
    seeds = f", from {o.seeds}" if o.seeds else ""
    return f"Over {o.envs} environments {claim}: {share}{seeds}."


def _reservations(judgement: Judgement) -> list[str]:
    """What a reader has to know of all verdicts together."""
    question = judgement.question
    lines = [f"Chosen after the runs: {late}." for late in question.late]
    lines += [why] if (why := _nothing_compared(judgement)) else []
    for (env, arm), absent in judgement.lost.items():
        reasons = [*absent.values()]
        counts = ", ".join(f"{reasons.count(why)} {why}" for why in dict.fromkeys(reasons))
        lines.append(f"{arm} on {env} has no seed to compare: {counts}. That is an outcome too, without a verdict.")
    if judgement.primary and not question.margins:
        lines.append(
            "No margin was declared, so no arm can be called equivalent: declare one with the "
            "study, as margin=5% (of the span of scores) or a number."
        )
    return lines


# Tables --------------------------------------------------------------------------------------------------------------


def measure_rows(results: list[Result], judgement: Judgement) -> Rows:
    """Header, then one row per arm, for one measure on one environment."""
    primary = bool(results) and results[0].measure == judgement.question.primary
    rows = [["arm", "n", "mean [95 %]", "IQM [95 %]", "difference", "p", "of IQMs", "P(better)", "p by ranks"]]
    rows[0] += ["verdict"] if primary else []
    for r in results:
        count = _count(r)
        cells = ["baseline" if r.arm == judgement.baseline else "no baseline here", "", "", "", ""]
        if r.compared:
            better = f"{r.improvement.value:.2f}" + bounds(r.improvement.low, r.improvement.high)
            d, of_iqms = r.against, r.against_iqm
            cells = [str(d), _corrected(d.p, d.alpha), f"{of_iqms.value:+.4g}{bounds(of_iqms.low, of_iqms.high)}"]
            cells += [better, _corrected(r.p_rank, d.alpha)]
        word = "" if r.verdict is None else r.verdict.word + (" (within the margin)" if r.verdict.within else "")
        rows.append([r.arm, count, str(r.mean), str(r.iqm), *cells, *([word] if primary else [])])
    return rows


def _count(r: Result) -> str:
    return str(len(r.scores)) + (f" of {r.planned}" if r.missing else "")


def _corrected(p: float, alpha: float) -> str:
    return "–" if math.isnan(p) else f"{min(1.0, p * ALPHA / alpha):.2g}"


def cost_rows(task: Task) -> Rows:
    """Steps to the threshold, what became of the seeds, and the cost of training."""
    late = f"with {EXPOSURE:.0%} of training left"
    head = [
        "arm",
        "steps to threshold, median",
        "reached it",
        late,
        "steps per seed",
        "seconds per run",
        "steps/s per run",
    ]
    rows = [head]
    for name, samples in task.arms.items():
        runs = {sample.run.folder: sample.run for sample in samples}.values()
        seconds = float(np.mean([run.seconds for run in runs]))
        steps = float(np.mean([sample.curve.steps[-1] for sample in samples]))
        rate = float(np.mean([steps * len(run.curves) / max(run.seconds, 1e-9) for run in runs]))
        cells = ["–", "–", "–"]
        if task.threshold is not None:
            first = [steps_to(task.threshold, s.curve.steps, s.curve.returns) for s in samples]
            middle, total = float(np.median(first)), len(first) + len(task.absent.get(name, {}))
            early = sum(exposure(task.threshold, s.curve) is not None for s in samples)
            reached = sum(map(math.isfinite, first))
            cells = ["–" if math.isinf(middle) else number(middle), f"{reached} of {total}", f"{early} of {total}"]
        rows.append([name, *cells, number(steps), number(seconds), number(rate)])
    return rows


def sections(comparison: Comparison, judgement: Judgement, published: Published) -> Sections:
    """Every table with its title."""
    found = [("Published scores", published_rows(comparison, published))] if published else []
    measures = list(dict.fromkeys(r.measure for r in judgement.results))
    for task in comparison.tasks:
        differing = [[key, *(str(values[name]) for name in task.arms)] for key, values in task.differing.items()]
        found.append((f"{task.env}: what differs", [["setting", *task.arms], *differing]))
        for name in measures:
            group = [r for r in judgement.results if r.env == task.env and r.measure == name and len(r.scores)]
            if group:
                role = "primary" if name == judgement.question.primary else "secondary"
                title = f"{task.env}, {name} ({role}): {MEASURES[name].meaning}"
                found.append((title, measure_rows(group, judgement)))
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


def declared(comparison: Comparison, judgement: Judgement, book: LookBook) -> list[str]:
    """What the study asked: primary measure, margins, looks, and how the 5 % is shared."""
    question = judgement.question
    lines = [f"primary measure: {question.primary}, {MEASURES[question.primary].meaning}"]
    for task in comparison.tasks:
        margin, looks = question.margin(task.env), book.of(task.env)
        parts = [] if math.isnan(margin) else [f"margin ±{number(margin)} ({question.written[task.env]})"]
        parts += [f"declared looks at {', '.join(map(str, looks.planned))} seeds"] if looks.planned else []
        lines += [f"{task.env}: {'; '.join(parts)}"] if parts else []
    tests = judgement.tests
    shared = f"shared by {tests} comparisons" if tests > 1 else "for one comparison"
    return [
        *lines,
        f"5 % of false verdicts, {shared}: intervals of primary differences cover all true ones in 95 % of studies",
    ]


def _footnotes(comparison: Comparison, judgement: Judgement) -> list[str]:
    notes = [
        "The unit is the seed. Difference: of means, with the interval that inverts a studentised permutation test, at "
        "level 1 − 5 %/k for the k comparisons by the primary measure (less at declared looks) and 1 − 5 %/k' for the "
        "k' by all others; p is multiplied accordingly. Of IQMs: interquartile means, by the Bayesian bootstrap. "
        "P(better): a seed of the arm scores above one of the baseline, Newcombe's score interval; p by ranks: the "
        "same permutation test of the ranks. The formulas are in rlexp/compare/README.md.",
    ]
    if any(sample.run.share < 1 for task in comparison.tasks for sample in task.samples):
        notes.append("A run trained in a batch is charged its share of the batch's time.")
    if len(comparison.tasks) > 1:
        spans = "; ".join(
            f"{s.env} {number(scale(s)[0])} to {number(scale(s)[1])}" + ("" if s.bounds else " (of these runs)")
            for s in comparison.tasks
        )
        notes.append(f"Normalised scores map these spans to 0 to 1: {spans}.")
    return notes


# The whole -----------------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison, judgement: Judgement, book: LookBook, tables: Sections) -> str:
    """The whole comparison as markdown, without the figures."""
    parts = []
    for title, lines in (
        ("Verdict", verdicts(judgement)),
        ("What was asked", declared(comparison, judgement, book)),
        ("How it was made", provenance(comparison)),
        ("About the runs", comparison.remarks),
    ):
        parts += [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []
    parts += ["## Tables", ""]
    for title, rows in tables:
        head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
        parts += [f"### {title}", "", head, "|" + "---|" * len(rows[0]), *rest, ""]
    return "\n".join([*parts, *_footnotes(comparison, judgement)])


def plain(comparison: Comparison, judgement: Judgement) -> str:
    """The answer for the terminal: sentences first, one table of the primary measure, remarks."""
    lines = [line.replace("**", "") for line in verdicts(judgement)]
    parts = [textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    rows = [["environment", "arm", "n", "mean [95 %]", "IQM [95 %]", "difference", "p", "verdict"]]
    for r in judgement.results:
        if r.measure == judgement.question.primary and len(r.scores):
            p = _corrected(r.against.p, r.against.alpha) if r.compared else ""
            word = "baseline" if r.arm == judgement.baseline else r.verdict.word if r.verdict else "no baseline here"
            difference = _size(r, judgement) if r.compared else ""
            rows.append([r.env, r.arm, _count(r), str(r.mean), str(r.iqm), difference, p, word])
    rows[1:] = sorted(rows[1:], key=lambda row: row[0])
    if len(rows) <= MOST_ROWS:
        title = f"{judgement.question.primary}: {MEASURES[judgement.question.primary].meaning}"
        parts += ["", title, *(f"  {line}" for line in aligned(rows)), ""]
    shown = comparison.remarks[:MOST_REMARKS]
    parts += [f"note: {remark}" for remark in shown]
    more = len(comparison.remarks) - len(shown)
    return "\n".join(parts + ([f"note: {more} more notes are in compare.md"] if more else []))
