"""Writes a comparison as text: for the terminal and as markdown."""

import math
import shlex

import numpy as np

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.measures import MEASURES, steps_to
from rlexp.compare.published import Published, published_rows
from rlexp.compare.statistics import Difference
from rlexp.compare.verdict import ALPHA, Overall, Result, normalised_iqms, scale
from rlexp.study.runs import Run
from rlexp.text import number, span

MOST_SENTENCES = 6  # with more verdicts, one line per environment and verdict

Rows = list[list[str]]


def measure_rows(results: list[Result], baseline: str) -> Rows:
    """Header, then one row per arm, for one measure on one environment."""
    rows = [["arm", "n", "mean", "IQM [95 %]", "difference [95 %]", "p (Holm)", "P(better) [95 %]", "verdict"]]
    for r in results:
        against, improvement = r.against, r.improvement
        iqm = number(r.iqm.value) + span(r.iqm.low, r.iqm.high)
        row = [r.arm, str(len(r.scores)), number(r.mean), iqm]
        if against is None or improvement is None:
            rows.append([*row, "", "", "", "baseline" if r.arm == baseline else "no baseline here"])
            continue
        rows.append(
            [
                *row,
                _size(r),
                "–" if math.isnan(r.p_holm) else f"{r.p_holm:.2g}",
                f"{improvement.value:.2f}" + span(improvement.low, improvement.high),
                str(r.verdict),
            ]
        )
    return rows


def cost_rows(task: Task) -> Rows:
    """Steps to the threshold, and the cost of training."""
    rows = [["arm", "steps to threshold, median", "reached", "steps per seed", "seconds per run", "steps/s per run"]]
    for name, arm in task.arms.items():
        runs = {sample.run.folder: sample.run for sample in arm.samples}.values()
        seconds = float(np.mean([run.seconds for run in runs]))
        steps = float(np.mean([sample.curve.steps[-1] for sample in arm.samples]))
        rates = [steps * len(run.curves) / max(run.seconds, 1e-9) for run in runs]
        cells = ["–", "–"]
        if task.threshold is not None:
            first = [steps_to(task.threshold, s.curve.steps, s.curve.returns) for s in arm.samples]
            middle = float(np.median(first))
            reached = sum(map(math.isfinite, first))
            cells = ["–" if math.isinf(middle) else number(middle), f"{reached} of {len(first)}"]
        rows.append([name, *cells, number(steps), number(seconds), number(float(np.mean(rates)))])
    return rows


def sentence(r: Result, baseline: str) -> str:
    """The verdict on one final score, and what the number of seeds could have detected."""
    pair = f"{r.arm} against {baseline} on {r.env}: **inconclusive**"
    if r.against is None:
        return ""
    if math.isnan(r.against.p):
        return f"{pair}, a verdict needs at least two seeds per arm."
    if r.verdict != "inconclusive":
        return f"{r.arm} is **{r.verdict}** than {baseline} on {r.env}: {_size(r)}."
    if r.against.error == 0 and r.against.value == 0:
        return f"{pair}: every seed of both ended at {number(r.mean)}."
    more = r.seeds_to_settle
    settle = f"; one as small as this takes about {more} seeds per arm" if more else ""
    found = f"A difference of {number(r.detectable)} would be detected four times in five{settle}."
    return f"{pair}, {_size(r)}. {found}"


def _area_sentence(area: Result | None) -> str:
    """The verdict on the area under the learning curve, in brief."""
    if area is None or area.against is None or math.isnan(area.against.p):
        return ""
    return f" Over all of training: {area.verdict}, {_size(area)}."


def overall_sentence(o: Overall, baseline: str) -> str:
    """The verdict over all environments."""
    d: Difference = o.difference
    share = f"{100 * d.value:+.3g} % [{100 * d.low:.3g}, {100 * d.high:.3g}]"
    than = f"is **{o.verdict}** than {baseline}" if o.verdict != "inconclusive" else f"against {baseline}: inconclusive"
    return f"Over {len(o.envs)} environments {o.arm} {than}: {share} of the span of scores, p = {d.p:.2g}."


def _differing_rows(task: Task) -> Rows:
    names = list(task.arms)
    rows = [[key, *(str(values[name]) for name in names)] for key, values in task.differing.items()]
    return [["setting", *names], *rows]


def _verdicts(results: list[Result], overall: list[Overall], baseline: str) -> list[str]:
    final = [r for r in results if r.measure == "final" and r.against is not None]
    areas = {(r.env, r.arm): r for r in results if r.measure == "area"}
    sentences = [sentence(r, baseline) + _area_sentence(areas.get((r.env, r.arm))) for r in final]
    lines = sentences if len(final) <= MOST_SENTENCES else _verdict_lines(final, baseline)
    return lines + [overall_sentence(o, baseline) for o in overall if len(o.envs) > 1]


def _verdict_lines(final: list[Result], baseline: str) -> list[str]:
    """One line per environment and verdict."""
    lines = []
    for env in dict.fromkeys(r.env for r in final):
        for verdict, word in (("better", "than"), ("worse", "than"), ("inconclusive", "against")):
            group = [r for r in final if r.env == env and r.verdict == verdict]
            if not group:
                continue
            arms = "; ".join(f"{r.arm} {_size(r)}" for r in group)
            lines.append(f"On {env} **{verdict}** {word} {baseline}: {arms}.")
            if verdict == "inconclusive" and not math.isnan(group[0].detectable):
                least, most = min(r.detectable for r in group), max(r.detectable for r in group)
                sizes = f"{number(least)} to {number(most)}"
                lines[-1] += f" Differences of {sizes} would be detected four times in five."
    return lines


def _size(r: Result) -> str:
    return f"{r.against.value:+.4g}{span(r.against.low, r.against.high)}" if r.against else ""


def _sections(
    comparison: Comparison, baseline: str, results: list[Result], published: Published
) -> list[tuple[str, Rows]]:
    sections = [("Published scores", published_rows(results, published))] if published else []
    for task in comparison.tasks:
        sections.append((f"{task.env}: what differs", _differing_rows(task)))
        for measure, (meaning, _) in MEASURES.items():
            group = [r for r in results if r.env == task.env and r.measure == measure and len(r.scores)]
            if group:
                sections.append((f"{task.env}, {measure}: {meaning}", measure_rows(group, baseline)))
        sections.append((f"{task.env}, cost", cost_rows(task)))
    if len(comparison.tasks) > 1:
        rows = [["arm", "environments", "normalised IQM [95 %]"]]
        for name, (envs, x) in normalised_iqms(comparison, results).items():
            rows.append([name, str(envs), number(x.value) + span(x.low, x.high)])
        sections.append(("all environments, final", rows))
    return sections


def provenance(comparison: Comparison) -> list[str]:
    """Provenance of the runs: commands, commits, machines, versions, amount of training."""
    arms = [arm for task in comparison.tasks for arm in task.arms.values()]
    runs = list({sample.run.folder: sample.run for arm in arms for sample in arm.samples}.values())
    lines = [f"`{command}`" for command in dict.fromkeys(_command(run) for run in runs) if command]
    for key, what in (("commit", "commit"), ("machine", "machine")):
        values = dict.fromkeys(run.record.get(key) for run in runs if run.record.get(key))
        lines += [f"{what} {', '.join(str(value)[:60] for value in values)}"] if values else []
    versions = dict.fromkeys(f"{k} {v}" for run in runs for k, v in run.record.get("versions", {}).items())
    lines += [", ".join(versions)] if versions else []
    steps = sum(float(sample.curve.steps[-1]) for arm in arms for sample in arm.samples)
    seconds = sum(run.seconds for run in runs)
    amount = f"{len(runs)} runs, {number(steps / 1e6)} million environment steps, {number(seconds / 60)} minutes"
    lines.append(f"{amount} of training")
    return lines


def _command(run: Run) -> str:
    words = run.record.get("command", [])
    return shlex.join(["python", "-m", "rlexp.train", *words[1:]]) if words else ""


def _footnotes(comparison: Comparison) -> list[str]:
    notes = [
        "The unit is the seed. IQM: mean of the middle half; bootstrap percentile interval, below 8 seeds and for the "
        "bands of curves the t-interval of a trimmed mean (Tukey and McLaughlin). "
        "Difference: of means, with Welch's interval (uncorrected) and test; p is Holm-corrected over all arms and "
        f"environments of a measure; a verdict needs p < {ALPHA}, and detectable differences account for the "
        "correction. "
        "P(better): a seed of the arm scores above one of the baseline, Newcombe's score interval.",
    ]
    if any(sample.run.share < 1 for task in comparison.tasks for arm in task.arms.values() for sample in arm.samples):
        notes.append("A run trained in a batch is charged its share of the batch's time.")
    if len(comparison.tasks) > 1:
        spans = "; ".join(
            f"{s.env} {number(scale(s)[0])} to {number(scale(s)[1])}" + ("" if s.bounds else " (of these runs)")
            for s in comparison.tasks
        )
        notes.append(f"Normalised scores map these spans to 0 to 1: {spans}.")
    return notes


def _markdown_table(rows: Rows) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def markdown(
    comparison: Comparison, baseline: str, results: list[Result], overall: list[Overall], published: Published
) -> str:
    """The whole comparison as markdown, without the figures."""
    verdicts = _verdicts(results, overall, baseline)
    parts = ["## Verdict", "", *(f"- {line}" for line in verdicts), ""] if verdicts else []
    parts += ["## How it was made", "", *(f"- {line}" for line in provenance(comparison)), ""]
    if comparison.remarks:
        parts += ["## About the runs", "", *(f"- {remark}" for remark in comparison.remarks), ""]
    parts += ["## Tables", ""]
    for title, rows in _sections(comparison, baseline, results, published):
        parts += [f"### {title}", "", _markdown_table(rows), ""]
    return "\n".join([*parts, *_footnotes(comparison)])


def plain(
    comparison: Comparison, baseline: str, results: list[Result], overall: list[Overall], published: Published
) -> str:
    """The same for the terminal: aligned columns, the verdict last."""
    parts = []
    for title, rows in _sections(comparison, baseline, results, published):
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        parts += [title, *(f"  {line}" for line in lines), ""]
    parts += [f"note: {remark}" for remark in comparison.remarks]
    parts += [line.replace("**", "") for line in _verdicts(results, overall, baseline)]
    return "\n".join(parts)
