"""What a study declared before it ran: the primary measure, and the smallest difference that matters."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from rlexp.compare.arms import Comparison, Task
from rlexp.errors import ConfigError

PRIMARY = "evaluation"  # where nothing was declared


@dataclass(frozen=True)
class Question:
    """The question that the comparison answers."""

    primary: str  # the measure that alone gives verdicts
    margins: dict[str, float] = field(default_factory=dict)  # by environment, in units of the score; NaN: none declared
    written: dict[str, str] = field(default_factory=dict)  # the same as declared: "5%" or "25"
    late: tuple[str, ...] = ()  # what was chosen after the runs, though they declared otherwise

    def margin(self, env: str) -> float:
        """Smallest difference that matters on an environment; NaN if none was declared."""
        return self.margins.get(env, math.nan)


def question_of(comparison: Comparison, primary: str | None = None, margin: str | None = None) -> Question:
    """The question that the runs declared; settings of the command win and are noted as late if they differ.

    Raises:
        ConfigError: runs of one study that declared different primary measures, or of one environment different
            margins; a margin in percent of unknown bounds.
    """
    late = []
    declared = {d.primary for task in comparison.tasks for d in _declared(task)}
    if primary is None and len(declared) > 1:
        raise ConfigError(
            f"the runs declared different primary measures: {', '.join(sorted(declared))}; primary=... chooses"
        )
    if primary is not None and declared and declared != {primary}:
        late.append(f"primary={primary} was chosen after the runs, which declared {', '.join(sorted(declared))}")
    margins, written = {}, {}
    for task in comparison.tasks:
        found = {str(d.margin) for d in _declared(task) if d.margin is not None}
        if margin is None and len(found) > 1:
            raise ConfigError(
                f"{task.env}: the runs declared different margins: {', '.join(sorted(found))}; margin=... chooses"
            )
        text = margin if margin is not None else next(iter(found), None)
        if margin is not None and found != {margin} and _declared(task):
            late.append(
                f"{task.env}: margin={margin} was chosen after the runs, which declared {', '.join(found) or 'none'}"
            )
        if text is not None:
            margins[task.env], written[task.env] = _in_units(task, text), text
    return Question(primary or next(iter(declared), PRIMARY), margins, written, tuple(dict.fromkeys(late)))


def _declared(task: Task) -> Iterable:
    return [sample.run.declared for sample in task.samples if sample.run.declared is not None]


def _in_units(task: Task, text: str) -> float:
    """A margin in units of the score: of a number, or of a share of the environment's span."""
    if not text.endswith("%"):
        return float(text)
    if task.bounds is None:
        raise ConfigError(
            f"margin={text}: a share of the span of scores, but the bounds of {task.env} are not known; set "
            f"env.bounds=[low,high], or a margin in units of the score"
        )
    return float(text[:-1]) / 100 * (task.bounds[1] - task.bounds[0])
