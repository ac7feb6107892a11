"""Writes a comparison as text: for the terminal and as markdown."""

import math
import shlex
from collections.abc import Sequence

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.measures import MEASURES, steps_to
from rlexp.compare.published import Published, published_rows
from rlexp.compare.statistics import bounds
from rlexp.compare.verdict import ALPHA, Overall, Result, normalised_iqms, scale
from rlexp.text import aligned, number

MOST_SENTENCES = 6  # with more verdicts, one line per environment and verdict

Rows = list[list[str]]
Sections = Sequence[tuple[str, Rows]]  # titles and tables


def measure_rows(results: list[Result], baseline: str) -> Rows:
    """Header, then one row per arm, for one measure on one environment."""
    rows = [["arm", "n", "mean", "IQM [95 %]", "difference [95 %]", "p (Holm)", "P(better) [95 %]", "verdict"]]
    for r in results:
        cells = ["", "", "", "baseline" if r.arm == baseline else "no baseline here"]
        if r.verdict is not None:
            p = "–" if math.isnan(r.p_holm) else f"{r.p_holm:.2g}"
            better = f"{r.improvement.value:.2f}" + bounds(r.improvement.low, r.improvement.high)
            cells = [str(r.against), p, better, r.verdict]
        rows.append([r.arm, str(len(r.scores)), number(r.mean), str(r.iqm), *cells])
    return rows


def cost_rows(task: Task) -> Rows:
    """Steps to the threshold, and the cost of training."""
    rows = [["arm", "steps to threshold, median", "reached", "steps per seed", "seconds per run", "steps/s per run"]]
    for name, samples in task.arms.items():
        runs = {sample.run.folder: sample.run for sample in samples}.values()
        seconds = float(np.mean([run.seconds for run in runs]))
        steps = float(np.mean([sample.curve.steps[-1] for sample in samples]))
        rate = float(np.mean([steps * len(run.curves) / max(run.seconds, 1e-9) for run in runs]))
        cells = ["–", "–"]
        if task.threshold is not None:
            first = [steps_to(task.threshold, s.curve.steps, s.curve.returns) for s in samples]
            middle = float(np.median(first))
            reached = sum(map(math.isfinite, first))
            cells = ["–" if math.isinf(middle) else number(middle), f"{reached} of {len(first)}"]
        rows.append([name, *cells, number(steps), number(seconds), number(rate)])
    return rows


def sections(comparison: Comparison, baseline: str, results: list[Result], published: Published) -> Sections:
    """Every table with its title."""
    found = [("Published scores", published_rows(results, published))] if published else []
    for task in comparison.tasks:
        differing = [[key, *(str(values[name]) for name in task.arms)] for key, values in task.differing.items()]
        found.append((f"{task.env}: what differs", [["setting", *task.arms], *differing]))
        for name, measure in MEASURES.items():
            group = [r for r in results if r.env == task.env and r.measure == name and len(r.scores)]
            if group:
                found.append((f"{task.env}, {name}: {measure.meaning}", measure_rows(group, baseline)))
        found.append((f"{task.env}, cost", cost_rows(task)))
    if len(comparison.tasks) > 1:
        rows = [[name, str(envs), str(x)] for name, (envs, x) in normalised_iqms(comparison, results).items()]
        found.append(("all environments, final", [["arm", "environments", "normalised IQM [95 %]"], *rows]))
    return found


def verdicts(results: list[Result], overall: list[Overall], baseline: str) -> list[str]:
    """The verdicts on the final scores and over all environments, in sentences."""
    final = [r for r in results if r.measure == "final" and r.verdict is not None]
    areas = {(r.env, r.arm): r for r in results if r.measure == "area"}
    sentences = [sentence(r, baseline) + _area_sentence(areas[r.env, r.arm]) for r in final]
    lines = sentences if len(final) <= MOST_SENTENCES else _verdict_lines(final, baseline)
    return lines + [overall_sentence(o, baseline) for o in overall]


def sentence(r: Result, baseline: str) -> str:
    """The verdict on one final score, and what the number of seeds could have detected."""
    pair = f"{r.arm} against {baseline} on {r.env}: **inconclusive**"
    if math.isnan(r.against.p):
        return f"{pair}, a verdict needs at least two seeds per arm."
    if r.verdict != "inconclusive":
        return f"{r.arm} is **{r.verdict}** than {baseline} on {r.env}: {r.against}."
    if r.against.error == 0 and r.against.value == 0:
        return f"{pair}: every seed of both ended at {number(r.mean)}."
    more = r.seeds_to_settle
    settle = f"; one as small as this takes about {more} seeds per arm" if more else ""
    found = f"A difference of {number(r.detectable)} would be detected four times in five{settle}."
    return f"{pair}, {r.against}. {found}"


def _area_sentence(area: Result) -> str:
    """The verdict on the area under the learning curve, in brief."""
    return "" if math.isnan(area.against.p) else f" Over all of training: {area.verdict}, {area.against}."


def overall_sentence(o: Overall, baseline: str) -> str:
    """The verdict over all environments."""
    d = o.difference
    share = f"{100 * d.value:+.3g} % [{100 * d.low:.3g}, {100 * d.high:.3g}]"
    than = f"is **{o.verdict}** than {baseline}" if o.verdict != "inconclusive" else f"against {baseline}: inconclusive"
    return f"Over {o.envs} environments {o.arm} {than}: {share} of the span of scores, p = {d.p:.2g}."


def _verdict_lines(final: list[Result], baseline: str) -> list[str]:
    """One line per environment and verdict."""
    lines = []
    for env in dict.fromkeys(r.env for r in final):
        for verdict, word in (("better", "than"), ("worse", "than"), ("inconclusive", "against")):
            group = [r for r in final if r.env == env and r.verdict == verdict]
            if not group:
                continue
            arms = "; ".join(f"{r.arm} {r.against}" for r in group)
            lines.append(f"On {env} **{verdict}** {word} {baseline}: {arms}.")
            if verdict == "inconclusive" and not math.isnan(group[0].detectable):
                least, most = min(r.detectable for r in group), max(r.detectable for r in group)
                sizes = f"{number(least)} to {number(most)}"
                lines[-1] += f" Differences of {sizes} would be detected four times in five."
    return lines


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


def _footnotes(comparison: Comparison) -> list[str]:
    notes = [
        "The unit is the seed. IQM: mean of the middle half; bootstrap percentile interval, below 8 seeds and for the "
        "bands of curves the t-interval of a trimmed mean (Tukey and McLaughlin). "
        "Difference: of means, with Welch's interval (uncorrected) and test; p is Holm-corrected over all arms and "
        f"environments of a measure; a verdict needs p < {ALPHA}, and detectable differences account for the "
        "correction. "
        "P(better): a seed of the arm scores above one of the baseline, Newcombe's score interval.",
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


def markdown(comparison: Comparison, tables: Sections, sentences: list[str]) -> str:
    """The whole comparison as markdown, without the figures."""
    parts = []
    for title, lines in (
        ("Verdict", sentences),
        ("How it was made", provenance(comparison)),
        ("About the runs", comparison.remarks),
    ):
        parts += [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []
    parts += ["## Tables", ""]
    for title, rows in tables:
        head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
        parts += [f"### {title}", "", head, "|" + "---|" * len(rows[0]), *rest, ""]
    return "\n".join([*parts, *_footnotes(comparison)])


def plain(comparison: Comparison, tables: Sections, sentences: list[str]) -> str:
    """The same for the terminal: aligned columns, the verdict last."""
    parts = []
    for title, rows in tables:
        parts += [title, *(f"  {line}" for line in aligned(rows)), ""]
    parts += [f"note: {remark}" for remark in comparison.remarks]
    return "\n".join(parts + [line.replace("**", "") for line in sentences])
