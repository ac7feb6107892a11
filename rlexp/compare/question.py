"""The question that a comparison answers: its primary measure and margins, as declared before the runs."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlexp.compare.arms import Comparison, Task
from rlexp.compare.measures import RETURNS
from rlexp.config.declaration import PRIMARY, Declared, margin_flaw
from rlexp.config.schema import FinalEvaluation
from rlexp.errors import ConfigError
from rlexp.text import one_line

Margin = float | str  # in units of the score, or a share of the span, as "5%"


@dataclass(frozen=True)
class Question:
    """The primary measure, which alone gives verdicts, and the smallest differences that matter."""

    primary: str
    margins: dict[str, float] = field(default_factory=dict)  # by environment, in units of the score
    written: dict[str, str] = field(default_factory=dict)  # the same as declared: "5%" or "25"
    late: tuple[str, ...] = ()  # what was chosen after the runs, which declared otherwise

    def margin(self, env: str) -> float:
        """Smallest difference that matters on an environment; NaN if none was declared."""
        return self.margins.get(env, math.nan)

    def in_percent(self, env: str) -> bool:
        """Whether the margin is a share of the environment's span of scores."""
        return self.written.get(env, "").endswith("%")


def question_of(
    comparison: Comparison,
    primary: str | None = None,
    margin: Margin | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Question:
    """The question that the runs declared; settings of the command win, and are late if the runs declared otherwise.

    Args:
        comparison: the runs.
        primary: setting of the command.
        margin: setting of the command.
        recorded: looks.json: what the study was planned with, where neither runs nor command say.

    Raises:
        ConfigError: runs that declared different primary measures, or different margins on one environment; a margin in
            percent of a span that is not known.
    """
    measures = {d.primary for task in comparison.tasks for d in _declared(task)}
    if primary is None and len(measures) > 1:
        raise ConfigError(f"the runs declared different measures: choose one, as in primary={min(measures)}")
    late = []
    if primary is not None and measures - {primary}:
        late.append(f"primary={primary}, where the runs declared {', '.join(sorted(measures - {primary}))}")
    margins, written = {}, {}
    planned: Any = (recorded or {}).get("margins")
    planned = planned if isinstance(planned, Mapping) else {}
    chosen = primary or next(iter(measures), None) or _recorded_primary(recorded or {})
    for task in comparison.tasks:
        found = {_text(d.margin) for d in _declared(task) if d.margin is not None}
        if margin is None and len(found) > 1:
            raise ConfigError(
                f"{task.env}: the runs declared the margins {', '.join(sorted(found))}: choose margin=..."
            )
        text = _text(margin) if margin is not None else next(iter(found), _recorded_margin(planned, task.env))
        if margin is not None and found != {text} and _declared(task):
            late.append(f"margin={text}, where the runs on {task.env} declared {', '.join(sorted(found)) or 'none'}")
        if text:
            margins[task.env], written[task.env] = _in_units(task, text, chosen), text
    return Question(chosen, margins, written, tuple(dict.fromkeys(late)))


def _recorded_primary(recorded: Mapping[str, Any]) -> str:
    primary: Any = recorded.get("primary")
    return primary if primary in PRIMARY else Declared().primary


def _recorded_margin(margins: Mapping[str, Any], env: str) -> str:
    margin = margins.get(env)
    text = str(margin) if margin is not None else ""
    with contextlib.suppress(ValueError):
        return "" if margin_flaw(text if text.endswith("%") else float(text)) else text
    return ""


def to_record(comparison: Comparison, question: Question, baseline: str) -> dict[str, Any]:
    """What looks.json keeps of the question at the plan or the first answer."""
    margins = {task.env: question.written.get(task.env, "") for task in comparison.tasks}  # "": none
    content: dict[str, Any] = {"primary": question.primary, "margins": margins, "baseline": baseline}
    content["baseline_ids"] = {task.env: task.id_of(baseline) for task in comparison.tasks}
    if question.primary == "evaluation":
        content["evaluation"] = {task.env: told for task in comparison.tasks if (told := evaluated([task]))}
    if question.primary not in RETURNS:  # retention is counted from a threshold
        content["thresholds"] = {task.env: task.threshold for task in comparison.tasks}
    return content


def evaluated(tasks: Iterable[Task]) -> str:
    """How final policies were evaluated, as 20 episodes by the most likely actions."""
    settings = [sample.run.evaluated_with for task in tasks for sample in task.samples]
    usual = FinalEvaluation().max_steps
    ways = {
        f"{s.get('episodes')} episodes by {'the most likely' if s.get('deterministic') else 'sampled'} actions"
        + (f", of {s['max_steps']} steps at most" if s.get("max_steps", usual) != usual else "")
        for s in settings
        if s
    }
    return " or ".join(sorted(ways))


def against_records(question: Question, asked: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> Question:
    """The question, late where what is asked is not what each looks.json records of the plan or the first answer."""
    late = list(question.late)
    for recorded in records:
        late += [each for each in _otherwise(question, asked, recorded) if each not in late]
    return replace(question, late=tuple(late))


def _otherwise(question: Question, asked: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """What is asked otherwise than was recorded. An environment that is not in the record is new."""
    primary, baseline = recorded.get("primary"), asked["baseline"]
    former: Any = recorded.get("late")
    late = [one_line(str(each), 200) for each in former] if isinstance(former, list) else []
    for env, way, before in _changed(asked, recorded, "evaluation"):
        late.append(f"evaluation on {env} over {way}, where the study was shown by {before:.80}")
    if primary is not None and primary != question.primary and not any(x.startswith("primary=") for x in question.late):
        late.append(f"primary={question.primary}, where the study was planned or shown by {one_line(str(primary), 20)}")
    named = one_line(str(recorded.get("baseline", baseline)))
    ids: Any = recorded.get("baseline_ids")
    if _changed(asked, recorded, "baseline_ids") if isinstance(ids, Mapping) else named != baseline:
        settings = " of other settings" if named == baseline else ""
        late.append(f"baseline={baseline}, where arms were compared with {named:.40}{settings}")
    for env, text, before in _changed({"margins": question.written}, recorded, "margins"):
        if not any(f"the runs on {env} declared" in x for x in question.late):
            told = f"{before:.20}" or "no margin"
            late.append(f"margin={text} on {env}, where the study was planned or shown with {told}")
    for env, threshold, before in _changed(asked, recorded, "thresholds"):
        told = f"no threshold on {env}" if threshold == "None" else f"threshold={threshold} on {env}"
        late.append(f"{told}, where the study was planned or shown with {before:.20}")
    return late


def _changed(asked: Mapping[str, Any], recorded: Mapping[str, Any], key: str) -> list[tuple[str, str, str]]:
    """Environments of which both hold a value, another each, with both as text."""
    now, before = asked.get(key), recorded.get(key)
    if not (isinstance(now, Mapping) and isinstance(before, Mapping)):
        return []
    return [(env, _told(x), _told(before[env])) for env, x in now.items() if env in before and before[env] != x]


def _told(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else one_line(str(value))


def _declared(task: Task) -> Iterable[Declared]:
    return [sample.run.declared for sample in task.samples if sample.run.declared is not None]


def _text(margin: Margin) -> str:
    if isinstance(margin, str):
        return f"{float(margin.strip().rstrip('%')):.12g}%"
    return f"{margin:.12g}"


def _in_units(task: Task, text: str, primary: str) -> float:
    bounds = task.bounds if primary in RETURNS else (0.0, 1.0)  # retention is a share already
    value = Declared(margin=text if text.endswith("%") else float(text)).margin_within(bounds)
    if value is None:
        raise ConfigError(
            f"margin={text}: a share of the span from no skill to mastery, which is not known of {task.env}; add it "
            f"to rlexp/compare/reference_scores.py, train with env.bounds=[low,high], or give it in the score's units"
        )
    if bounds is not None and value >= bounds[1] - bounds[0]:
        raise ConfigError(
            f"margin={text}: is as wide as the span of {task.env}, {bounds[0]:g} to {bounds[1]:g}, so any two arms "
            f"would be equivalent; give a smaller one, as in margin=5%"
        )
    return value
