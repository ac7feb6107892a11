"""Columns of metrics.csv that rlexp itself fills, by which runs are judged: no objective may fill them in its place."""

from typing import Any

from rlexp.text import with_article

SEED, STEP, WALL_TIME = KEYS = ("seed", "step", "wall_time")
EPISODIC_RETURN, EPISODIC_LENGTH = CHARTS = ("episodic_return", "episodic_length")
OF_THE_RUN = ("episodes", "steps_per_second", "learning_rate")  # say little of a seed beside the others
LOSS, GRAD_NORM, EXPLAINED_VARIANCE, EPOCHS = OF_THE_UPDATE = ("loss", "grad_norm", "explained_variance", "epochs")
PARAMETER = "a parameter"  # beside the metrics: not finite where any of an agent's is not; no column
RESERVED = frozenset((*KEYS, *CHARTS, *OF_THE_RUN, *OF_THE_UPDATE, PARAMETER))


def flaw_of(name: Any) -> str:
    """What is wrong with the name of an objective's metric; nothing: it is good."""
    if not isinstance(name, str):
        return f"has {with_article(type(name).__name__)} for a name, wants text"
    if name in RESERVED:
        return f"is a column that rlexp itself fills; call it something else, as my_{name.replace(' ', '_')}"
    if not name.strip() or name != name.strip():
        return "has a name that is empty, or begins or ends with a space"
    if not name.isprintable() or any(mark in name for mark in ",;\"'"):
        return "has a comma, a quotation mark or a line break in its name, which is a column of metrics.csv"
    return ""
