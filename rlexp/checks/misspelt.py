"""Methods of an objective that nothing calls, as `reward` for `rewards`."""

import logging
from difflib import get_close_matches

from rlexp.algos.base import Algorithm
from rlexp.checks.location import refusal

log = logging.getLogger(__name__)
CLOSE = 0.8  # similarity of two names, from 0 to 1


def warn_if_hook_is_misspelt(algo: Algorithm) -> None:
    """Warn about a public method with nearly the name of a hook that the objective does not override."""
    kinds = type(algo).__mro__
    theirs = [kind for kind in kinds if not kind.__module__.startswith("rlexp.") and kind is not object]
    hooks = {name for kind in kinds if kind not in theirs for name in vars(kind) if not name.startswith("_")}
    own = {name: value for kind in theirs for name, value in vars(kind).items()}
    for name, value in own.items():
        if name in hooks or name.startswith("_") or not (callable(value) or isinstance(value, property)):
            continue
        if close := get_close_matches(name, sorted(hooks - own.keys()), 1, CLOSE):
            log.warning("%s", refusal(algo, name, f"rlexp does not call it; is {close[0]} meant?", f"def {name}"))
