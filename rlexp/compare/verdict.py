"""Judges every arm against the baseline: verdicts by the primary measure, intervals by the others."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from rlexp.compare import statistics
from rlexp.compare.arms import NEVER, STILL_COMING, Comparison
from rlexp.compare.decision import at_limit, decide
from rlexp.compare.look_book import LookBook, LookBooks
from rlexp.compare.looks import Seeds
from rlexp.compare.measures import MEASURES, RETURNS
from rlexp.compare.permutation import permutation_p, permutation_test, smallest_p
from rlexp.compare.question import Question
from rlexp.compare.results import ALPHA, Judgement, Overall, Pair, Result, Verdict, span
from rlexp.compare.scoring import check_limits, number_of, pairs_of, primary_scores, scores_by
from rlexp.errors import ConfigError

FEWEST = 5  # seeds of an arm for a verdict
TOO_FEW = "too few seeds"
Seen = dict[tuple[str, str], tuple[Seeds, ...]]  # environment, arm -> its seeds and the baseline's


def pick_baseline(comparison: Comparison, wanted: str | None, record: Mapping[str, Any] | None = None) -> str:
    """The arm that the others are compared with.

    Args:
        comparison: of the arms.
        wanted: its name, if one is.
        record: looks.json, whose baseline it is where neither a name nor an arm called ppo says otherwise.

    Raises:
        ConfigError: no arm has that name, it has no score yet, or several may be meant.
    """
    names = comparison.arm_names
    chosen = wanted or "ppo"
    waiting = [why for task in comparison.all_tasks for why in task.absent.get(chosen, {}).values()]
    if chosen not in names and any(why in STILL_COMING for why in waiting):
        raise ConfigError(
            f"{chosen}, the baseline, has no score yet ({', '.join(dict.fromkeys(waiting))}); let it end, or compare "
            f"with another arm, as in baseline={names[0]!r}"
        )
    if wanted is not None and wanted not in names:
        raise ConfigError(f"baseline={wanted}: no such arm; the arms are: {'; '.join(names)}")
    if chosen in names:
        return chosen
    ids: Any = (record or {}).get("baseline_ids")
    if isinstance(ids, Mapping):
        former = [name for task in comparison.tasks for name in task.arms if ids.get(task.env) == task.id_of(name)]
        if former:
            return former[0]
    of_ppo = [name for name in names if name.startswith("ppo ")]
    if len(of_ppo) > 1:
        raise ConfigError(f"which arm is the baseline? choose one of: {'; '.join(f'baseline={n!r}' for n in of_ppo)}")
    return (of_ppo or names)[0]


def judge(comparison: Comparison, baseline: str, question: Question, books: LookBooks) -> Judgement:
    """All results, and a verdict on every arm except the baseline; those are looks, which the books then hold.

    Raises:
        ConfigError: studies declare different looks.
    """
    check_limits(comparison)
    scored, compared = primary_scores(comparison, baseline, question)
    main = pairs_of(scored, baseline)
    others = [scores_by(comparison, baseline, measure) for measure in MEASURES if measure != question.primary]
    pairs = [pair for found in others for pair in pairs_of(found, baseline)]
    seen = _seen(main, pairs)
    for env in {env for env, _ in seen}:
        books.planned(env)  # or refused
    shares = {where: books.share(where[0], *seeds) for where, seeds in seen.items()}
    # what the first verdict left to each stays; an arm that comes later is said to
    tests, first = number_of(books.everything(compared)), number_of(books.first(compared))
    late = {(r.env, r.arm) for r, _ in main if books.late(r.env, r.seeds.id)}
    for r, base in main:
        share, why = shares[r.env, r.arm]
        shared = tests if (r.env, r.arm) in late else first
        _compare(r, base, ALPHA * share / shared)
        r.margin = question.margin(r.env)
        r.verdict = Verdict("interim", why) if why else _verdict(r, base, shared)
    secondary = max(len(pairs), books.secondary)
    for r, base in pairs:
        _compare(r, base, ALPHA * shares[r.env, r.arm][0] / secondary)
    arms = [r.arm for r, _ in main]
    several = [arm for arm in dict.fromkeys(arms) if arms.count(arm) > 1]
    overall = [_overall(arm, main, first, _not_final(arm, main, comparison, books)) for arm in several]
    results = [*scored, *(r for found in others for r in found)]
    answered = [r for r, _ in main if r.verdict and r.verdict.word != "interim"]
    added = [(r.env, r.arm) for r in answered if (r.env, r.arm) in late]
    early = {
        env: earlier
        for env in dict.fromkeys(r.env for r in answered)
        if (earlier := _early(env, answered, seen, books))
    }
    judgement = Judgement(question, baseline, results, overall, first, _lost(comparison, results), added, early)
    enough = {(r.env, r.arm) for r, base in (*main, *pairs) if _is_enough(r, base)}
    looks = {where for where in enough if not shares[where][1]}
    for book in books.books if seen else ():
        _record(book, books, judgement, seen, looks)
        book.show_arms(compared, secondary)
    return judgement


def _seen(main: list[Pair], pairs: list[Pair]) -> Seen:
    """Seeds of each arm and of the baseline that are looked at: by the primary measure, if too few have it by any."""
    seen: Seen = {}
    for r, base in (*main, *pairs):
        before = seen.setdefault((r.env, r.arm), (r.seeds, base.seeds))
        if min(len(x.scored) for x in before) < FEWEST:
            both = zip(before, (r, base), strict=True)
            seen[r.env, r.arm] = tuple(x._replace(scored=x.scored | y.seeds.scored) for x, y in both)
    return seen


def _early(env: str, answered: list[Result], seen: Seen, books: LookBooks) -> list[int]:
    """Of how many seeds differences were shown when there were fewer, before any plan."""
    now = [x for r in answered if r.env == env for x in seen[env, r.arm]]
    before = [(x, book.of(env).shown.get(x.id)) for book in books.books for x in books.own(book, now)]
    return sorted({shown[0] for x, shown in before if shown and shown[1] < x.own})


def _record(book: LookBook, books: LookBooks, judgement: Judgement, seen: Seen, looks: set[tuple[str, str]]) -> None:
    """Note in the book what is shown: differences, over environments too; and which arms were looked at."""
    main = [(r, judgement.baseline_of(r)) for r in judgement.primary]
    for o in judgement.overall:
        book.show_over(_key(o.arm, main))
        if o.verdict.word != "interim" and o.verdict.why != TOO_FEW:
            book.take_over(_key(o.arm, main))
            looks = looks | {where for where in seen if where[1] == o.arm}
    for where, pair in seen.items():
        own = books.own(book, pair)
        book.show(where[0], *own)
        if where in looks and own:
            book.take(where[0], *pair)


def _key(arm: str, main: list[Pair]) -> list[str]:
    """What a difference over environments is of."""
    return sorted(f"{r.env} {r.seeds.id}" for r, _ in main if r.arm == arm)


def _not_final(arm: str, main: list[Pair], comparison: Comparison, books: LookBooks) -> str:
    """Why there is no verdict over all environments yet, which is given once, at the last look at each of them."""
    pairs = {r.env: (r, base) for r, base in main if r.arm == arm}
    baseline = next(base.arm for _, base in pairs.values())
    coming = [
        task.env
        for task in comparison.all_tasks  # where this arm, or the baseline, has no score yet
        if task.env not in pairs and (arm in task.arms or arm in task.absent)
        if any(why in STILL_COMING for name in (arm, baseline) for why in task.absent.get(name, {}).values())
    ]
    if coming:
        return f"{', '.join(coming)} {'are' if len(coming) > 1 else 'is'} still to come"
    if why := _other_environments({*_key(arm, main)}, books):
        return why
    for env, pair in pairs.items():
        if (planned := books.planned(env)) and planned[-1] != max(x.seeds.own for x in pair):
            return f"a verdict over environments takes the last look at each, and {env} is not there yet"
    return ""


def _other_environments(key: set[str], books: LookBooks) -> str:
    """Why a verdict over environments is on others than it was given on, or on fewer than were shown before."""
    if any({*given} == key for given in books.overall):
        return ""
    if given := [given for given in books.overall if {*given} & key]:
        return f"the verdict over environments was given on {len(given[0])}; others take a study of their own"
    gone = [each.rsplit(" ", 1)[0] for shown in books.over if {*shown} & key for each in shown if each not in key]
    return f"{', '.join(dict.fromkeys(gone))}, shown before, is left out or of other runs" if gone else ""


def _is_enough(r: Result, base: Result) -> bool:
    """Whether the seeds could tell arms apart, so that this is a look at them."""
    return min(len(r.scores), len(base.scores)) >= FEWEST and not math.isnan(r.against.p)


def _lost(comparison: Comparison, results: list[Result]) -> dict[tuple[str, str], dict[int, str]]:
    """Arms none of whose seeds can be compared, though some ran: by environment and name, with the reasons."""
    scored = {(r.env, r.arm) for r in results if len(r.scores)}
    absent = {(task.env, arm): seeds for task in comparison.all_tasks for arm, seeds in task.absent.items()}
    ran = {
        key: {seed: why for seed, why in seeds.items() if why not in (*STILL_COMING, NEVER)}
        for key, seeds in absent.items()
        if key not in scored
    }
    return {key: seeds for key, seeds in ran.items() if seeds}


def _compare(r: Result, base: Result, alpha: float) -> None:
    """Add the differences from the baseline, with intervals at level 1 − alpha."""
    r.against = permutation_test([(r.scores, base.scores)], alpha)
    low, high = r.task.limits or (None, None)
    if r.measure in RETURNS and low is not None and high is not None:
        span = high - low  # no two means can be farther apart
        r.against = r.against._replace(low=max(r.against.low, -span), high=min(r.against.high, span))
    r.against_iqm = statistics.iqm_difference(r.scores, base.scores, alpha)
    r.improvement = statistics.probability_of_improvement(r.scores, base.scores, alpha)
    ranks = stats.rankdata(np.concatenate([r.scores, base.scores]))
    r.p_rank = permutation_p([(ranks[: len(r.scores)], ranks[len(r.scores) :])], alpha)


def _verdict(r: Result, base: Result, tests: int) -> Verdict:
    """Better, worse, equivalent or inconclusive, from the interval of the difference alone."""
    n, m = len(r.scores), len(base.scores)
    if min(n, m) < FEWEST:
        return Verdict("inconclusive", f"{TOO_FEW}: a verdict takes {FEWEST} of each arm")
    if math.isnan(r.against.p):
        shared = f"{tests} comparison{'s' * (tests > 1)}" + (
            " and later looks" if r.against.alpha < ALPHA / tests else ""
        )
        least = smallest_p([(n, m)], r.against.alpha)
        level = f"the level of {r.against.alpha:.2g} that {shared} leave{'s' * (tests == 1)}"
        return Verdict("inconclusive", f"{TOO_FEW}: p cannot be below {least:.2g}, and so never reaches {level}")
    limit = at_limit(r, base)
    return decide(r.against, r.margin, limit)


def _overall(arm: str, main: list[Pair], tests: int, not_final: str) -> Overall:
    """The mean over environments of the differences in shares of the span; tested with the rest.

    not_final: why it is interim, if it is.
    """
    pairs = [(r, base) for r, base in main if r.arm == arm]
    spans = [span(r) for r, _ in pairs]
    scores = [(r.scores / span, base.scores / span) for (r, base), span in zip(pairs, spans, strict=True)]
    against = permutation_test(scores, min([ALPHA / tests, *(r.against.alpha for r, _ in pairs)]))
    margin = float(np.mean([r.margin / span for (r, _), span in zip(pairs, spans, strict=True)]))
    seeds = _counted(pairs)
    interim = [r.verdict.why for r, _ in pairs if r.verdict and r.verdict.word == "interim"]
    interim += [not_final] if not_final else []
    if interim:
        return Overall(arm, len(pairs), seeds, against, margin, Verdict("interim", interim[0]))
    if min(min(len(r.scores), len(base.scores)) for r, base in pairs) < FEWEST or math.isnan(against.p):
        return Overall(arm, len(pairs), seeds, against, margin, Verdict("inconclusive", TOO_FEW))
    limits = [limit for r, base in pairs if (limit := at_limit(r, base))]
    where = {"one score": "nearly all seeds score the same"}.get(limits[0], limits[0]) if limits else ""
    limit = f"{where} on {len(limits)} of them" if limits else ""
    return Overall(arm, len(pairs), seeds, against, margin, decide(against, margin, limit))


def _counted(pairs: list[Pair]) -> str:
    """How many seeds were scored, over all environments, if some are missing or diverged."""
    parts = []
    for side in zip(*pairs, strict=True):
        scored, planned = sum(len(r.scores) for r in side), sum(r.planned for r in side)
        diverged = sum(r.diverged for r in side)
        told = f" ({diverged} diverged)" if diverged else ""
        parts.append(f"{scored} of {planned} seeds of {side[0].arm}{told}" if scored < planned or diverged else "")
    return " and ".join(filter(None, parts))
