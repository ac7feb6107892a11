"""Judges every arm against the baseline: verdicts by the primary measure, intervals by the others."""

import math

import numpy as np
from scipy import stats

from rlexp.compare import statistics
from rlexp.compare.arms import Comparison
from rlexp.compare.decision import at_limit, decide
from rlexp.compare.look_book import LookBook
from rlexp.compare.looks import Seeds, spans
from rlexp.compare.measures import MEASURES, RETURNS
from rlexp.compare.permutation import permutation_p, permutation_test, smallest_p
from rlexp.compare.question import Question
from rlexp.compare.results import ALPHA, Judgement, Overall, Result, Verdict, span
from rlexp.compare.scoring import check_limits, number_of, pairs_of, primary_scores, scores_by
from rlexp.errors import ConfigError

FEWEST = 5  # seeds of an arm for a verdict
TOO_FEW = "too few seeds"
STILL_COMING = ("running", "waiting", "interrupted")  # reasons of missing seeds that may yet have a score
GIVEN_UP = ("never ran", "killed")  # reasons that may be a choice, by what the other seeds have shown


def pick_baseline(comparison: Comparison, wanted: str | None) -> str:
    """The arm that the others are compared with; a ConfigError if none has that name, or several may be meant."""
    names = comparison.arm_names
    if wanted is not None and wanted not in names:
        raise ConfigError(f"baseline={wanted}: no such arm; the arms are: {'; '.join(names)}")
    if wanted is not None or "ppo" in names:
        return wanted or "ppo"
    of_ppo = [name for name in names if name.startswith("ppo ")]
    if len(of_ppo) > 1:
        raise ConfigError(f"which arm is the baseline? choose one of: {'; '.join(f'baseline={n!r}' for n in of_ppo)}")
    return (of_ppo or names)[0]


def judge(comparison: Comparison, baseline: str, question: Question, book: LookBook) -> Judgement:
    """All results, and a verdict on every arm except the baseline; those are looks, which the book then holds."""
    check_limits(comparison)
    scored, compared = primary_scores(comparison, baseline, question)
    main = pairs_of(scored, baseline)
    seeds = {env: max(r.planned for r in scored if r.env == env) for env in {r.env for r in scored}}
    # what the first verdict left to each stays; an arm that comes later is said to
    tests = number_of(book.everything(compared))
    first = number_of(book.compared) if book.judged and book.shown else tests
    late = [(r.env, r.arm) for r, _ in main if book.late(r.env, comparison.id_of(r.env, r.arm))]
    for r, base in main:
        share, why = _share(r, base, comparison, book, seeds[r.env])
        shared = tests if (r.env, r.arm) in late else first
        _compare(r, base, ALPHA * share / shared)
        r.margin = question.margin(r.env)
        r.verdict = Verdict("interim", why) if why else _verdict(r, base, shared)
    others = [scores_by(comparison, baseline, measure) for measure in MEASURES if measure != question.primary]
    pairs = [pair for found in others for pair in pairs_of(found, baseline)]
    secondary = max(len(pairs), book.secondary)
    for r, base in pairs:
        _compare(r, base, ALPHA * _share(r, base, comparison, book, seeds[r.env])[0] / secondary)
    arms = [r.arm for r, _ in main]
    several = [arm for arm in dict.fromkeys(arms) if arms.count(arm) > 1]
    overall = [_overall(arm, main, first, _not_final(arm, main, comparison, book, seeds)) for arm in several]
    early = {env: earlier for env in seeds if (earlier := [n for n in book.of(env).shown if n < seeds[env]])}
    _record(comparison, book, main, overall, seeds)
    if main:
        book.show(compared, secondary)
    results = [*scored, *(r for found in others for r in found)]
    return Judgement(question, baseline, results, overall, first, _lost(comparison, results), late, early)


def _record(
    comparison: Comparison,
    book: LookBook,
    main: list[tuple[Result, Result]],
    overall: list[Overall],
    seeds: dict[str, int],
) -> None:
    """Note in the book the looks that verdicts were: over all environments, at each of them; and the looks without."""
    decided = {o.arm for o in overall if _could_decide(o.verdict)}
    for arm in decided:
        book.take_overall(_key(arm, main, comparison))
    for r, base in main:
        assert r.verdict is not None
        for x in (base, r):
            if any(why in STILL_COMING for why in x.missing.values()):  # seeds that only other arms have never were to
                never = sum(why == "never ran" for why in x.missing.values())
                book.wait(r.env, comparison.id_of(r.env, x.arm), x.planned - never)
        if _could_decide(r.verdict) or r.arm in decided:
            book.take(r.env, seeds[r.env], _seeds(base, comparison), _seeds(r, comparison))
        elif r.verdict.why.startswith(TOO_FEW):
            book.show_early(r.env, seeds[r.env])


def _key(arm: str, main: list[tuple[Result, Result]], comparison: Comparison) -> list[str]:
    """What a verdict over environments is given on."""
    return sorted(f"{r.env} {comparison.id_of(r.env, arm)}" for r, _ in main if r.arm == arm)


def _seeds(r: Result, comparison: Comparison) -> Seeds:
    """The seeds that were scored."""
    every = {sample.seed for sample in r.task.arms.get(r.arm, ())} | r.task.absent.get(r.arm, {}).keys()
    return Seeds(r.arm, comparison.id_of(r.env, r.arm), spans(every - r.missing.keys()))


def _coming(r: Result, base: Result) -> list[int]:
    """Seeds of either arm that may yet have a score."""
    return [seed for x in (r, base) for seed, why in x.missing.items() if why in STILL_COMING]


def _not_final(
    arm: str, main: list[tuple[Result, Result]], comparison: Comparison, book: LookBook, seeds: dict[str, int]
) -> str:
    """Why there is no verdict over all environments yet, which is given once, at the last look at each of them."""
    pending = {env: [*arms.get(arm, {}).values()] for env, arms in comparison.pending.items()}
    judged = {r.env: base.arm for r, base in main if r.arm == arm}
    pair = arm, *judged.values()
    for task in comparison.tasks:  # where this arm, or the baseline, has no score yet
        if task.env not in judged and (arm in task.arms or arm in task.absent):
            pending[task.env] = [why for name in pair for why in task.absent.get(name, {}).values()]
    if coming := [env for env, reasons in pending.items() if any(why in STILL_COMING for why in reasons)]:
        return f"{', '.join(coming)} {'are' if len(coming) > 1 else 'is'} still to come"
    key = _key(arm, main, comparison)
    for given in book.overall if key not in book.overall else ():
        if {*given} & {*key}:
            return f"the verdict over environments was given on {len(given)}"
    early = [r.env for r, _ in main if r.arm == arm and book.of(r.env).planned[-1:] not in ([], [seeds[r.env]])]
    return f"it is told at the last look at each, not yet that at {early[0]}" if early else ""


def _could_decide(verdict: Verdict) -> bool:
    """Whether the seeds could have given better, worse or equivalent, so that this was a look at them."""
    return verdict.word != "interim" and not verdict.why.startswith(TOO_FEW)


def _lost(comparison: Comparison, results: list[Result]) -> dict[tuple[str, str], dict[int, str]]:
    """Arms none of whose seeds can be compared, though some ran: by environment and name, with the reasons."""
    scored = {(r.env, r.arm) for r in results if len(r.scores)}
    absent = {(task.env, arm): seeds for task in comparison.tasks for arm, seeds in task.absent.items()}
    absent |= {(env, arm): seeds for env, arms in comparison.pending.items() for arm, seeds in arms.items()}
    ran = {
        key: {seed: why for seed, why in seeds.items() if why not in (*STILL_COMING, "never ran")}
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


def _share(r: Result, base: Result, comparison: Comparison, book: LookBook, seeds: int) -> tuple[float, str]:
    """Share of the error that this look may spend; or why it is an interim one, whose interval is for all of it."""
    looks = book.of(r.env)
    if coming := _coming(r, base):
        return 1.0, f"{len(coming)} of {r.planned + base.planned} seeds are still to come"
    pair = _seeds(r, comparison), _seeds(base, comparison)
    given = looks.seeds.get(seeds, {})
    known = all(given.get(x.id) == x.named for x in pair)  # a verdict on these very seeds stays
    for x in (r, base) if not known else ():
        wanted = looks.awaited.get(comparison.id_of(r.env, x.arm), 0)
        if wanted > x.planned - sum(why in GIVEN_UP for why in x.missing.values()):
            return 1.0, f"{wanted} seeds of {x.arm} were to come when differences were first shown; train the others"
    share = looks.share(seeds)
    if share is None:
        return 1.0, looks.why_interim(seeds)
    return share, looks.changed(seeds, *pair)


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


def _overall(arm: str, main: list[tuple[Result, Result]], tests: int, not_final: str) -> Overall:
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


def _counted(pairs: list[tuple[Result, Result]]) -> str:
    """How many seeds were scored, over all environments, if some are missing or diverged."""
    parts = []
    for side in zip(*pairs, strict=True):
        scored, planned = sum(len(r.scores) for r in side), sum(r.planned for r in side)
        diverged = sum(r.diverged for r in side)
        told = f" ({diverged} diverged)" if diverged else ""
        parts.append(f"{scored} of {planned} seeds of {side[0].arm}{told}" if scored < planned or diverged else "")
    return " and ".join(filter(None, parts))
