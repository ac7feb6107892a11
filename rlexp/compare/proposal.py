"""plan=true: proposes how many seeds a study needs for its margin, and declares when it will be looked at."""

import math
from typing import NamedTuple

import numpy as np

from rlexp.compare.arms import STILL_COMING, Comparison, Task
from rlexp.compare.look_book import LookBook, LookBooks
from rlexp.compare.looks import SHARES
from rlexp.compare.permutation import smallest_p
from rlexp.compare.planning import POWER, Draw, Spread, like, looks_at, margin_for, power, seeds_for, spread
from rlexp.compare.question import Question
from rlexp.compare.results import Result
from rlexp.compare.verdict import ALPHA, FEWEST
from rlexp.errors import ConfigError
from rlexp.text import number


class Plan(NamedTuple):
    """How many seeds of each arm an environment gets."""

    seeds: int
    looks: list[int]  # at so many seeds each; the last is `seeds`
    alpha: float  # of a comparison at the last look
    spread: Spread
    draw: Draw  # of scores of the pilot's shape, with the deviation that is planned for
    enough: list[int | None]  # seeds that suffice at the low end of the deviation, as planned, and at the high end


def propose(
    comparison: Comparison, results: list[Result], tests: int, question: Question, books: LookBooks, most: int
) -> list[str]:
    """Plan every environment's number of seeds into the book; returns what to tell, which names no difference.

    Args:
        comparison: the pilot.
        results: its scores by the primary measure, of all arms.
        tests: comparisons that share the 5 %.
        question: with margins.
        books: looks of the studies.
        most: seeds per arm.

    Raises:
        ConfigError: nothing to compare, no margin, a verdict has been given already, or looks declared with fewer
            seeds; a pilot without spread or of single seeds; `most` is too few.
    """
    if not tests:
        raise ConfigError("plan=true: there is no arm to compare with the baseline; the pilot takes seeds of each arm")
    if most < FEWEST:
        raise ConfigError(f"most={most}: a verdict takes {FEWEST} seeds of each arm")
    lines, planned, constant, looks = [], [], {}, {}
    for task in comparison.all_tasks:
        _require_ended(task)
    for task in comparison.tasks:
        env, margin = task.env, question.margin(task.env)
        here = [r for r in results if r.env == env]
        pilot = max(r.seeds.own for r in here)
        for book in books.books:
            _require_undecided(env, margin, book, pilot)
        arms = [r.scores for r in here if len(r.scores) > 1]
        _require_several(env, arms, pilot)
        found = spread(arms)
        if not found.value > 0:
            constant[env] = pilot
            lines.append(f"{env}: all seeds of an arm score the same, so it does not affect how many it takes.")
            continue
        plan = _plan(arms, found, pilot, margin, tests, most)
        looks[env] = plan.looks, pilot
        planned.append(plan.seeds)
        counted = f"{tests} comparison{'s' * (tests > 1)}, a pilot of {pilot} seeds."
        lines += [f"{env}: margin {number(margin)} ({question.written[env]}), {_deviation(found)}, {counted}"]
        lines += [f"  {line}" for line in _told(plan, margin, most)]
        if more := plan.seeds - pilot:
            size = max(sample.agents for sample in task.samples)
            lost = [seed + size - 1 for seeds in task.absent.values() for seed in seeds]
            first = 1 + max([*lost, *(sample.last_seed for sample in task.samples)])
            lines.append(f"  To train them: the command of the study with seed={first} num_seeds={more} added.")
    if not planned:
        raise ConfigError(
            f"plan=true: all seeds of an arm score the same on {' and on '.join(task.env for task in comparison.tasks)}"
            f", so any number tells arms apart or none does; make the environment harder"
        )
    for env, pilot in constant.items():
        looks[env] = [max(*planned, pilot)], pilot
    if constant:
        lines.append(f"  Looked at there with the most seeds of the others, {max(planned)}.")
    for book in books.books:
        for env, (at, pilot) in looks.items():
            book.declare(env, at, pilot)
    where = " and ".join(str(book.path) for book in books.books)
    return [*lines, f"Declared in {where}. Compare as usual when they have ended."]


def _plan(arms: list[np.ndarray], found: Spread, pilot: int, margin: float, tests: int, most: int) -> Plan:
    """The fewest seeds that find the margin, `most` if those do not; looked at more than once where that can decide.

    Raises:
        ConfigError: `most` seeds cannot reach the level.
    """
    for share in (SHARES[3][-1], SHARES[1][-1]):  # of the last of several looks, then of a single one
        alpha = ALPHA / tests * share
        enough = [seeds_for(like(arms, s), margin, alpha, most) for s in (found.low, found.planned, found.high)]
        seeds = max(enough[1] or most, pilot, FEWEST)
        looks = _reachable(looks_at(seeds, pilot), tests)
        if SHARES[len(looks)][-1] == share:
            break
    if smallest_p([(seeds, seeds)], alpha) > alpha:
        raise ConfigError(
            f"plan=true: {seeds} seeds of each arm cannot tell arms apart over {tests} comparisons; raise most="
        )
    return Plan(seeds, looks, alpha, found, like(arms, found.planned), enough)


def _deviation(found: Spread) -> str:
    return f"deviation over seeds {number(found.value)} [{number(found.low)}, {number(found.high)}]"


def _told(plan: Plan, margin: float, most: int) -> list[str]:
    """What the plan promises, and when the study is looked at."""
    least, middle, highest = plan.enough
    span = " to ".join(dict.fromkeys(f"more than {most}" if n is None else str(n) for n in (least, highest)))
    if middle is None:
        smallest = number(margin_for(plan.draw, plan.seeds, plan.alpha, plan.spread.planned))
        chosen = f"{plan.seeds} seeds can do so for a margin of {smallest}; the study is planned with them."
    else:
        chance = power(plan.draw, plan.seeds, margin, plan.alpha)
        chosen = f"Planned: {plan.seeds}, with a chance of {chance.found:.0%} and {chance.equivalent:.0%}."
    shares = ", ".join(f"{5 * share:.3g} %" for share in SHARES[len(plan.looks)])
    when = f"Looks at {', '.join(map(str, plan.looks))} seeds, with {shares} as their risks of a false verdict."
    return [
        f"It takes {span} seeds per arm to find the margin, and equal arms equivalent, in {POWER:.0%} of studies.",
        chosen,
        f"{when} Seeds in between give no verdict.",
    ]


def _require_undecided(env: str, margin: float, book: LookBook, pilot: int) -> None:
    """Refuse a plan without a margin, after a verdict, or that could be chosen by what more seeds show."""
    looks = book.of(env)
    if math.isnan(margin):
        raise ConfigError(f"plan=true: {env} has no margin; give one, as in margin=5% or margin=25")
    if looks.taken:
        at = f"at {', '.join(map(str, looks.taken))} seeds"
        raise ConfigError(
            f"plan=true: the 5 % of {env} were spent {at} ({book.path}), and looks are declared before that; "
            f"plan a new study, with other seeds"
        )
    if looks.planned and looks.seen:
        at = ", ".join(map(str, looks.planned))
        raise ConfigError(
            f"plan=true: looks at {env} were declared for {at} seeds ({book.path}), and differences have been shown "
            f"since, by which others could be chosen. Train as planned, or plan a new study, with other seeds"
        )
    if looks.planned and pilot > looks.pilot:
        at = ", ".join(map(str, looks.planned))
        raise ConfigError(
            f"plan=true: looks at {env} were declared for {at} seeds ({book.path}) when there were {looks.pilot}; "
            f"with {pilot} seeds others could be chosen by what these show. Train as planned, or plan a new study"
        )


def _require_ended(task: Task) -> None:
    """Refuse a plan while seeds are still to come: it would count them as if they were known."""
    coming = sum(why in STILL_COMING for absent in task.absent.values() for why in absent.values())
    if coming:
        raise ConfigError(
            f"plan=true: {coming} seed{'s are' if coming > 1 else ' is'} still to come on {task.env}, so this is no "
            f"pilot yet; let them end, or plan by a pilot in a study of its own"
        )


def _require_several(env: str, arms: list[np.ndarray], pilot: int) -> None:
    """Refuse a pilot, of so many seeds, without an arm of several scores, as their spread is unknown."""
    if not arms and pilot > 1:
        raise ConfigError(
            f"plan=true: no arm on {env} has two seeds with a score by the primary measure; choose another"
        )
    if not arms:
        raise ConfigError(
            f"plan=true: {env} has no arm of two seeds, so their spread is unknown; train a pilot of 3 to 5"
        )


def _reachable(looks: list[int], tests: int) -> list[int]:
    """Without early looks whose few seeds cannot reach their share of the error."""
    while len(looks) > 1:
        level = ALPHA / tests * SHARES[len(looks)][0]
        if smallest_p([(looks[0], looks[0])], level) <= level:
            break
        looks = looks[1:]
    return looks
