"""Search spaces: from Hydra's sweep syntax to Optuna's distributions, and from a trial's params to overrides."""

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    FloatRange,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import OverrideParseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rlexp.config.messages import explain
from rlexp.errors import ConfigError
from rlexp.sweep.tune.settings import SEARCH

Space = dict[str, BaseDistribution]


def space(overrides: Sequence[str], parser: OverridesParser) -> tuple[Space, list[str]]:
    """Split overrides into the search space, by key as typed, and fixed overrides; the last override of a key wins.

    Raises ConfigError for one that cannot be parsed, and for a sweep that is not in the table of README.md.
    """
    try:
        by_key = {o.get_key_element().lstrip("+~"): o for o in parser.parse_overrides([*overrides])}
    except OverrideParseException as error:
        raise ConfigError(explain(error, [*overrides])) from None
    searched = {x.get_key_element(): _distribution(x, parser) for x in by_key.values() if x.is_sweep_override()}
    return searched, [str(x.input_line) for x in by_key.values() if not x.is_sweep_override()]


def _distribution(override: Override, parser: OverridesParser) -> BaseDistribution:
    sweep, word = override.value(), override.input_line
    if getattr(sweep, "shuffle", False):
        raise ConfigError(f"{word}: the sampler decides the order; leave shuffle out")
    if isinstance(sweep, IntervalSweep):
        return _interval(sweep, f"{word}")
    if isinstance(sweep, RangeSweep | ChoiceSweep) and sweep.tags - {SEARCH}:
        how = "log, of intervals: tag(log,interval(1e-5,1e-2)); and search, of lists in a grid: tag(search,choice(a,b))"
        raise ConfigError(f"{word}: cannot have the tag {', '.join(sorted(sweep.tags - {SEARCH}))}; tags are {how}")
    if isinstance(sweep, RangeSweep):
        return _range(sweep, f"{word}")
    if isinstance(sweep, ChoiceSweep):
        return _choice(sweep, parser)
    raise ConfigError(f"{word}: list the names themselves, as in key=a,b,c")


def _interval(sweep: IntervalSweep, word: str) -> BaseDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if unknown := ", ".join(sorted(sweep.tags - {"log", SEARCH})):
        raise ConfigError(f"{word}: unknown tag {unknown}; there is log, as in key=tag(log,interval(1e-5,1e-2))")
    if low is None or high is None or not (low < high and math.isfinite(high - low)):
        raise ConfigError(f"{word}: is empty; give a lower and a higher bound, as in key=interval(0,1)")
    if log and low <= 0:
        raise ConfigError(f"{word}: {low} has no logarithm; start above 0, as in key=tag(log,interval(1e-5,1e-2))")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(sweep: RangeSweep, word: str) -> BaseDistribution:
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if start is None or stop is None or not step or not all(map(math.isfinite, (start, stop, step))):
        raise ConfigError(
            f"{word}: has no end; give a start, a stop and a step that is not 0, as in key=range(0,1,0.1)"
        )
    values = sweep.range()
    # the number that Hydra counts, which accumulates rounding error: range(0,0.9,0.3) includes 0.9
    count = len(values) if isinstance(values, range) else sum(1 for _ in values)
    if not count:
        raise ConfigError(f"{word}: is empty; the stop must be beyond the start, as in key=range(0,1,0.1)")
    first, each = Decimal(str(start)), Decimal(str(step))  # Optuna checks divisibility by the step in decimals
    low, high = sorted((first, first + (count - 1) * each))
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        return IntDistribution(int(low), int(high), step=abs(step))
    return FloatDistribution(float(low), float(high), step=abs(float(step)))


def _choice(sweep: ChoiceSweep, parser: OverridesParser) -> BaseDistribution:
    """Numbers, booleans and null as they are, all else as text in Hydra's syntax: Optuna stores no lists."""
    by_text = {_choice_text(x, parser): x for x in sweep.list}
    choices: list[Any] = [x if _is_plain(x) else text for text, x in by_text.items()]
    # Optuna compares choices by ==, by which 1, 1.0 and true are equal
    return CategoricalDistribution(choices if len(set(choices)) == len(choices) else [*by_text])


def _choice_text(choice: Any, parser: OverridesParser) -> str:
    text = Transformer.str(choice)
    if not isinstance(choice, str):
        return text
    with contextlib.suppress(OverrideParseException):
        (read,) = parser.parse_overrides([f"key={text}"])
        if not read.is_sweep_override() and read.value() == choice:
            return text
    return QuotedString(choice, Quote.single).with_quotes()  # choice('1') has lost its quotes


def _is_plain(choice: Any) -> bool:
    return choice is None or isinstance(choice, int) or (isinstance(choice, float) and math.isfinite(choice))


def as_trained(params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """A trial's params with the values it is trained with.

    Floats are rounded to six significant digits, for readable names. Values of an ascending range(...) are those that
    Hydra lists: 0.3, where Optuna's 3 · 0.1 is 0.30000000000000004; so a run has the same identity in a grid.
    """
    return {key: _round(value, space.get(key)) for key, value in params.items()}


def as_overrides(params: Mapping[str, Any], space: Mapping[str, BaseDistribution] | None = None) -> list[str]:
    """A trial's params as Hydra overrides, rounded as in `as_trained` if the space is given."""
    return [f"{key}={_text(value)}" for key, value in as_trained(params, space or {}).items()]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return value if isinstance(value, str) else repr(float(value) if isinstance(value, float) else int(value))


def _round(value: Any, distribution: BaseDistribution | None) -> Any:
    if not isinstance(distribution, FloatDistribution):
        return value
    if distribution.step is None:
        return min(max(float(f"{value:.6g}"), distribution.low), distribution.high)
    index = round((value - distribution.low) / distribution.step)
    return next(itertools.islice(FloatRange(distribution.low, math.inf, distribution.step), index, None))


def describe(distribution: BaseDistribution) -> str:
    """Describe a distribution, in Hydra's syntax where possible; equal only for equal distributions."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({','.join(map(_text, distribution.choices))})"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    whole = isinstance(distribution, IntDistribution)
    if distribution.step not in (None, 1) or (distribution.step and not whole):
        return f"{distribution.low} to {distribution.high} by {distribution.step}"
    interval = f"interval({distribution.low},{distribution.high})"
    interval = f"int({interval})" if whole else interval
    return f"tag(log,{interval})" if distribution.log else interval


def grid_size(space: Space) -> int:
    """Number of combinations of `grid`."""
    return math.prod(map(len, grid(space).values()))


def grid(space: Space) -> dict[str, list[Any]]:
    """The values of every key; raises ConfigError if they cannot be listed."""
    values: dict[str, list[Any]] = {}
    for key, x in space.items():
        if isinstance(x, CategoricalDistribution):
            values[key] = list(x.choices)
        elif isinstance(x, IntDistribution) and not x.log:
            values[key] = list(range(x.low, x.high + 1, x.step))
        elif isinstance(x, FloatDistribution) and x.step:
            count = round((x.high - x.low) / x.step) + 1
            values[key] = [float(Decimal(str(x.low)) + k * Decimal(str(x.step))) for k in range(count)]
        else:
            raise ConfigError(f"{key}={describe(x)}: a grid needs a list, as in {key}=1,2,4; or use sampler=random")
    return values
