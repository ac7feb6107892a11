"""Methods of an objective that nothing calls, as `reward` for `rewards`."""

import inspect
import logging
from difflib import get_close_matches

from rlexp.algos.base import Algorithm
from rlexp.checks.location import refusal

log = logging.getLogger(__name__)
CLOSE = 0.8  # similarity of two names, from 0 to 1
HOOKS = (
    *("loss", "modules", "prepare", "rewards", "observe", "replay", "adapt", "coefficients"),
    *("state_dict", "load_state_dict", "check_population"),
)


def warn_if_hook_is_misspelt(algo: Algorithm) -> None:
    """Warn about a public method with nearly the name of a hook that the objective neither overrides nor calls."""
    theirs = [kind for kind in type(algo).__mro__ if not kind.__module__.startswith("rlexp.") and kind is not object]
    own = {name: value for kind in theirs for name, value in vars(kind).items() if not name.startswith("_")}
    hooks = [name for name in HOOKS if name not in own]
    for name, value in own.items():
        if name in HOOKS or not inspect.isroutine(value) or any(f".{name}" in _source(kind) for kind in theirs):
            continue
        if close := get_close_matches(name, hooks, 1, CLOSE):
            log.warning("%s", refusal(algo, name, f"rlexp does not call it; is {close[0]} meant?", f"def {name}"))


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # defined at a prompt
        return ""
