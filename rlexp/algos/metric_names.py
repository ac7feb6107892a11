"""Columns of metrics.csv that rlexp writes itself; objectives must not log metrics of these names."""

from typing import Any

from rlexp.text import with_article

SEED, STEP, WALL_TIME = KEYS = ("seed", "step", "wall_time")
CHARTS = ("episodic_return", "episodic_length", "row_return")
EVALUATIONS = ("evaluation_return", "evaluation_return_sampled")
OF_THE_RUN = ("episodes", "steps_per_second", "learning_rate")  # not informative per seed
LOSS, GRAD_NORM, EXPLAINED_VARIANCE, EPOCHS = OF_THE_UPDATE = ("loss", "grad_norm", "explained_variance", "epochs")
PARAMETER = "a parameter"  # not a column: NaN or infinite if any of the agent's parameters is
OF_COMPARE = ("env", "arm", "outcome", "run")  # columns beside them in its last_rows.csv
RESERVED = frozenset((*KEYS, *CHARTS, *EVALUATIONS, *OF_THE_RUN, *OF_THE_UPDATE, *OF_COMPARE, PARAMETER))


def invalid_name(name: Any) -> str:
    """Why this cannot be the name of an objective's metric; empty if it can."""
    if not isinstance(name, str):
        return f"has {with_article(type(name).__name__)} as its name, expected a string"
    if name in RESERVED:
        return f"is a column that rlexp writes itself; rename it, e.g. my_{name.replace(' ', '_')}"
    if not name.strip() or name != name.strip():
        return "has a name that is empty, or starts or ends with a space"
    if not name.isprintable() or any(mark in name for mark in ",;\"'"):
        return "has a comma, a quotation mark or a line break in its name, which is a column of metrics.csv"
    return ""
